"""MCP: transports, sessions, and the tools as clients see them."""

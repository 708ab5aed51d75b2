"""MCP: transports, sessions, the tools as clients see them."""

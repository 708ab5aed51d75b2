"""MCP servers of others: how they authorize, what they offer, and calls of their tools."""

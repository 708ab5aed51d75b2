"""`mcp ...`: MCP servers of others behind the vault."""

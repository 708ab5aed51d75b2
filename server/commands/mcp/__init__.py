"""`mcp ...`: external MCP servers behind the vault."""

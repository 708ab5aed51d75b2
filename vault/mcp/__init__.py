"""What stands behind the vault once an admin reviewed its tools: MCP servers of others, and imported APIs."""

"""MCP servers of others behind the vault, as an operator and this process handle them."""

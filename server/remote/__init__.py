"""MCP servers of others and imported APIs behind the vault, as an operator and this process handle them."""

"""MCP servers of others that stand behind the vault."""

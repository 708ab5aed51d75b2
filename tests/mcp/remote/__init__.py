"""Third-party MCP servers behind the vault."""

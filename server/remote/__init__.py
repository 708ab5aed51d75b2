"""Other MCP servers and imported APIs behind the vault: set up, reviewed, and called."""

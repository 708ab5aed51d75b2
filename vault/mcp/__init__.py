"""Other MCP servers and imported APIs, which agents can use through the vault after an admin reviews their tools."""

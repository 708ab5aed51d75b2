"""What agents can use through the vault once an admin reviewed its tools: other MCP servers, and imported APIs."""

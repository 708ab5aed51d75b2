"""Setting up providers and MCP clients."""

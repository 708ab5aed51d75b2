"""Other MCP servers: how they authorize, what they offer, and calls of their tools."""

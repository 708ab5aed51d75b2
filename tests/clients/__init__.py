"""A torture kit for authorization servers of MCP: plays what real clients do to their tokens, and counts sign-ins."""

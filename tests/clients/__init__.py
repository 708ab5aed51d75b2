"""A stress test for MCP authorization servers: plays what real clients do with their tokens and counts sign-ins."""

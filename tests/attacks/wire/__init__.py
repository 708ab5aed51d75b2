"""Attacks on the transports: raw HTTP, MCP, the stdio bridge, and the proxy."""

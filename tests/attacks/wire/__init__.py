"""Attacks on what carries calls: HTTP below everything, the MCP transports, the stdio bridge, and the proxy."""

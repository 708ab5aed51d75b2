"""The official MCP conformance suite against a running vault: `make conformance`."""

"""Tests of the MCP endpoints and the bridge."""

"""Who may do what, over which wire: authorization server, pages, MCP transports, command line."""

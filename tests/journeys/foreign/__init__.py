"""Programs of others at the vault, and servers of others as its providers: clients, agent SDKs, OAuth servers."""

"""What stands between a client and the vault in tests, and bytes as they travel: proxies, TLS, and HTTP/1.1."""

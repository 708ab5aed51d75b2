"""What is between a client and the vault in tests, and the bytes on the wire: proxies, TLS, and HTTP/1.1."""

"""Token exchange at `/token` (RFC 8693)."""

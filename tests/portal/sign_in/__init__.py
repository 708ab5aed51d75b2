"""Signing in: passwords, passkeys, OpenID Connect, and confirming a sign-in for a single page."""

"""Signing in: passwords, passkeys, OpenID Connect, and proving more for one page."""

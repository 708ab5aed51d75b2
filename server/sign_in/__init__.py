"""Signing people in: passwords, OpenID Connect."""

"""Credentials that people enter: their shape, and their place in requests. Pure."""

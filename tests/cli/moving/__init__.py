"""Bringing accounts in and taking them out, by commands."""

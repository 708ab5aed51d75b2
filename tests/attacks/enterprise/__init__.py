"""Attacks through a company: its identity provider, its directory, its groups, and its signals."""

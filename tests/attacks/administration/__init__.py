"""Attacks on administration: pages, the Admin API, and imports."""

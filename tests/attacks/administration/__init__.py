"""Attacks on what admins do: their pages, the Admin API, and what they import."""

"""Databases: one SQL text, the two drivers, schema and locks."""

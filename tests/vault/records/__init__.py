"""Tests of tables, keys and the activity."""

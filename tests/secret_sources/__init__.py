"""Tests of secrets that are stored elsewhere."""

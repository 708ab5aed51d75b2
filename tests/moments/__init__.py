"""Tests that depend on the moment at which they run: `make moments` finds them."""

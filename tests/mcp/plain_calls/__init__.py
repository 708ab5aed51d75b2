"""The fast path: calls that are read and answered in one step."""

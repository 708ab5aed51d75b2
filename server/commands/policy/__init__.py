"""`policy ...`."""

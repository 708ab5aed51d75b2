"""The simulator's Google."""

"""The simulator's GitHub."""

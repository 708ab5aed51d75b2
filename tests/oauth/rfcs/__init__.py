"""The authorization server against the standards that it follows: one file per RFC."""

"""`export`: accounts with their tokens, for another program."""

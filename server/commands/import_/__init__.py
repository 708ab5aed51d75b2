"""`import ...`: accounts that people connected in another vault, with a command for each kind of source."""

"""`import ...`: accounts that people connected in another vault, a file for each kind of source."""

"""`signals ...`: sources of events about people."""

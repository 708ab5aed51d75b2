"""Attacks on the record of what happened, and by a vault that went back in time."""

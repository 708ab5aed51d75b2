"""Attacks on the activity log, and by a vault that went back in time."""

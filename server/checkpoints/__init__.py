"""Sign checkpoints of the activity, get witnesses and time stamps, and copy them off this host."""

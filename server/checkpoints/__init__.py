"""Sign checkpoints of the activity, have them cosigned and time-stamped, and copy them off this host."""

"""Where signed checkpoints of the activity go, so that they outlive this host: made, witnessed, stamped, copied."""

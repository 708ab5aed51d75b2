"""`requests ...`: access requests and their answers."""

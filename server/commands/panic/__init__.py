"""`panic`: end many accesses at once, also at the providers."""

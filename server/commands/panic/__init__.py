"""`panic`: end a lot of access at once, also at the providers."""

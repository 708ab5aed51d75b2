"""`panic`: end much at once, at the providers too."""

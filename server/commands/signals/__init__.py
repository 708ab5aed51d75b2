"""`signals ...`: what tells this vault about people elsewhere."""

"""`groups ...`: groups of people, and who is in them."""

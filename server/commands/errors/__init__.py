"""`errors CODE`: what an error code means, and what to do."""

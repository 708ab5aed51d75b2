"""`apply FILE`: apply a declaration."""

"""`apply FILE`: what a declaration says, made so."""

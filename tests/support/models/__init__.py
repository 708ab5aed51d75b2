"""Models that visit every interleaving, using the rules of the product."""

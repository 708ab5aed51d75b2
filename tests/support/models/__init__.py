"""Models that visit every interleaving, with the rules that the product uses."""

"""The activity: its chain, proof, segments, repeats, and search."""

"""The activity: append-only events in a chain, its proof, its segments, and refusals that repeat."""

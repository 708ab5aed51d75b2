"""The activity: append-only chained events, their proof, their segments, and repeated refusals."""

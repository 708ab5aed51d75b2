"""What a person approves: one call with exactly its arguments, or calls like it until a date."""

"""Pages on which a person answers for an agent: one call, or calls like it until a date."""

"""Pages on which a person answers an agent's request: for one call, or for similar calls until a date."""

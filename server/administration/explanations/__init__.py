"""What rules and permissions mean for an agent, explained step by step. Changes nothing."""

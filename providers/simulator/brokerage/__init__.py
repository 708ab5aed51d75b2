"""The simulator's brokerage."""

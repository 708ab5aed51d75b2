"""`webhooks ...`: endpoints of the operator's that hear what happens to accounts."""

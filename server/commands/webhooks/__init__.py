"""`webhooks ...`: the operator's endpoints for account events."""

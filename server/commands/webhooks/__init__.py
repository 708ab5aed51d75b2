"""`webhooks ...`: the operator's endpoints that get events of accounts."""

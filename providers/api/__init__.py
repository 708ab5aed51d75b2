"""Calls to a provider's API: request rules, paging, retries."""

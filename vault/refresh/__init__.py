"""Refreshing upstream tokens so that none is lost: rules, leases, the answer journal, recovery."""

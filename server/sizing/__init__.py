"""`token-vault bench`: measure this machine with a temporary vault.

`place` creates and removes the vault, `load` sends requests and simulates the provider, and `measurements` measures.
"""

"""`token-vault bench`: what this machine can do, measured with a temporary vault.

`place` makes the vault and ends it, `load` sends requests and answers for the provider, `measurements` takes the
figures.
"""

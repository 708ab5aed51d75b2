"""`token-vault bench`: what this machine can do, measured with the product itself on a vault that is gone afterwards.

`place` makes the vault and ends it, `load` sends requests and answers for the provider, `measuring` takes the figures.
"""

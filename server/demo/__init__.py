"""`token-vault demo`: the whole story against the sandbox."""

"""`token-vault demo`: connect, call, and revoke against the sandbox."""

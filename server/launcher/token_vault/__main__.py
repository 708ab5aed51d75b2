"""`python -m token_vault` is the `token-vault` program."""

from __future__ import annotations

from token_vault import main

main()

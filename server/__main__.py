"""`python -m server` is the `token-vault` program."""

from __future__ import annotations

from server.cli import main

main()

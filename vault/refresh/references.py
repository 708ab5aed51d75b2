"""Credentials whose secrets are kept elsewhere: what the exchange needs from the reader of the operator's sources.

The sealed value then says where the secret is. The secret is read for each use, after the decision, and for each
renewal.
"""

from __future__ import annotations

from typing import Protocol


class References(Protocol):
    """Reads the secrets that a token refers to."""

    def source_of(self, provider: str, token: str) -> str:
        """The names of the sources, such as `bao`; empty for a token that holds its secrets itself."""
        ...

    async def read(self, provider: str, token: str) -> str:
        """The token with the secrets. Raises TemporarilyUnavailable."""
        ...

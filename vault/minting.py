"""Tokens of our own for an API that verifies them itself: what the exchange asks of whoever holds the signing key.

Such an API is a provider whose policy names an `audience`. There is nothing to keep for it: each exchange makes a token
of exactly its scopes, so a connection there holds the person's consent and nothing else. How one is signed is
`server.oauth.own_apis`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from vault.records import Principal


@dataclass(frozen=True, slots=True)
class Minted:
    """A token, and when it ends."""

    value: str = field(repr=False)
    expires_at: int


class Mint(Protocol):
    """Makes a token about the principal's person, for its agent."""

    def __call__(self, principal: Principal, *, audience: str, scopes: frozenset[str], now: int) -> Minted: ...

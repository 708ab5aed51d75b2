"""Tokens of our own for an API that verifies them itself: what the exchange needs from the holder of the signing key.

Such an API is a provider whose policy has an `audience`. The vault stores no token for it: each exchange mints one with
exactly its scopes, so a connection there holds only the person's consent. `server.oauth.own_apis` signs.
"""

from __future__ import annotations

from dataclasses import field
from typing import Protocol

from vault.classes.immutable import immutable
from vault.records import Principal


@immutable
class MintedToken:
    """A token, and when it ends."""

    value: str = field(repr=False)
    expires_at: int


class Mint(Protocol):
    """Mints a token for the principal's person and agent."""

    def __call__(self, principal: Principal, *, audience: str, scopes: frozenset[str], now: int) -> MintedToken: ...

"""Access tokens for an API with an `audience` in its provider file, one for each exchange.

RFC 9068 tokens like all of ours, verified there by our published keys: `sub` is the person, `azp` and `client_id` the
agent, `act` the actor chain, `scope` exactly what was exchanged. They are not valid at the vault itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.oauth import tokens
from server.settings import Settings
from vault.keys.key_ring import KeyRing
from vault.records import Principal
from vault.refresh.mint import MintedToken

LONGEST: Final = 300  # seconds; an API that only checks the signature notices the end of a permission this late


@dataclass(frozen=True, slots=True)
class OwnApis:
    """Signs for this issuer."""

    settings: Settings
    keys: KeyRing

    def __call__(self, principal: Principal, *, audience: str, scopes: frozenset[str], now: int) -> MintedToken:
        ends = now + min(LONGEST, self.settings.tokens.access_lifetime)
        if principal.expires_at is not None:
            ends = min(ends, principal.expires_at)
        facts = tokens.AccessTokenFacts(
            issuer=self.settings.issuer,
            user_id=principal.user_id,
            client_id=principal.client_id,
            grant_id=principal.grant_id,
            audience=audience,
            scopes=scopes,
            actors=principal.actors,
            parent=principal.token_id,
        )
        return MintedToken(tokens.sign(self.keys, facts, now=now, expires_at=ends), expires_at=ends)

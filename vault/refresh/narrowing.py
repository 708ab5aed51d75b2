"""Get a narrower token from the full access token, if the provider supports it. This uses up no token, so none can be
lost.

It needs no lease, intent or journal: two processes that do this concurrently get two valid tokens, and the later one is
kept. `vault.refresh.rotation` calls this, after a refresh if one is needed.
"""

from __future__ import annotations

import logging
from dataclasses import field
from typing import assert_never

from vault.audit import audit
from vault.classes.immutable import immutable
from vault.connections import ACCESS_TOKEN, narrowed_token
from vault.refresh import leases
from vault.refresh.accounts import MARGIN, skew_of
from vault.refresh.concurrency import UpstreamTokenRequest, Vault
from vault.refresh.leases import ConnectionFacts
from vault.refresh.refresh_request import (
    BROKEN_PAUSE,
    SOON,
    event_of,
    is_about_us,
    pause_for,
    proves,
    refusal_of_unsent,
    without_narrow,
)
from vault.refusals import ConnectionRequired, TemporarilyUnavailable, VaultError
from vault.upstream import NotSent, Refusal, Rotation, Silent, TokenAnswer, UpstreamOAuth, UpstreamPolicy

log = logging.getLogger("token_vault.rotation")

PARENT_IS_DEAD = "invalid_token"


def is_good_parent(facts: ConnectionFacts, *, policy: UpstreamPolicy, now: int) -> bool:
    """Whether the full token lives long enough to get a narrower one from it. A narrowed token ends with its full
    token, so an old full token is refreshed first, unless a refresh would end every token in use.
    """
    if facts.access_sealed is None:
        return False
    if facts.access_expires_at is None:
        return True
    skew = skew_of(facts.refreshed_at, facts.access_expires_at)
    left = facts.access_expires_at - now
    return left > (min(MARGIN, skew // 2) if policy.refresh_ends_access_token else skew)


@immutable
class Narrower:
    """One request for a narrower token, and the connection whose full token it is made from."""

    vault: Vault
    upstream: UpstreamOAuth
    policy: UpstreamPolicy
    facts: ConnectionFacts
    request: UpstreamTokenRequest
    scopes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scopes", self.request.scopes or frozenset())

    async def make(self) -> int | None:
        """The generation of the new token; None: the full token has ended."""
        facts = self.facts
        if facts.access_sealed is None:
            return None
        key = facts.key(self.vault.keys)
        parent = key.open(
            facts.access_sealed,
            purpose=ACCESS_TOKEN,
            provider=facts.provider,
            account=facts.account,
            generation=facts.access_generation,
        )
        answer = await self._ask(parent)
        if answer is None:
            return None
        generation = max(facts.narrowed_generation, facts.access_generation) + 1
        sealed = key.seal(
            answer.access_token,
            purpose=narrowed_token(self.request.scope_key),
            provider=facts.provider,
            account=facts.account,
            generation=generation,
        )
        return generation if await self._keep(sealed, answer, generation=generation) else None

    async def _ask(self, parent: str) -> TokenAnswer | None:
        """An answer that proves its scopes; None: the provider no longer accepts the full token."""
        facts = self.facts
        outcome = await self.upstream.narrow(parent, self.scopes, item=self.request.item)
        match outcome:
            case Rotation() if proves(outcome.answer, self.scopes, policy=self.policy):
                return outcome.answer
            case Rotation():
                raise await without_narrow(self.vault, facts, request=self.request, answered=outcome.answer.scopes)
            case Refusal(code=code) if code == PARENT_IS_DEAD:
                return None
            case Refusal():
                raise await self._refusal(outcome)
            case NotSent():
                refused = refusal_of_unsent(facts, outcome)
                if outcome.retry_after is not None:
                    pause_for(self.vault, facts, request=self.request, refused=refused)
                raise refused
            case Silent():
                raise TemporarilyUnavailable(
                    f"{facts.provider} didn't answer. The account stays connected.",
                    retry_after=SOON,
                    detail=outcome.reason,
                )
            case _:
                assert_never(outcome)

    async def _keep(self, sealed: bytes, answer: TokenAnswer, *, generation: int) -> bool:
        """Store the new token; False when another process's refresh ended it together with its full token."""
        facts, database = self.facts, self.vault.database
        now = database.now()
        async with database.transaction() as transaction:
            current = await leases.read(transaction, facts.connection_id)
            if current is None or current.is_ended:
                raise ConnectionRequired(
                    "This account was disconnected. Connect it again on the Accounts page.",
                    provider=facts.provider,
                    reason="missing",
                    scopes=self.scopes,
                )
            if self.policy.refresh_ends_access_token and current.access_generation != facts.access_generation:
                return False
            await leases.store_narrowed(
                transaction,
                facts.connection_id,
                scope_key=self.request.scope_key,
                sealed=sealed,
                at=(generation, now, self._expiry(answer, now=now)),
            )
            event = event_of(
                facts, "connection.narrowed", outcome="ok", narrowed_to=sorted(self.scopes), item=self.request.item
            )
            await audit.append(transaction, event, now=now)
        return True

    def _expiry(self, answer: TokenAnswer, *, now: int) -> int:
        """When the new token expires: when the provider says, but never after its parent."""
        ends = now + (self.policy.access_lifetime if answer.expires_in is None else answer.expires_in)
        parent = self.facts.access_expires_at
        return ends if parent is None else min(ends, parent)

    async def _refusal(self, refused: Refusal) -> VaultError:
        if not is_about_us(refused.code):
            return await without_narrow(self.vault, self.facts, request=self.request, reason=refused.code)
        log.error("provider refused our request", extra={"provider": self.facts.provider, "code": refused.code})
        said = TemporarilyUnavailable(
            f"{self.facts.provider} rejected this server's request ({refused.code}). Ask an admin to check its "
            f"registration under Administration, Providers, or with token-vault providers setup {self.facts.provider}",
            retry_after=BROKEN_PAUSE,
        )
        pause_for(self.vault, self.facts, request=self.request, refused=said)
        await self.vault.activity.record(event_of(self.facts, "narrowing.failed", reason=refused.code))
        return said

"""Which owners' sends of a refresh token have an unknown result, which owners are gone, and whether to send the token
again.

Loads the facts for `vault.refresh.rules` and puts its decision into words. `vault.refresh.rotation` acts on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from vault.refresh import leases
from vault.refresh.concurrency import Vault
from vault.refresh.leases import ConnectionFacts
from vault.refresh.rules import LEASE, SendDecision, UnresolvedSends, may_claim, may_send
from vault.refusals import ConnectionRequired, ProviderSilent, TemporarilyUnavailable, VaultError
from vault.upstream import UpstreamPolicy


async def holder_is_gone(vault: Vault, facts: ConnectionFacts) -> bool:
    """Whether the lease's own holder has certainly ended."""
    if facts.lease_owner is None or facts.lease_owner == vault.owner:
        return False
    return await vault.database.is_dead(facts.lease_owner, certainly=True)


async def is_free(vault: Vault, facts: ConnectionFacts, *, now: int) -> bool:
    """Whether the lease may be taken."""
    if may_claim(lease_until=facts.lease_until, now=now, holder_is_gone=False):
        return True
    _seconds_watched(vault, facts, now=now)
    gone = await holder_is_gone(vault, facts)
    return may_claim(lease_until=facts.lease_until, now=now, holder_is_gone=gone)


def _seconds_watched(vault: Vault, facts: ConnectionFacts, *, now: int) -> int:
    """How many seconds this process has watched the last claim without an end."""
    return vault.tasks.watches.seconds(facts.connection_id, facts.fence, now=now)


async def unresolved_sends(vault: Vault, facts: ConnectionFacts) -> tuple[UnresolvedSends, ...]:
    """The sends of the row's refresh token that have no reported result.

    Our own sends are settled: this process sends one at a time per connection, and the caller holds the turn.
    """
    if facts.sent_at is None:
        return ()
    found = await leases.list_unresolved(vault.database, facts)
    over = await _ended_owners(vault, found)
    return _mark_settled(found, over)


async def unresolved_sends_page(
    vault: Vault, page: Sequence[ConnectionFacts]
) -> Mapping[str, tuple[UnresolvedSends, ...]]:
    """Like `unresolved_sends`, for at most `leases.PAGE` connections at once, by connection."""
    found = await leases.list_unresolved_page(vault.database, [facts for facts in page if facts.sent_at is not None])
    over = await _ended_owners(vault, [one for sends in found.values() for one in sends])
    return {connection_id: _mark_settled(sends, over) for connection_id, sends in found.items()}


async def _ended_owners(vault: Vault, sends: Iterable[UnresolvedSends]) -> Collection[str]:
    """The owners that can no longer bring an answer; each is checked once."""
    owners = {one.owner for one in sends if not one.is_settled}
    return [owner for owner in owners if owner == vault.owner or await vault.database.is_dead(owner)]


def _mark_settled(sends: Iterable[UnresolvedSends], over: Collection[str]) -> tuple[UnresolvedSends, ...]:
    return tuple(replace(one, is_settled=one.is_settled or one.owner in over) for one in sends)


async def settle_gone(vault: Vault) -> None:
    """Record the owners whose sends can no longer be answered, while there is proof of it."""
    for owner in await leases.unsettled_owners(vault.database):
        if owner != vault.owner and await vault.database.is_dead(owner, certainly=True):
            async with vault.database.transaction() as transaction:
                await leases.settle_all(transaction, owner, now=vault.database.now())


def silent(facts: ConnectionFacts, *, wait: int, detail: str = "") -> ProviderSilent:
    """The refusal while the vault waits for a provider that did not answer."""
    return ProviderSilent(
        f"{facts.provider} didn't answer the last refresh of {facts.label}. The vault retries "
        "automatically; you don't have to reconnect this account.",
        retry_after=wait,
        detail=detail,
    )


async def refusal(
    vault: Vault,
    facts: ConnectionFacts,
    *,
    policy: UpstreamPolicy,
    now: int,
    spoiled: int = 0,
    sends: Sequence[UnresolvedSends] | None = None,
) -> VaultError | None:
    """Why a refresh has to wait for the answer of an earlier one, or for the person; None when it may be sent.

    `spoiled`: the API refused full access tokens up to this generation, so none is left to use up. The person is asked
    only after this process has watched for the length of a lease: going by the recorded time, that would happen at once
    if our clock or the writer's were wrong. `sends`: the result of `unresolved_sends`, if already read.
    """
    if sends is None:
        sends = await unresolved_sends(vault, facts)
    expires_at = now if spoiled >= facts.access_generation else facts.access_expires_at

    def may_be_sent(*, expires_at: int | None, retry_at: int | None) -> bool:
        decided = may_send(policy, sends, now=now, access_expires_at=expires_at, retry_at=retry_at)
        return decided is SendDecision.SEND

    if may_be_sent(expires_at=expires_at, retry_at=facts.retry_at):
        vault.tasks.watches.forget(facts.connection_id)
        return None
    if all(one.is_settled for one in sends):
        pause_ends = None if may_be_sent(expires_at=now, retry_at=facts.retry_at) else facts.retry_at
        token_ends = None if may_be_sent(expires_at=expires_at, retry_at=None) else expires_at
        return silent(facts, wait=max(pause_ends or now, token_ends or now) - now)
    watched = _seconds_watched(vault, facts, now=now)
    if watched >= LEASE:
        return ConnectionRequired(
            f"{facts.provider} never answered the last refresh of {facts.label}, so the connection may "
            "be dead. Reconnect this account.",
            provider=facts.provider,
            reason="ambiguous",
            scopes=facts.scopes,
            connection_id=facts.connection_id,
        )
    return TemporarilyUnavailable(
        f"{facts.provider} hasn't answered the last refresh yet.", retry_after=LEASE - watched
    )

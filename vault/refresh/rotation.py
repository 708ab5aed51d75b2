"""Refresh an upstream token so that it is never lost: one send at a time, recorded before it leaves.

A refresh claims a lease and an intent in one commit, sends once, and stores the answer with compare-and-set before
anyone uses it. It runs as a task that no caller can cancel; callers in one process share it, other processes watch the
row. A send without an answer leaves its intent behind: it is then unknown whether the token was used, and
`vault.refresh.rules` decides who may send it again, and when. A failure never deletes tokens.

`vault.refresh.concurrency` keeps the order in this process, `vault.refresh.leases` has the SQL,
`vault.refresh.refresh_request` sends and stores; `vault.exchange` decides who may have which token.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence

from vault.audit.audit import append
from vault.records import ConnectionState
from vault.refresh import assertions, attempts, journal_recovery, leases, narrowing, refused_keys, takeover
from vault.refresh.accounts import HeldAccount, HeldToken
from vault.refresh.concurrency import RefreshTasks, UpstreamTokenRequest, Vault, growing_waits
from vault.refresh.leases import ConnectionFacts, Lease
from vault.refresh.refresh_request import BROKEN_PAUSE, Spender, event_of, needs_reauth, open_refresh_token
from vault.refresh.rules import UnresolvedSends, is_claim_void
from vault.refusals import (
    CiphertextRejected,
    ConnectionRequired,
    ProviderSilent,
    StorageUnavailable,
    TemporarilyUnavailable,
    VaultError,
)
from vault.scopes import derives
from vault.spans import span
from vault.storage.clock import boot_time
from vault.upstream import CredentialKind, UpstreamPolicy

__all__ = ["RefreshTasks", "Vault", "keep_fresh", "not_set_up", "obstacle", "refresh", "refresh_ahead"]

log = logging.getLogger("token_vault.rotation")

PATIENCE = 15.0  # seconds that a caller waits
_SPREAD = 0.25  # fraction of the refresh-ahead time
WATCH = (0.01, 0.1)  # seconds between reads of a row that another process is refreshing


async def refresh(
    vault: Vault,
    connection_id: str,
    *,
    scopes: frozenset[str] | None = None,
    item: str | None = None,
    if_generation: int,
    spoiled: int = 0,
) -> int:
    """The generation of a token newer than `if_generation`, fetched by this caller, another caller or another process.

    `spoiled` is the generation of the newest full access token that its API refused. Cancelling the caller leaves the
    refresh running. Raises ConnectionRequired, TemporarilyUnavailable and CiphertextRejected; none of them loses a
    token.
    """
    request = UpstreamTokenRequest(connection_id, if_generation, scopes=scopes, item=item, spoiled=spoiled)
    vault.tasks.waits += 1
    task = vault.tasks.join(request, lambda: _fly(vault, request))
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    if not done:
        raise TemporarilyUnavailable("The provider is slow to answer. The vault keeps its answer when it arrives.")
    outcome = task.result()
    if isinstance(outcome, VaultError):
        raise outcome.with_traceback(None)  # shared by all waiting callers: each starts its own traceback
    return outcome


def refresh_ahead(vault: Vault, connection_id: str, *, provider: str, if_generation: int) -> None:
    """Queue a refresh that no caller waits for, while the token is still valid."""
    _ahead(vault, provider, UpstreamTokenRequest(connection_id, if_generation))


def _ahead(vault: Vault, provider: str, request: UpstreamTokenRequest) -> None:
    if not vault.tasks.seconds_paused(request, now=vault.database.now()):
        name = (request.connection_id, request.scope_key)
        vault.tasks.queues.queue(provider, name, lambda: vault.tasks.join(request, lambda: _fly(vault, request)))


def keep_fresh(vault: Vault, held: HeldAccount, token: HeldToken, *, request: UpstreamTokenRequest, now: int) -> None:
    """Arrange for a token in use to be replaced before it expires: now if it is due, otherwise by a timer. If a refresh
    ends the old token, which other processes or agents may be using, it does nothing, and the token is used until it
    expires. `request` asks for the token after `token`.
    """
    if held.provider not in vault.policies:
        return
    policy = vault.policy_of(held.provider, held.renewed_by)
    if policy.refresh_ends_access_token or not held.may_refresh(policy, now=now):
        return
    if token.is_ageing(now):
        if not held.is_leased(now):
            _ahead(vault, held.provider, request)
        return
    due_at = token.ageing_at
    if due_at is None or vault.tasks.timers.is_made(held.id, request.scope_key, generation=token.generation):
        return
    spread = token.skew * _SPREAD * secrets.randbelow(1000) / 1000  # spreads simultaneous refreshes
    vault.tasks.timers.make(request, after=due_at - now + spread, keep=lambda: _ahead(vault, held.provider, request))


async def _fly(vault: Vault, request: UpstreamTokenRequest) -> int | VaultError:
    """The task's body: refusals are values, because all callers share them; anything else is a defect and is logged."""
    try:
        return await vault.tasks.take_turn(
            request.connection_id, lambda: _get(vault, request) if request.scopes is None else _narrow(vault, request)
        )
    except VaultError as refusal:
        log.debug("refresh refused", extra={"connection": request.connection_id, "code": refusal.code})
        return refusal


async def _narrow(vault: Vault, request: UpstreamTokenRequest) -> int:
    """A token with less authority, by a refresh or from the full token, which is refreshed first if it is old.

    A full token that the provider no longer accepts is also refreshed once.
    """
    dead = 0
    for _ in range(2):
        facts, newer, now = await _look(vault, request)
        if newer is not None:
            return newer
        policy = _policy(vault, facts)
        if not derives(policy):
            return await _get(vault, request)
        if facts.access_generation <= dead or not narrowing.is_good_parent(facts, policy=policy, now=now):
            await _get(vault, UpstreamTokenRequest(request.connection_id, facts.access_generation, spoiled=dead))
            facts = await leases.read(vault.database, request.connection_id, scope_key=request.scope_key) or facts
        upstream = vault.upstream_of(facts.provider)
        if upstream is None:
            raise not_set_up(facts.provider)
        made = await narrowing.Narrower(vault, upstream, policy, facts=facts, request=request).make()
        if made is not None:
            return made
        dead = facts.access_generation
    raise TemporarilyUnavailable("The provider doesn't recognize its own token right now.")


async def _get(vault: Vault, request: UpstreamTokenRequest) -> int:
    """Read, claim and send, or watch the process that was first."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE - 1
    waits = growing_waits(*WATCH)
    await attempts.pay(vault, request.connection_id)
    while True:
        started = boot_time()
        facts, newer, now = await _look(vault, request)
        if newer is not None:
            return newer
        if await takeover.is_free(vault, facts, now=now):
            generation = await _in_place(vault, facts, request=request, read_at=started, until=give_up_at)
            if generation is not None:
                return generation
        if loop.time() >= give_up_at:
            raise TemporarilyUnavailable("This account is being refreshed.")
        await asyncio.sleep(next(waits))


async def _in_place(
    vault: Vault, facts: ConnectionFacts, *, request: UpstreamTokenRequest, read_at: float, until: float
) -> int | None:
    """Claim and send with a slot among the provider's refreshes.

    A caller that waited for the slot reads the row again and keeps the slot meanwhile: queueing again would wake
    everyone behind it for nothing.
    """
    loop, provider = asyncio.get_running_loop(), facts.provider
    at_once = await _enter(vault, provider, patience=until - loop.time())
    try:
        if not at_once:
            read_at = boot_time()
            facts, newer, now = await _look(vault, request)
            if newer is not None:
                return newer
            if not await takeover.is_free(vault, facts, now=now):
                return None
        return await _attempt(vault, facts, request=request, read_at=read_at)
    finally:
        vault.tasks.queues.leave(provider)


async def _enter(vault: Vault, provider: str, *, patience: float) -> bool:
    """Take a slot among the provider's refreshes; False when it took time, so the row must be read again."""
    try:
        return await vault.tasks.queues.enter(provider, patience=patience)
    except TimeoutError as error:
        raise TemporarilyUnavailable(f"Many accounts of {provider} are being refreshed.") from error


async def _attempt(
    vault: Vault, facts: ConnectionFacts, *, request: UpstreamTokenRequest, read_at: float
) -> int | None:
    """Claim a free lease and send once; None: read the row again."""
    now = vault.database.now()
    if await journal_recovery.adopt_if_ahead(vault, facts):
        return None
    policy = _policy(vault, facts)
    await _refuse_unresolved(vault, facts, policy=policy, now=now, spoiled=request.spoiled)
    spender = await _prepare(vault, facts, request=request, policy=policy)
    await vault.database.hold_liveness(vault.owner)
    await vault.journal.reserve(facts.connection_id, now=now, tokens=facts.answer_size)
    lease = await _claim(vault, facts, gone=facts.lease_owner if facts.is_leased(now) else None)
    if lease is not None and not is_claim_void(boot_time() - read_at):
        with span("refresh", provider=facts.provider):
            return await spender.spend(lease)
    if lease is not None:  # we slept: the decision may be stale
        await attempts.write(vault, facts.connection_id, attempts.undo_claim(vault, lease))
    return None


async def _look(vault: Vault, request: UpstreamTokenRequest) -> tuple[ConnectionFacts, int | None, int]:
    """Read the row. Refuses what can't be refreshed; returns the generation of a newer token if there is one, and the
    time."""
    facts = await leases.read(vault.database, request.connection_id, scope_key=request.scope_key)
    now = vault.database.now()
    if facts is None or facts.is_ended:
        raise ConnectionRequired(
            "This account was disconnected. Connect it again on the Accounts page.",
            provider="" if facts is None else facts.provider,
            reason="missing",
            scopes=request.scopes or frozenset(),
        )
    if facts.state is not ConnectionState.ACTIVE:
        raise needs_reauth(facts)
    newest = facts.access_generation if request.scopes is None else facts.narrowed_generation
    has_ended = request.scopes is None and facts.access_expires_at is not None and facts.access_expires_at <= now
    if newest > request.generation and not has_ended:  # an answer that was adopted late may have expired
        return facts, newest, now
    waiting = vault.tasks.seconds_paused(request, now=now, generation=facts.generation)
    if waiting:
        raise TemporarilyUnavailable(vault.tasks.why_paused(request), retry_after=waiting)
    closed_for = vault.tasks.breakers.waits(
        facts.provider, facts.connection_id, now=now, generation=facts.generation, answered_at=facts.refreshed_at
    )
    if closed_for:
        raise TemporarilyUnavailable(
            f"{facts.provider} isn't working with this server right now. The vault retries automatically.",
            retry_after=closed_for,
        )
    return facts, None, now


def _policy(vault: Vault, facts: ConnectionFacts) -> UpstreamPolicy:
    return vault.policy_of(facts.provider, facts.renewed_by)


async def _refuse_unresolved(
    vault: Vault, facts: ConnectionFacts, *, policy: UpstreamPolicy, now: int, spoiled: int
) -> None:
    """Refuse while a send of this token has an unknown result, unless sending it again is harmless."""
    refusal = await takeover.refusal(vault, facts, policy=policy, now=now, spoiled=spoiled)
    if refusal is None:
        return
    if isinstance(refusal, ConnectionRequired | ProviderSilent) and facts.lease_until is not None:
        async with vault.database.transaction() as transaction:
            await leases.lapse(transaction, facts)
    raise refusal


def not_set_up(provider: str) -> TemporarilyUnavailable:
    """The refusal while this provider is turned off by the operator."""
    return TemporarilyUnavailable(
        f"{provider} is no longer set up on this vault. Ask an admin to set it up.", retry_after=BROKEN_PAUSE
    )


async def obstacle(
    vault: Vault, facts: ConnectionFacts, *, now: int, sends: Sequence[UnresolvedSends] | None = None
) -> VaultError | None:
    """The refusal that a refresh of this connection would get before anything is sent. Changes nothing.

    `sends`: the result of `takeover.unresolved_sends`, if already read.
    """
    if facts.state is not ConnectionState.ACTIVE:
        return needs_reauth(facts)
    if not await takeover.is_free(vault, facts, now=now):
        return None  # its answer is on the way
    refusal = await takeover.refusal(vault, facts, policy=_policy(vault, facts), now=now, sends=sends)
    if refusal is not None:
        return refusal
    if facts.renewed_by is not None:
        return await assertions.obstacle(vault, facts)
    upstream = vault.upstream_of(facts.provider)
    if upstream is None:
        return not_set_up(facts.provider)
    return needs_reauth(facts) if facts.refresh_sealed is None else None


async def _claim(vault: Vault, facts: ConnectionFacts, *, gone: str | None) -> Lease | None:
    """Claim in one commit. A commit that fails may still have happened, so undo the claim then, since nothing was
    sent."""
    attempt = Lease.attempt(facts, owner=vault.owner)
    now = vault.database.now()
    try:
        async with vault.database.transaction() as transaction:
            return await leases.claim(transaction, facts, owner=vault.owner, now=now, gone=gone, attempt=attempt)
    except (StorageUnavailable, TemporarilyUnavailable):
        attempts.owe(vault, facts.connection_id, attempts.undo_claim(vault, attempt))
        raise


async def _prepare(
    vault: Vault, facts: ConnectionFacts, *, request: UpstreamTokenRequest, policy: UpstreamPolicy
) -> Spender:
    """Open the token to use, before claiming anything for it."""
    if facts.renewed_by is not None:
        asserted = await assertions.prepare(vault, facts, renew=refresh, scopes=request.scopes)
        key = facts.key(vault.keys)
        return Spender(
            vault,
            asserted.access,
            policy,
            facts=facts,
            request=request,
            key=key,
            refresh_token="",
            id_token=asserted.id_token,
        )
    upstream = vault.upstream_of(facts.provider)
    if upstream is None:
        raise not_set_up(facts.provider)
    if facts.refresh_sealed is None:
        if policy.credential is CredentialKind.KEY:
            await refused_keys.confirm(vault, facts, upstream)
        async with vault.database.transaction() as transaction:
            if await leases.end(transaction, facts, fence=facts.fence, reason="no_refresh_token"):
                event = event_of(facts, "connection.needs_reauth", reason="no_refresh_token")
                await append(transaction, event, now=vault.database.now())
        raise needs_reauth(facts)
    try:
        key = facts.key(vault.keys)
        refresh_token = open_refresh_token(key, facts)
    except CiphertextRejected:
        await vault.activity.record(event_of(facts, "connection.ciphertext_rejected", column="refresh_token"))
        raise
    return Spender(vault, upstream, policy, facts=facts, request=request, key=key, refresh_token=refresh_token)

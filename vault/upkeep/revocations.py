"""End a disconnected connection's grant at the provider, check that it is over, then destroy its key. After
`vault.connections.disconnect`, every call is already refused; only the provider's side is left. Each attempt revokes,
probes whether the tokens still work, and leaves a signed receipt (`vault.upkeep.receipts`). A revocation that failed,
or whose tokens still work, is retried with backoff for about three days and shown meanwhile. The tokens stay sealed
until it is done or given up; then the connection's key is destroyed, which deletes every copy of them. An answer that a
process journaled but couldn't commit before the disconnection has newer tokens: those are revoked instead. The model is
`tests/support/models/ending_model.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import field, replace

from joserfc.jwk import RSAKey

from vault import connections, tickets, users
from vault.audit.audit import append
from vault.classes.immutable import immutable
from vault.endings import ACCESS_TOKEN, HELD, REFRESH_TOKEN, SUPERSEDED, open_revocation
from vault.records import DAY, HOUR, TENANT, Event
from vault.refresh import grant_checks
from vault.refresh.concurrency import Vault
from vault.refresh.journal_recovery import hand_over
from vault.refusals import CiphertextRejected, StorageUnavailable, TemporarilyUnavailable
from vault.storage.database import Reader, Row, Transaction, Value, binary_or_none, integer, integer_or_none, text
from vault.upkeep import pauses, receipts
from vault.upkeep.receipts import AttemptVerdict, EndedGrant, Evidence, Receipt, ReceiptResult, judge
from vault.upstream import CredentialKind, NotSent, RevokeOutcome, Silent

log = logging.getLogger("token_vault.revocations")

BACKOFF = (30, 120, 600, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, DAY)  # seconds after each failure
OVERDUE = 300  # seconds after which a due attempt is late: every process looks twice a minute
BATCH = 100  # revocations per round of `run_due`
AT_ONCE = 5  # of these, how many at one provider at a time
PAUSE = 30  # seconds for all revocations at a provider that doesn't answer
LONGEST_PAUSE = HOUR  # longest pause in seconds that a provider can ask for
FRESH = 30  # seconds of life that an access token must have left for its refusal to prove anything
LEFT_OPEN = frozenset({"unsupported", "given_up", "unreadable", "alive"})  # the person can end the access there
FINISHED = frozenset({"revoked", "unsupported", "given_up", "unreadable"})  # outcomes after which the key is destroyed
UNREADABLE = AttemptVerdict(ReceiptResult.UNSUPPORTED, "unreadable", is_final=True, outcome="unreadable")
NO_REVOCATION = AttemptVerdict(ReceiptResult.UNSUPPORTED, "no_revocation", is_final=True, outcome="unsupported")
GAVE_UP = AttemptVerdict(ReceiptResult.UNREACHABLE, "gave_up", is_final=True, outcome="given_up")
OWED = {one.outcome: one for one in (UNREADABLE, NO_REVOCATION, GAVE_UP)}  # no further attempt will leave a receipt
NEWER_CONSENT = AttemptVerdict(ReceiptResult.STILL_ALIVE, "newer_consent", is_final=True, outcome="given_up")

_READ = """
    select r.connection_id, r.user_id, r.provider, r.sealed, r.attempts, r.outcome, r.next_at, r.created_at, r.done_at,
        k.account, k.label, k.access_expires_at, coalesce(k.reason, cast(:nothing as text)) as reason
    from upstream_revocations r
    join connections k on k.tenant = r.tenant and k.id = r.connection_id
    where r.tenant = :tenant
"""
_ONE = f"{_READ} and r.connection_id = :id"
_OF_USER = f"""
    {_READ} and r.user_id = :user_id and (r.done_at is null or r.created_at > :since) order by r.created_at desc
"""
_WAITING = f"{_READ} and r.done_at is null and r.next_at is not null order by r.next_at limit :limit"
# Leaves out the earlier consents of an account that its person has connected again: no one meant to end those.
_HELD_OPEN = f"""
    {_READ} and r.done_at is null and r.next_at is null and (k.reason is null or k.reason <> :superseded or not exists (
        select 1 from connections n
        where n.tenant = k.tenant and n.user_id = k.user_id and n.provider = k.provider and n.account = k.account
            and n.ended_at is null
    )) order by r.created_at limit :limit
"""  # noqa: S608  constants
_DUE = f"""
    {_READ} and r.provider = :provider and r.done_at is null and r.next_at <= :now order by r.next_at limit :limit
"""
# One attempt at a time: the process that changes the counter makes it, and the next is due only after the backoff.
_TAKE = """
    update upstream_revocations set attempts = attempts + 1, next_at = :next_at
    where tenant = :tenant and connection_id = :id and attempts = :attempts and done_at is null
"""
# The person's own newer grant of the account, or that of a group to which someone gave it; anyone's grant if ending one
# ends the account.
_HOLD = """
    update upstream_revocations set outcome = :held, next_at = null
    where tenant = :tenant and connection_id = :id and attempts = :attempts and done_at is null and (exists (
        select 1 from connections k
        where k.tenant = :tenant and k.provider = :provider and k.account = :account and k.ended_at is null
            and (k.user_id = :user_id or cast(:whole as bigint) = 1 or exists (
                select 1 from shared_connections s where s.tenant = k.tenant and s.connection_id = k.id
            ))
    ) or (cast(:account as text) = cast(:unknown as text) and exists (
        select 1 from connections k
        where k.tenant = :tenant and k.user_id = :user_id and k.provider = :provider and k.ended_at is null
    )))
"""
# The same ones: what was sent may have ended their grants, too, if they were stored since the claim.
_NEWER = """
    select k.id, k.user_id from connections k
    where k.tenant = :tenant and k.provider = :provider and k.account = :account and k.ended_at is null
        and (k.user_id = :user_id or cast(:whole as bigint) = 1 or exists (
            select 1 from shared_connections s where s.tenant = k.tenant and s.connection_id = k.id
        ))
    union
    select k.id, k.user_id from connections k
    where k.tenant = :tenant and k.user_id = :user_id and k.provider = :provider and k.ended_at is null
        and cast(:account as text) = cast(:unknown as text)
    limit :limit
"""
_DELETION = "select user_id from deletions where tenant = :tenant and user_id = :user_id"
_RELEASE_ALL = """
    update upstream_revocations set outcome = :pending, next_at = :now
    where tenant = :tenant and user_id = :user_id and outcome = :held and done_at is null
"""
_FINISH_DELETION = """
    delete from deletions where tenant = :tenant and user_id = :user_id and not exists (
        select 1 from upstream_revocations r
        where r.tenant = :tenant and r.user_id = :user_id and r.done_at is null
    ) returning user_id
"""
_DESTROY_SALTS = """
    delete from keys.connection_keys where tenant = :tenant and connection_id in (
        select k.id from connections k where k.tenant = :tenant and k.user_id = :user_id
    )
"""
_DONE_SINCE = "select connection_id from upstream_revocations where tenant = :tenant and done_at >= :since"
_DONE = """
    update upstream_revocations set outcome = :outcome, sealed = null, next_at = null, done_at = :now
    where tenant = :tenant and connection_id = :id and done_at is null and attempts = :attempts
"""
_FAILED = """
    update upstream_revocations set outcome = :outcome
    where tenant = :tenant and connection_id = :id and done_at is null and attempts = :attempts
"""
_OWING = f"{_READ} and r.owes_receipt = 1 limit :limit"
_SETTLE_OWED = """
    update upstream_revocations set owes_receipt = 0
    where tenant = :tenant and connection_id = :id and owes_receipt = 1
"""
_RETRY = """
    update upstream_revocations set next_at = :now
    where tenant = :tenant and connection_id = :id and done_at is null and next_at is not null
"""


@immutable
class Revocation:
    """The status of ending a grant at its provider.

    `outcome` is `pending`, `failed`, `unchecked` or `alive` (revoked, and the probe got no answer or still works: all
    are retried), `held` (until its account is disconnected), `revoked`, `unsupported` (the provider has no such
    endpoint, so only the person can remove the access there), `given_up` or `unreadable`. For a superseded grant,
    `access_expires_at` None means unknown.
    """

    connection_id: str
    user_id: str
    provider: str
    account: str
    label: str
    is_superseded: bool  # a newer consent of the same account replaced the grant
    outcome: str
    attempts: int
    created_at: int
    next_at: int | None
    done_at: int | None
    access_expires_at: int | None
    sealed: bytes | None = field(repr=False)


async def find_revocation(reader: Reader, connection_id: str) -> Revocation | None:
    """The revocation that a disconnection left, done or not."""
    rows = await reader.fetch(_ONE, {"tenant": TENANT, "id": connection_id, "nothing": ""})
    return next(map(_revocation, rows), None)


async def list_revocations(reader: Reader, user_id: str, *, since: int = 0) -> tuple[Revocation, ...]:
    """Revocations of a user's disconnected connections, newest first: those pending, or begun after `since`."""
    rows = await reader.fetch(_OF_USER, {"tenant": TENANT, "user_id": user_id, "nothing": "", "since": since})
    return tuple(_revocation(row) for row in rows)


def _revocation(row: Row) -> Revocation:
    return Revocation(
        connection_id=text(row, "connection_id"),
        user_id=text(row, "user_id"),
        provider=text(row, "provider"),
        account=text(row, "account"),
        label=text(row, "label"),
        is_superseded=text(row, "reason") == SUPERSEDED,
        outcome=text(row, "outcome"),
        attempts=integer(row, "attempts"),
        created_at=integer(row, "created_at"),
        next_at=integer_or_none(row, "next_at"),
        done_at=integer_or_none(row, "done_at"),
        access_expires_at=integer_or_none(row, "access_expires_at"),
        sealed=binary_or_none(row, "sealed"),
    )


async def run_due(vault: Vault) -> int:
    """Make one attempt at every due revocation, at most a batch; returns how many."""
    due = await _find_due(vault.database, now=vault.database.now())
    places = {one.provider: asyncio.Semaphore(AT_ONCE) for one in due}
    paused = set[str]()

    async def attempt(pending: Revocation) -> str:
        async with places[pending.provider]:
            if pending.provider in paused:
                return pending.outcome
            outcome = await _attempt(vault, pending, paused)
            await asyncio.sleep(0)
            return outcome

    outcomes = await asyncio.gather(*map(attempt, due), return_exceptions=True)
    if ended := [one.connection_id for one, outcome in zip(due, outcomes, strict=True) if outcome in FINISHED]:
        await scrub(vault, ended)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    await issue_owed(vault)
    await finish_deletions(vault)
    return len(due)


async def run_rounds(vault: Vault, *, seconds: float) -> int:
    """Run batch after batch until one isn't full, starting batches only within this many seconds; returns how many
    attempts. Runs each half minute. Ending many people, or a provider, leaves thousands at once.
    """
    stop = time.monotonic() + seconds
    total = count = await run_due(vault)
    while count >= BATCH and time.monotonic() < stop:
        count = await run_due(vault)
        total += count
    return total


async def _find_due(reader: Reader, *, now: int) -> list[Revocation]:
    """A batch of due revocations at providers that aren't paused, earliest first."""
    due: list[Revocation] = []
    for provider in await pauses.find_open(reader, now=now):
        which: dict[str, Value] = {"tenant": TENANT, "provider": provider, "now": now, "limit": BATCH, "nothing": ""}
        due += [_revocation(row) for row in await reader.fetch(_DUE, which)]
    return sorted(due, key=lambda one: one.next_at or 0)[:BATCH]


async def count_overdue(reader: Reader, *, now: int) -> tuple[int, int]:
    """How many revocations weren't attempted although they were due OVERDUE seconds ago, and since when the first one
    is due.

    Counts at most 1,000 per provider; revocations that were paused in the meantime aren't late.
    """
    late, count, first = now - OVERDUE, 0, now
    for provider in await pauses.find_open(reader, now=late):
        (row,) = await reader.fetch(
            "select count(*) as n, min(r.next_at) as first from (select next_at from upstream_revocations"
            " where tenant = :tenant and provider = :provider and done_at is null and next_at < :late"
            " order by next_at limit 1000) r",
            {"tenant": TENANT, "provider": provider, "late": late},
        )
        count, first = count + integer(row, "n"), min(first, integer_or_none(row, "first") or now)
    return count, first


async def has_unfinished(reader: Reader, provider: str) -> bool:
    """Whether tokens of this provider are still kept in order to end their grants."""
    row = await reader.fetch_one(
        "select connection_id from upstream_revocations"
        " where tenant = :tenant and provider = :provider and done_at is null limit 1",
        {"tenant": TENANT, "provider": provider},
    )
    return row is not None


async def finish_deletions(vault: Vault) -> bool:
    """Destroy the keys of deleted people who have no grant left to end; whether there were any."""
    is_any_finished = False
    for deletion in await users.list_deletions(vault.database):
        now, which = vault.database.now(), {"tenant": TENANT, "user_id": deletion.user_id}
        for connection in await connections.list_connections(vault.database, deletion.user_id):
            async with vault.database.transaction() as transaction:
                await connections.disconnect(transaction, vault.keys, connection, now=now)
        async with vault.database.transaction() as transaction:
            await transaction.execute(_RELEASE_ALL, {**which, "held": HELD, "pending": "pending", "now": now})
            if await tickets.has_unfinished_states(transaction, deletion.user_id, now=now):
                continue
            if await transaction.fetch_one(_FINISH_DELETION, which) is None:
                continue
            await transaction.execute(_DESTROY_SALTS, which)
            await vault.keys.destroy_user_key(transaction, deletion.user_id)
            event = Event("user.key_destroyed", user_id=deletion.user_id)
            await append(transaction, event, now=now)
        is_any_finished = True
    if is_any_finished:
        await scrub(vault, ())
    return is_any_finished


async def done_since(reader: Reader, since: int) -> tuple[str, ...]:
    """The connections whose keys were destroyed by any process since then."""
    rows = await reader.fetch(_DONE_SINCE, {"tenant": TENANT, "since": since})
    return tuple(text(row, "connection_id") for row in rows)


async def scrub(vault: Vault, names: Collection[str]) -> None:
    """Overwrite the remains of destroyed keys, and of what they sealed, in this host's files. Upkeep does what can't be
    done now (`RefreshTasks.has_traces`).
    """
    vault.tasks.has_traces = True
    try:
        await vault.journal.forget(names)
        vault.tasks.has_traces = not await vault.database.wipe()
    except (StorageUnavailable, TemporarilyUnavailable) as error:
        log.warning("traces not wiped yet", extra={"detail": error.detail})


async def revoke_upstream(vault: Vault, connection_id: str) -> str | None:
    """Make one attempt to end the grant at the provider, if due; returns the outcome so far, None if nothing is
    pending."""
    pending = await find_revocation(vault.database, connection_id)
    if pending is None:
        return None
    if not _is_due(pending, now=vault.database.now()):
        return pending.outcome
    outcome = await _attempt(vault, pending, set())
    if outcome in FINISHED:
        await scrub(vault, (connection_id,))
    return outcome


async def retry(vault: Vault, connection_id: str) -> str | None:
    """Make an attempt now, without waiting for the backoff; None if there is nothing to retry."""
    async with vault.database.transaction() as transaction:
        which = {"tenant": TENANT, "id": connection_id, "now": vault.database.now()}
        if await transaction.execute(_RETRY, which) != 1:
            return None
    return await revoke_upstream(vault, connection_id)


async def list_waiting(reader: Reader, *, limit: int, now: int) -> tuple[Revocation, ...]:
    """Revocations that are due now or later, earliest first, without held ones. If their provider is paused, `next_at`
    is at least the end of the pause.
    """
    rows = await reader.fetch(_WAITING, {"tenant": TENANT, "nothing": "", "limit": limit})
    paused = await pauses.list_pauses(reader, now=now)
    return tuple(
        replace(one, next_at=max(one.next_at or 0, paused.get(one.provider, 0))) for one in map(_revocation, rows)
    )


async def list_held(reader: Reader, *, limit: int) -> tuple[Revocation, ...]:
    """Revocations that wait because they could also end another live connection of the account; oldest first."""
    which = {"tenant": TENANT, "nothing": "", "superseded": SUPERSEDED, "limit": limit}
    return tuple(_revocation(row) for row in await reader.fetch(_HELD_OPEN, which))


async def issue_owed(vault: Vault) -> int:
    """Issue the receipts of grants whose tokens don't open, and of those that ended before receipts existed; returns
    how many."""
    rows = await vault.database.fetch(_OWING, {"tenant": TENANT, "nothing": "", "limit": BATCH})
    for owing in map(_revocation, rows):
        now = vault.database.now()
        key = vault.keys.signing.current(now)
        receipt = _sign(vault, key, owing, OWED.get(owing.outcome, UNREADABLE), Evidence(), attempts=owing.attempts)
        async with vault.database.transaction() as transaction:
            if await transaction.execute(_SETTLE_OWED, {"tenant": TENANT, "id": owing.connection_id}) == 1:
                await receipts.store(transaction, receipt, key)
    return len(rows)


async def _attempt(vault: Vault, pending: Revocation, paused: set[str]) -> str:
    """Attempt a due revocation; returns the outcome. The caller wipes its traces from files (`scrub`).

    If a provider doesn't answer or rate limits, all its revocations are `paused`.
    """
    if await hand_over(vault, pending.connection_id):
        pending = await find_revocation(vault.database, pending.connection_id) or pending
    now = vault.database.now()
    if not _is_due(pending, now=now):  # another process took it in the meantime
        return pending.outcome
    claimed = await _claim(vault, pending, now=now)
    if claimed == HELD and await _is_of_deleted(vault, pending):  # a deleted person's key doesn't wait for others
        before = replace(pending, attempts=pending.attempts - 1)
        return await _finish(vault, before, NEWER_CONSENT, Evidence())
    if claimed is not None:
        return claimed
    try:
        evidence = await _send(vault, pending)
    except CiphertextRejected:
        return await _finish(vault, pending, UNREADABLE, Evidence())
    verdict = judge(evidence, is_last=_is_last(vault, pending))
    if (pause := _pause_of(vault, pending, evidence)) is not None and not verdict.is_final:
        paused.add(pending.provider)
        await _pause_provider(vault, pending.provider, seconds=pause)
    if verdict.is_final:
        return await _finish(vault, pending, verdict, evidence)
    return await _postpone(vault, pending, verdict, evidence)


def _is_last(vault: Vault, pending: Revocation) -> bool:
    """Whether the attempts are used up, and as much time has passed as they usually take. Attempts that a provider's
    rate limit turned away don't count.
    """
    return pending.attempts >= len(BACKOFF) and vault.database.now() >= pending.created_at + sum(BACKOFF[:-2])


def _pause_of(vault: Vault, pending: Revocation, evidence: Evidence) -> int | None:
    """Seconds for which nothing more is sent to the provider; None if only this revocation waits."""
    match evidence.revoked:
        case NotSent(lacks_secret=True) if _is_entered(vault, pending):  # others have their own secrets
            return None
        case NotSent():
            return min(evidence.revoked.retry_after or PAUSE, LONGEST_PAUSE)
        case Silent():
            return PAUSE
        case _:
            asked = None if evidence.probed is None else evidence.probed.retry_after
            return None if asked is None else min(asked, LONGEST_PAUSE)


async def _pause_provider(vault: Vault, provider: str, *, seconds: int) -> None:
    until = vault.database.now() + seconds
    async with vault.database.transaction() as transaction:
        await pauses.pause(transaction, provider, until=until)


def _is_due(pending: Revocation, *, now: int) -> bool:
    return pending.done_at is None and pending.next_at is not None and pending.next_at <= now


async def _claim(vault: Vault, pending: Revocation, *, now: int) -> str | None:
    """Claim this attempt; None on success, otherwise the existing outcome. The revocation waits while the account is
    being connected again, if it might also end the newer consent.
    """
    which = {"tenant": TENANT, "id": pending.connection_id, "attempts": pending.attempts}
    wait = BACKOFF[min(pending.attempts, len(BACKOFF) - 1)]
    account = _others_of(vault, pending)
    async with vault.database.transaction() as transaction:
        if account is not None and await transaction.execute(_HOLD, {**which, **account, "held": HELD}):
            if pending.attempts:  # its process may have died after it was sent
                await _doubt_newer(transaction, vault, account)
            return HELD
        taken = await transaction.execute(_TAKE, {**which, "next_at": now + wait})
    return None if taken else pending.outcome


def _others_of(vault: Vault, pending: Revocation) -> dict[str, Value] | None:
    """What identifies the connections whose grants this revocation may also end; None if it can't end any."""
    policy = vault.policies.get(pending.provider)
    is_whole = policy is not None and policy.revoke_ends_account
    if policy is not None and policy.revoke_ends_grant is False and not is_whole:
        return None
    return {
        "user_id": pending.user_id,
        "provider": pending.provider,
        "account": pending.account,
        "whole": int(is_whole),
        "unknown": "",
    }


async def _doubt_newer(transaction: Transaction, vault: Vault, account: Mapping[str, Value]) -> None:
    """Have the connections checked that were stored while an attempt was on its way: it may have ended them.

    The model is `tests/support/models/reconnection_model.py`.
    """
    rows = await transaction.fetch(_NEWER, {"tenant": TENANT, **account, "limit": grant_checks.MOST})
    newer = [grant_checks.HintedConnection(text(row, "id"), text(row, "user_id")) for row in rows]
    await grant_checks.note(transaction, newer, now=vault.database.now())


def _was_sent(evidence: Evidence) -> bool:
    return evidence.revoked is not None and not isinstance(evidence.revoked, NotSent)


async def _is_of_deleted(vault: Vault, pending: Revocation) -> bool:
    named = {"tenant": TENANT, "user_id": pending.user_id}
    return await vault.database.fetch_one(_DELETION, named) is not None


async def _send(vault: Vault, pending: Revocation) -> Evidence:
    """Open the tokens, ask the provider to end them, and ask whether they are over. Raises CiphertextRejected."""
    if pending.sealed is None:
        raise CiphertextRejected("This revocation holds no token.")
    upstream = vault.upstreams.get(pending.provider)
    policy = vault.policies.get(pending.provider)
    is_key = policy is not None and policy.credential is CredentialKind.KEY  # can be checked without a registration
    if upstream is None or not (upstream.is_configured or is_key):
        return Evidence()  # the operator may set the provider up again
    key = await vault.keys.load_key(vault.database, user_id=pending.user_id, connection_id=pending.connection_id)
    refresh_token, access_token = open_revocation(
        key, pending.sealed, provider=pending.provider, account=pending.account
    )
    held = {REFRESH_TOKEN: refresh_token, ACCESS_TOKEN: access_token}
    is_entered = _is_entered(vault, pending)
    # A password that a person chose could be guessed from its hash.
    tokens = {kind: receipts.thumbprint(token) for kind, token in held.items() if token and not is_entered}
    revoked = await upstream.revoke(refresh_token=refresh_token, access_token=access_token, account=pending.account)
    may_ask = revoked in (RevokeOutcome.REVOKED, RevokeOutcome.FAILED) or is_entered
    if not may_ask or revoked in (RevokeOutcome.KEPT_ELSEWHERE, RevokeOutcome.SESSION_LEFT):
        return Evidence(revoked, None, tokens)
    is_fresh = _is_fresh(pending, now=vault.database.now())
    probed = await upstream.probe(
        refresh_token=refresh_token,
        access_token=access_token,
        is_fresh=is_fresh,
        is_revoked=revoked is RevokeOutcome.REVOKED,
    )
    return Evidence(revoked, probed, tokens)


def _is_entered(vault: Vault, pending: Revocation) -> bool:
    """Whether its person entered the credential."""
    policy = vault.policies.get(pending.provider)
    return policy is not None and policy.credential is not CredentialKind.OAUTH


def _is_fresh(pending: Revocation, *, now: int) -> bool:
    """Whether the access token would still be accepted if it hadn't been revoked."""
    if pending.access_expires_at is None:
        return not pending.is_superseded
    return now + FRESH < pending.access_expires_at


async def _finish(vault: Vault, pending: Revocation, verdict: AttemptVerdict, evidence: Evidence) -> str:
    """Record the end with its receipt, and destroy the key. If newer tokens arrived, revoke those next instead."""
    now, outcome = vault.database.now(), verdict.outcome
    signing_key = vault.keys.signing.current(now)
    receipt = _sign(vault, signing_key, pending, verdict, evidence, attempts=pending.attempts + 1)
    which = {"tenant": TENANT, "id": pending.connection_id, "attempts": pending.attempts + 1}
    account = _others_of(vault, pending)
    async with vault.database.transaction() as transaction:
        if await transaction.execute(_DONE, {**which, "outcome": outcome, "now": now}) != 1:
            return "pending"
        await vault.keys.destroy_connection_key(transaction, pending.connection_id)
        if account is not None and _was_sent(evidence):
            await _doubt_newer(transaction, vault, account)
        await receipts.store(transaction, receipt, signing_key)
        await append(transaction, _event(pending, verdict, receipt), now=now)
    if outcome != "revoked":
        log.warning("grant not ended at the provider", extra={"connection": pending.connection_id, "outcome": outcome})
    return outcome


async def _postpone(vault: Vault, pending: Revocation, verdict: AttemptVerdict, evidence: Evidence) -> str:
    now = vault.database.now()
    signing_key = vault.keys.signing.current(now)
    receipt = _sign(vault, signing_key, pending, verdict, evidence, attempts=pending.attempts + 1)
    which = {"tenant": TENANT, "id": pending.connection_id, "attempts": pending.attempts + 1}
    account = _others_of(vault, pending)
    async with vault.database.transaction() as transaction:
        if await transaction.execute(_FAILED, {**which, "outcome": verdict.outcome}) != 1:
            return "pending"
        if account is not None and _was_sent(evidence):
            await _doubt_newer(transaction, vault, account)
        await receipts.store(transaction, receipt, signing_key)
        await append(transaction, _event(pending, verdict, receipt), now=now)
    return verdict.outcome


def _sign(
    vault: Vault,
    key: RSAKey,
    pending: Revocation,
    verdict: AttemptVerdict,
    evidence: Evidence,
    *,
    attempts: int,
) -> Receipt:
    policy, now = vault.policies.get(pending.provider), vault.database.now()
    grant = EndedGrant(
        connection_id=pending.connection_id,
        user_id=pending.user_id,
        provider=pending.provider,
        ended_at=pending.created_at,
        attempts=attempts,
        pages=() if policy is None else policy.removal_pages,
    )
    return receipts.sign(key, grant, verdict, evidence, issuer=vault.issuer, now=now)


def _event(pending: Revocation, verdict: AttemptVerdict, receipt: Receipt) -> Event:
    is_revoked = verdict.outcome == "revoked"
    return Event(
        "connection.upstream_revoked" if is_revoked else "connection.upstream_revocation_failed",
        outcome="ok" if is_revoked else "failed",
        user_id=pending.user_id,
        connection_id=pending.connection_id,
        details={
            "provider": pending.provider,
            "account": pending.label,
            "reason": verdict.outcome,
            "attempts": pending.attempts + 1,
            "result": verdict.result.value,
            "receipt": receipts.thumbprint(receipt.token),
        },
    )

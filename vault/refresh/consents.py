"""The answer to a consent: kept on this host before it is stored, and stored however long the storage is unavailable.

A provider redeems a code once, so its answer, like that of a refresh, is the only copy of a live grant. The answer goes
into the answer journal first, sealed under a separate key. If a process can't store it, that process retries, or the
next start or another process of the host takes over. The `state` that led to it is settled in the same transaction, so
that it is stored once. `vault.upkeep.revocations` ends a grant that can't be stored as a connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import field, replace

from vault import company_access, connections, delegations, endings, tickets
from vault.audit.audit import append
from vault.classes.immutable import immutable
from vault.endings import Aside
from vault.grants import hold_client
from vault.keys.key_ring import ConnectionKey
from vault.records import TENANT, Connection, Event, Ticket, format_scope, parse_scope
from vault.refresh import grant_checks, journal_recovery, leases
from vault.refresh.concurrency import Vault, growing_waits
from vault.refresh.journal import JournalEntry
from vault.refusals import (
    CiphertextRejected,
    ConnectionRequired,
    PersonEnded,
    StorageUnavailable,
    TemporarilyUnavailable,
    TransitionRefused,
    VaultError,
)
from vault.scopes import meet
from vault.storage.database import Conflict, Transaction, Value
from vault.upstream import Account, RevokeOutcome, TokenAnswer, UpstreamPolicy

Guard = Callable[[Transaction], Awaitable[None]]  # raises in the transaction that stores if something forbids it
log = logging.getLogger("token_vault.consents")

CONSENT = "consent"  # the purpose under which an answer is sealed
STORED = "stored"  # outcome of a state whose answer was stored at once, by the process that redeemed the code
LATE = "late:"  # the same for an answer stored later, followed by the connection's ID
REFUSED = "refused"  # the provider answered with no token
GIVEN_UP = "given_up"  # stored as a grant to be ended, or lost with its host
STORE_WAIT = (0.1, 5.0)  # seconds between attempts to store an answer
CONSENT_TIME = 600  # seconds between agreeing at the provider and its answer here, at most
UNKEPT_WAIT = 20.0  # seconds after which an answer that is on no disk is ended at the provider instead

# A revocation of an earlier grant of the account that may have reached the provider after this consent did. It can end
# the newer grant, too.
_OF_ACCOUNT = """
    join connections k on k.tenant = r.tenant and k.id = r.connection_id
    where r.tenant = :tenant and r.provider = :provider and r.attempts > 0
        and (k.account = :account or k.account = :unknown) and (r.user_id = :user_id or cast(:whole as bigint) = 1)
"""
_MAY_BE_ENDED = f"""
    select 1 from upstream_revocations r {_OF_ACCOUNT} and r.done_at is null
    union all
    select 1 from upstream_revocations r {_OF_ACCOUNT} and r.done_at >= :since
    limit 1
"""  # noqa: S608  constants
# Locks the person before the ticket, as disabling and deleting them do.
_HOLD_PERSON = "update users set name = name where tenant = :tenant and id = :id"


@immutable
class Consent:
    """The reason why a person was sent to a provider, and what an agent gets afterward.

    `ask`: what the person is asked about each time. `ends_at`: when the agent's permission ends. `ticket_hash` names
    the `state` of the redirect; None for a consent given on one of our own pages, or by a company. `entered`: the event
    that an admin entered it for the person, which is stored with it; no company's rules let agents use such an account.
    """

    user_id: str
    provider: str
    scopes: frozenset[str]
    client_id: str | None = None
    delegated: frozenset[str] = frozenset()
    ask: frozenset[str] = frozenset()
    ends_at: int | None = None
    ticket_hash: bytes | None = field(default=None, repr=False)
    asked_at: int | None = None  # when the person was sent to the provider
    entered: Event | None = None
    renewed_by: str | None = None  # the identity provider's connection that vouched for it
    replaces: str | None = None  # the connection that it must belong to

    @property
    def name(self) -> str:
        """The name of its key and of its place in the journal."""
        return f"consent:{(self.ticket_hash or b'').hex()}"


@immutable
class StoredConsent:
    """The result of a consent."""

    connection: Connection
    delegated: frozenset[str]


def consent_of(ticket: Ticket) -> Consent:
    """The consent that a `state` represents. An earlier release stored neither `ask` nor `ends_at`."""
    ends_at = ticket.payload.get("ends_at")
    return Consent(
        user_id=ticket.user_id or "",
        provider=str(ticket.payload["provider"]),
        scopes=parse_scope(str(ticket.payload["scopes"])),
        client_id=ticket.client_id,
        delegated=parse_scope(str(ticket.payload["delegated"])),
        ask=parse_scope(str(ticket.payload.get("ask", ""))),
        ends_at=ends_at if isinstance(ends_at, int) else None,
        ticket_hash=ticket.ticket_hash,
        asked_at=ticket.created_at,
    )


def milliseconds(vault: Vault) -> int:
    """The current time, precise enough to order two consents."""
    return time.time_ns() // 1_000_000 + vault.database.clock_offset * 1000


# Keeping


async def reserve(vault: Vault, ticket: Ticket) -> None:
    """Reserve room for the answer before the code is sent. Raises StorageUnavailable."""
    await vault.journal.reserve(consent_of(ticket).name, now=vault.database.now())


async def make_key(transaction: Transaction, vault: Vault, consent: Consent) -> ConnectionKey:
    """Create the key that will seal the answer, in the transaction that uses up the `state`."""
    now = vault.database.now()
    return await vault.keys.create_keys(transaction, user_id=consent.user_id, connection_id=consent.name, now=now)


async def keep(vault: Vault, consent: Consent, answer: TokenAnswer, *, key: ConnectionKey, at_ms: int) -> bool:
    """Write the answer to the journal; False if that fails. Later calls replace earlier ones."""
    sealed = key.seal(
        _encode_answer(answer, at_ms), purpose=CONSENT, provider=consent.provider, account="", generation=0
    )
    entry = JournalEntry(consent.name, 0, vault.owner, fence=0, at=vault.database.now(), sealed=sealed)
    try:
        await vault.journal.append(entry)
    except StorageUnavailable as error:
        log.error("consent not journalled", extra={"detail": error.detail})  # noqa: TRY400  the trace would add nothing
        return False
    return True


def _encode_answer(answer: TokenAnswer, at_ms: int) -> str:
    account = answer.account
    return json.dumps(
        {
            "access_token": answer.access_token,
            "refresh_token": answer.refresh_token,
            "scope": None if answer.scopes is None else format_scope(answer.scopes),
            "expires_in": answer.expires_in,
            "grant_expires_in": answer.grant_expires_in,
            "account": None if account is None else [account.id, account.label],
            "metadata": dict(answer.metadata),
            "at": at_ms,
        },
        separators=(",", ":"),
    )


def _decode_answer(opened: str) -> tuple[TokenAnswer, int]:
    kept = json.loads(opened)
    answer = TokenAnswer(
        access_token=kept["access_token"],
        refresh_token=kept["refresh_token"],
        scopes=None if kept["scope"] is None else parse_scope(kept["scope"]),
        expires_in=kept["expires_in"],
        grant_expires_in=kept["grant_expires_in"],
        account=None if kept["account"] is None else Account(*kept["account"]),
        metadata=kept["metadata"],
    )
    return answer, kept["at"]


# Storing


async def _wipe(vault: Vault, consent: Consent) -> None:
    """Wipe settled answers from the journal. An answer that can't be wiped now expires within a week and doesn't
    open."""
    vault.tasks.has_traces = True
    try:
        await vault.journal.forget((consent.name,))
    except StorageUnavailable as error:
        log.warning("consent not wiped", extra={"detail": error.detail})


async def store(
    vault: Vault,
    consent: Consent,
    answer: TokenAnswer,
    *,
    at_ms: int,
    is_late: bool = False,
    guard: Guard | None = None,
) -> StoredConsent | None:
    """Connect the account and let the agent use it, in one transaction; None when this answer is already stored.

    Raises TransitionRefused when the answer names no
    account, when its person is gone or disabled, or when the replaced connection is gone; ConnectionRequired when the
    connection that vouched for it has ended; StorageUnavailable and TemporarilyUnavailable when it may be retried.
    """
    await _take_what_is_newer(vault, consent, answer)
    for _ in range(5):
        try:
            async with vault.database.transaction() as transaction:
                if guard is not None:
                    await guard(transaction)
                stored = await _store(transaction, vault, consent, answer, at_ms=at_ms, is_late=is_late)
        except Conflict:
            continue  # another tab just connected the same account: the newer consent counts
        if consent.ticket_hash is not None:
            await _wipe(vault, consent)
        return stored
    raise TemporarilyUnavailable("This account is being connected.")


async def _store(
    transaction: Transaction, vault: Vault, consent: Consent, answer: TokenAnswer, *, at_ms: int, is_late: bool
) -> StoredConsent | None:
    now = vault.database.now()
    await transaction.execute(_HOLD_PERSON, {"tenant": TENANT, "id": consent.user_id})
    # Before the ticket, as in every end of an agent.
    is_registered = consent.client_id is not None and await hold_client(transaction, consent.client_id)
    if consent.ticket_hash is not None:
        if not await tickets.settle_state(transaction, consent.ticket_hash, outcome=LATE if is_late else STORED):
            return None
        await vault.keys.destroy_connection_key(transaction, consent.name)
    person = await transaction.fetch_one(
        "select disabled_at from users where tenant = :tenant and id = :id", {"tenant": TENANT, "id": consent.user_id}
    )
    if person is None:
        raise PersonEnded("This user was deleted, so nothing was connected.")
    if person["disabled_at"] is not None:
        raise PersonEnded("This user is disabled, so nothing was connected.")
    if consent.renewed_by is not None and not await connections.hold(
        transaction, consent.renewed_by, user_id=consent.user_id
    ):
        raise ConnectionRequired(
            "The sign-in at the identity provider has ended, so nothing was connected.",
            provider=consent.provider,
            reason="missing",
            scopes=consent.scopes,
        )
    if not is_registered or await _was_ended(transaction, consent):
        consent = replace(consent, client_id=None)
    policy = _policy(vault, consent)
    connection = await connections.open_connection(
        transaction,
        vault.keys,
        user_id=consent.user_id,
        provider=consent.provider,
        answer=answer,
        asked=consent.scopes,
        policy=policy,
        now=now,
        consented_ms=at_ms,
        renewed_by=consent.renewed_by,
    )
    if consent.replaces not in {None, connection.id}:
        raise TransitionRefused("This account has been disconnected in the meantime. Nothing was connected.")
    if policy.revoke_ends_grant is not False or policy.revoke_ends_account:
        since = at_ms // 1000 - CONSENT_TIME
        await _doubt_if_ended(transaction, connection, since=since, is_whole=policy.revoke_ends_account, now=now)
    if is_late and consent.ticket_hash is not None:
        await tickets.settle_state(transaction, consent.ticket_hash, outcome=LATE + connection.id, before=LATE)
    details: dict[str, object] = {
        "provider": consent.provider,
        "account": connection.label,
        "scopes": sorted(connection.scopes),
    }
    if consent.entered is not None:
        details["by_self" if consent.entered.details.get("by_self") else "by_other"] = True
    events = [
        Event(
            kind="connection.opened" if consent.renewed_by is None else "connection.vouched",
            user_id=consent.user_id,
            client_id=consent.client_id,
            connection_id=connection.id,
            details=details | ({"late": True} if is_late else {}),
        )
    ]
    if consent.entered is not None:
        about = {**consent.entered.details, "account": connection.label}
        events.append(replace(consent.entered, connection_id=connection.id, details=about))
    else:
        events += await company_access.allow_opened(transaction, connection, policy, now=now)
    client_id, delegated = consent.client_id, frozenset[str]()
    if client_id is not None and not await _was_taken_away(transaction, consent, connection, client_id=client_id):
        delegated = meet(consent.delegated, policy.delegable(connection.scopes), policy.covers)
    if client_id is not None and delegated:
        await delegations.extend(
            transaction,
            user_id=consent.user_id,
            client_id=client_id,
            connection_id=connection.id,
            scopes=delegated,
            now=now,
            ask=consent.ask,
            expires_at=consent.ends_at,
        )
        events.append(
            delegations.extended_event(
                connection,
                client_id=client_id,
                scopes=delegated,
                ask=consent.ask,
                expires_at=consent.ends_at,
            )
        )
    await append(transaction, *events, now=now)
    return StoredConsent(connection, delegated)


async def _doubt_if_ended(
    transaction: Transaction, connection: Connection, *, since: int, is_whole: bool, now: int
) -> None:
    """Have the connection checked if an earlier grant of the account was being ended while the person agreed.

    `is_whole`: ending one person's grant ends everyone's.
    """
    which: dict[str, Value] = {
        "tenant": TENANT,
        "user_id": connection.user_id,
        "provider": connection.provider,
        "account": connection.account,
        "unknown": "",
        "since": since,
        "whole": int(is_whole),
    }
    if await transaction.fetch_one(_MAY_BE_ENDED, which) is not None:
        hinted = grant_checks.HintedConnection(connection.id, connection.user_id)
        await grant_checks.note(transaction, [hinted], now=now)


async def _was_ended(transaction: Transaction, consent: Consent) -> bool:
    """Whether the agent was ended for this person after the `state` was used."""
    return consent.ticket_hash is not None and await tickets.client_of_state(transaction, consent.ticket_hash) is None


async def _was_taken_away(
    transaction: Transaction, consent: Consent, connection: Connection, *, client_id: str
) -> bool:
    """Whether the person took this account away from the agent after they were sent to the provider."""
    held = await delegations.get(transaction, user_id=consent.user_id, client_id=client_id, connection_id=connection.id)
    ended_at = None if held is None else held.revoked_at
    return ended_at is not None and consent.asked_at is not None and ended_at > consent.asked_at


def _policy(vault: Vault, consent: Consent) -> UpstreamPolicy:
    return vault.policies.get(consent.provider) or UpstreamPolicy(consent.provider)


async def _take_what_is_newer(vault: Vault, consent: Consent, answer: TokenAnswer) -> None:
    """Commit this host's earlier answers for the account first: the replaced grant must be the newest."""
    if answer.account is None:
        return
    for known in await connections.find(vault.database, consent.user_id, provider=consent.provider):
        if known.account != answer.account.id:
            continue
        facts = await leases.read(vault.database, known.id)
        if facts is not None:
            await journal_recovery.adopt_if_ahead(vault, facts)


async def give_up(vault: Vault, consent: Consent, answer: TokenAnswer) -> None:
    """Keep an answer that creates no connection, so that its grant is ended at the provider."""
    now, account = vault.database.now(), answer.account or Account("", consent.provider)
    grant = Aside(
        consent.user_id,
        consent.provider,
        account.id,
        account.label,
        scopes=answer.scopes or consent.scopes,
        refresh_token=answer.refresh_token,
        access_token=answer.access_token,
    )
    async with vault.database.transaction() as transaction:
        if consent.ticket_hash is not None:
            if not await tickets.settle_state(transaction, consent.ticket_hash, outcome=GIVEN_UP):
                return
            await vault.keys.destroy_connection_key(transaction, consent.name)
        await endings.set_aside(transaction, vault.keys, grant, policy=_policy(vault, consent), now=now, is_over=True)
        event = Event(
            "connection.given_up",
            outcome="failed",
            user_id=consent.user_id,
            client_id=consent.client_id,
            details={"provider": consent.provider, "account": account.label},
        )
        await append(transaction, event, now=now)
    await _wipe(vault, consent)


async def refuse(vault: Vault, consent: Consent) -> None:
    """Record that no answer will come, if the storage is available; otherwise it is recorded once the answer can no
    longer come."""
    if consent.ticket_hash is None:
        return
    try:
        async with vault.database.transaction() as transaction:
            if await tickets.settle_state(transaction, consent.ticket_hash, outcome=REFUSED):
                await vault.keys.destroy_connection_key(transaction, consent.name)
    except (StorageUnavailable, TemporarilyUnavailable) as error:
        log.warning("refused consent not noted", extra={"detail": error.detail})


async def finish(
    vault: Vault, consent: Consent, answer: TokenAnswer, *, at_ms: int, is_kept: bool, guard: Guard | None = None
) -> None:
    """Store an answer that could not be stored at once, or have it ended; returns when that is done.

    An answer that is on no disk may be the only trace of its grant: after a while it is ended at the provider instead.
    """
    waits, loop = growing_waits(*STORE_WAIT), asyncio.get_running_loop()
    started = loop.time()
    while True:
        try:
            await _store_or_give_up(vault, consent, answer, at_ms=at_ms, guard=guard)
        except (StorageUnavailable, TemporarilyUnavailable):
            log.error("consent not stored yet", extra={"provider": consent.provider})  # noqa: TRY400
        else:
            return
        if not is_kept and loop.time() - started > UNKEPT_WAIT and await _ended_at_provider(vault, consent, answer):
            return
        await asyncio.sleep(next(waits))


async def _store_or_give_up(
    vault: Vault, consent: Consent, answer: TokenAnswer, *, at_ms: int, guard: Guard | None = None
) -> bool:
    try:
        return await store(vault, consent, answer, at_ms=at_ms, is_late=True, guard=guard) is not None
    except TransitionRefused as refusal:
        log.warning("consent makes no connection", extra={"detail": refusal.description})
        await give_up(vault, consent, answer)
        return True


async def _ended_at_provider(vault: Vault, consent: Consent, answer: TokenAnswer) -> bool:
    upstream = vault.upstreams[consent.provider]
    outcome = await upstream.revoke(
        refresh_token=answer.refresh_token,
        access_token=answer.access_token,
        account=None if answer.account is None else answer.account.id,
    )
    return outcome is RevokeOutcome.REVOKED


# Recovering answers that a process left


async def adopt(vault: Vault, ticket: Ticket) -> bool:
    """Store the answer that this host holds for a `state`; whether there was one."""
    consent = consent_of(ticket)
    entries = await vault.journal.find(consent.name)
    if not entries:
        return False
    try:
        key = await vault.keys.load_key(vault.database, user_id=consent.user_id, connection_id=consent.name)
        opened = key.open(entries[0].sealed, purpose=CONSENT, provider=consent.provider, account="", generation=0)
    except CiphertextRejected:  # settled in the meantime, or the person's key was destroyed
        return False
    answer, at_ms = _decode_answer(opened)
    return await _store_or_give_up(vault, consent, answer, at_ms=at_ms)


async def adopt_all(vault: Vault) -> int:
    """Store every unstored consent that this host holds; how many. Runs at start and every half minute."""
    now, adopted = vault.database.now(), 0
    for ticket in await tickets.unfinished_states(vault.database, vault.keys, now=now):
        consent = consent_of(ticket)
        if vault.tasks.is_finishing(consent.name):
            continue
        try:
            adopted += await adopt(vault, ticket)
        except VaultError as error:  # one consent's failure must not stop the others
            log.warning("consent not adopted", extra={"provider": consent.provider, "code": error.code})
    return adopted


async def forget_lost(transaction: Transaction, vault: Vault, *, now: int) -> None:
    """Destroy the keys of consents that were never answered: no journal holds an answer."""
    for ticket_hash, user_id in await tickets.settle_lost_states(transaction, outcome=GIVEN_UP, now=now):
        consent = Consent(user_id, "", frozenset(), ticket_hash=ticket_hash)
        await vault.keys.destroy_connection_key(transaction, consent.name)

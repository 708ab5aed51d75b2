"""Connections: a user's accounts at providers with their sealed tokens; opened, listed, disconnected.

Refreshing is `vault.rotation`, ending a grant at the provider is `vault.revocations`, who may use a connection is
`vault.delegations`. Byte contexts: `refresh_sealed` is sealed at the row's `generation`, `access_sealed` at its
`access_generation`, a pending revocation at generation 0; each value opens in its own row and column only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from vault.audit import append
from vault.database import (
    Reader,
    Row,
    Transaction,
    Value,
    binary_or_none,
    integer,
    integer_or_none,
    text,
    text_or_none,
)
from vault.keys import ConnectionKey, KeyRing
from vault.records import TENANT, Connection, ConnectionState, Event, format_scope, new_id, parse_scope
from vault.refusals import CiphertextRejected, TemporarilyUnavailable, TransitionRefused
from vault.upstream import Account, TokenAnswer, UpstreamPolicy

REFRESH_TOKEN = "refresh_token"
ACCESS_TOKEN = "access_token"
REVOCATION = "revocation"


def narrowed_token(scope_key: str) -> str:
    """The purpose under which a token of one set of scopes is sealed."""
    return f"narrowed_token:{scope_key}"


# An unresolved send without a lease: the process that sent it got no answer, or is gone.
_COLUMNS = """
    k.id, k.user_id, k.provider, k.account, k.label, k.scopes, k.state, k.reason, k.generation, k.created_at,
    k.access_expires_at, k.grant_expires_at, k.idle_expires_at, k.refreshed_at, k.metadata,
    case when k.refresh_sealed is null then 0 else 1 end as has_refresh_token,
    case when k.lease_owner is null and exists (
        select 1 from intents i
        where i.tenant = k.tenant and i.connection_id = k.id and i.generation = k.generation
    ) then 1 else 0 end as is_ambiguous
"""
_LIST = f"select {_COLUMNS} from connections k where k.tenant = :tenant and k.user_id = :user_id"  # noqa: S608  constants
_LIST_ALL = f"{_LIST} order by k.provider, k.created_at, k.id"
_LIST_LIVE = f"{_LIST} and k.ended_at is null order by k.provider, k.created_at, k.id"
_GET = f"{_LIST} and k.id = :id"
_FIND = f"{_LIST} and k.provider = :provider and k.ended_at is null order by k.created_at, k.id"

_EXISTING = """
    select id, generation, refresh_sealed, grant_expires_at, created_at from connections
    where tenant = :tenant and user_id = :user_id and provider = :provider and account = :account and ended_at is null
"""
_INSERT = """
    insert into connections (tenant, id, user_id, provider, account, label, scopes, state, generation, refresh_sealed,
        access_sealed, access_generation, access_expires_at, grant_expires_at, idle_expires_at, metadata, created_at,
        refreshed_at)
    values (:tenant, :id, :user_id, :provider, :account, :label, :scopes, :state, :generation, :refresh_sealed,
        :access_sealed, :generation, :access_expires_at, :grant_expires_at, :idle_expires_at, :metadata, :now, :now)
"""
_RECONNECT = """
    update connections set label = :label, scopes = :scopes, state = :state, reason = null, generation = :generation,
        refresh_sealed = :refresh_sealed, access_sealed = :access_sealed, access_generation = :generation,
        access_expires_at = :access_expires_at, grant_expires_at = :grant_expires_at,
        idle_expires_at = :idle_expires_at, metadata = :metadata, refreshed_at = :now
    where tenant = :tenant and id = :id and generation = :previous and ended_at is null
"""
_FREE_LEASE = "update connections set lease_owner = null, lease_until = null where tenant = :tenant and id = :id"
_DROP_INTENTS = "delete from intents where tenant = :tenant and connection_id = :id"
_CARRY_INTENTS = """
    update intents set generation = :generation
    where tenant = :tenant and connection_id = :id and generation = :previous
"""
_DROP_NARROWED = "delete from narrowed_tokens where tenant = :tenant and connection_id = :id"


def connection_from(row: Row) -> Connection:
    """The record of one row of the listing queries."""
    metadata: dict[str, str] = json.loads(text(row, "metadata"))
    return Connection(
        id=text(row, "id"),
        user_id=text(row, "user_id"),
        provider=text(row, "provider"),
        account=text(row, "account"),
        label=text(row, "label"),
        scopes=parse_scope(text(row, "scopes")),
        state=ConnectionState(text(row, "state")),
        generation=integer(row, "generation"),
        created_at=integer(row, "created_at"),
        reason=text_or_none(row, "reason"),
        has_refresh_token=integer(row, "has_refresh_token") == 1,
        access_expires_at=integer_or_none(row, "access_expires_at"),
        grant_expires_at=integer_or_none(row, "grant_expires_at"),
        idle_expires_at=integer_or_none(row, "idle_expires_at"),
        refreshed_at=integer_or_none(row, "refreshed_at"),
        is_ambiguous=integer(row, "is_ambiguous") == 1,
        metadata=metadata,
    )


async def list_connections(reader: Reader, user_id: str, *, include_ended: bool = False) -> tuple[Connection, ...]:
    """A user's connections, by provider and age."""
    rows = await reader.fetch(_LIST_ALL if include_ended else _LIST_LIVE, {"tenant": TENANT, "user_id": user_id})
    return tuple(connection_from(row) for row in rows)


async def get_connection(reader: Reader, connection_id: str, *, user_id: str) -> Connection | None:
    """One connection of this user, ended or not; somebody else's is not there."""
    row = await reader.fetch_one(_GET, {"tenant": TENANT, "user_id": user_id, "id": connection_id})
    return None if row is None else connection_from(row)


async def find(reader: Reader, user_id: str, *, provider: str, account: str | None = None) -> tuple[Connection, ...]:
    """The user's live connections at a provider; with `account` (its id, label, or the connection's id) only those."""
    rows = await reader.fetch(_FIND, {"tenant": TENANT, "user_id": user_id, "provider": provider})
    found = tuple(connection_from(row) for row in rows)
    if account is None:
        return found
    return tuple(one for one in found if names_account(account, id=one.id, account=one.account, label=one.label))


def names_account(named: str, *, id: str, account: str, label: str) -> bool:  # noqa: A002  the field's own name
    """Whether a person's or agent's word for an account means this one."""
    return named in (account, id) or named.casefold() == label.casefold()


def access_expiry(answer: TokenAnswer, *, policy: UpstreamPolicy, refreshable: bool, now: int) -> int | None:
    """When the access token of an answer ends; None for one that lives until somebody revokes it.

    Where the answer does not say, a token that cannot be refreshed is taken for a lasting one (classic Slack, GitHub).
    """
    if answer.expires_in is not None:
        return now + answer.expires_in
    return now + policy.access_lifetime if refreshable else None


def idle_expiry(policy: UpstreamPolicy, *, now: int) -> int | None:
    """When the grant ends unless it is refreshed again; None where the provider file names no such time."""
    return None if policy.grant_idle is None else now + policy.grant_idle


async def open_connection(
    transaction: Transaction,
    ring: KeyRing,
    *,
    user_id: str,
    provider: str,
    answer: TokenAnswer,
    asked: frozenset[str],
    policy: UpstreamPolicy,
    now: int,
) -> Connection:
    """Store what the provider answered to a consent: a new connection, or the same account connected again.

    Connecting again keeps the id and the delegations; the granted scopes are those of the new answer, the refresh
    token stays when the answer has none. An answer without `scope` means what was asked (RFC 6749 §5.1). The caller
    records `connection.opened` as the last thing in its transaction.
    """
    account = answer.account
    if account is None or not account.id:
        raise TransitionRefused("The provider did not say which account this is, so nothing was connected.")
    named: Mapping[str, Value] = {
        "tenant": TENANT,
        "user_id": user_id,
        "provider": provider,
        "account": account.id,
    }
    granted = asked if answer.scopes is None else answer.scopes
    lifetime = policy.grant_lifetime if answer.grant_expires_in is None else answer.grant_expires_in
    facts: Mapping[str, Value] = {
        **named,
        "label": account.label,
        "scopes": format_scope(granted),
        "state": ConnectionState.ACTIVE.value,
        "grant_expires_at": None if lifetime is None else now + lifetime,
        "idle_expires_at": idle_expiry(policy, now=now),
        "metadata": json.dumps(dict(answer.metadata), sort_keys=True, separators=(",", ":")),
        "now": now,
    }
    for _ in range(5):
        existing = await transaction.fetch_one(_EXISTING, named)
        if existing is None:
            connection_id = new_id()
            key = await ring.create_keys(transaction, user_id=user_id, connection_id=connection_id, now=now)
            sealed = _seal_answer(key, answer, account=account, policy=policy, generation=1, kept=None, now=now)
            await transaction.execute(_INSERT, {**facts, **sealed, "id": connection_id})
            break
        connection_id = text(existing, "id")
        if await _reconnect(transaction, ring, existing, answer=answer, account=account, policy=policy, facts=facts):
            break
    else:
        raise TemporarilyUnavailable("This account is being refreshed just now.", retry_after=2)
    opened = await get_connection(transaction, connection_id, user_id=user_id)
    if opened is None:
        raise TransitionRefused("This connection was removed while it was being connected.")
    return opened


async def _reconnect(
    transaction: Transaction,
    ring: KeyRing,
    existing: Row,
    *,
    answer: TokenAnswer,
    account: Account,
    policy: UpstreamPolicy,
    facts: Mapping[str, Value],
) -> bool:
    """Put a new consent's tokens in the place of the old ones; False when a refresh moved the row meanwhile."""
    connection_id, previous = text(existing, "id"), integer(existing, "generation")
    key = await ring.load_key(transaction, user_id=text(facts, "user_id"), connection_id=connection_id)
    kept: str | None = None
    if answer.refresh_token is None and (sealed_before := binary_or_none(existing, "refresh_sealed")) is not None:
        kept = key.open(
            sealed_before, purpose=REFRESH_TOKEN, provider=policy.provider, account=account.id, generation=previous
        )
    sealed = _seal_answer(
        key, answer, account=account, policy=policy, generation=previous + 1, kept=kept, now=integer(facts, "now")
    )
    which: Mapping[str, Value] = {"tenant": TENANT, "id": connection_id, "previous": previous}
    update = {name: value for name, value in facts.items() if name not in ("user_id", "provider", "account")}
    if kept is not None:  # the old refresh token goes on, and ends when it always would
        update["grant_expires_at"] = integer_or_none(existing, "grant_expires_at")
    if await transaction.execute(_RECONNECT, {**update, **sealed, **which}) != 1:
        return False
    only_id: Mapping[str, Value] = {"tenant": TENANT, "id": connection_id}
    await transaction.execute(_DROP_NARROWED, only_id)
    if answer.refresh_token is None:
        # The old refresh token is still the one: whatever is unknown about it stays unknown.
        await transaction.execute(_CARRY_INTENTS, {**which, "generation": previous + 1})
    else:
        await transaction.execute(_DROP_INTENTS, only_id)
        await transaction.execute(_FREE_LEASE, only_id)
    return True


def _seal_answer(
    key: ConnectionKey,
    answer: TokenAnswer,
    *,
    account: Account,
    policy: UpstreamPolicy,
    generation: int,
    kept: str | None,
    now: int,
) -> dict[str, Value]:
    """The sealed columns for an answer; `kept` is the refresh token to go on with where the answer has none."""

    def seal(token: str, purpose: str) -> bytes:
        return key.seal(token, purpose=purpose, provider=policy.provider, account=account.id, generation=generation)

    refresh_token = answer.refresh_token or kept
    return {
        "generation": generation,
        "refresh_sealed": None if refresh_token is None else seal(refresh_token, REFRESH_TOKEN),
        "access_sealed": seal(answer.access_token, ACCESS_TOKEN),
        "access_expires_at": access_expiry(answer, policy=policy, refreshable=refresh_token is not None, now=now),
    }


# Disconnecting


@dataclass(frozen=True, slots=True)
class PendingRevocation:
    """A grant that still has to be ended at the provider, not before `due_at`; None when there is nothing to do."""

    connection_id: str
    user_id: str
    provider: str
    due_at: int | None


_END = """
    update connections set state = :state, reason = :reason, ended_at = :now
    where tenant = :tenant and id = :id and user_id = :user_id and ended_at is null
    returning provider, account, label, generation, access_generation, refresh_sealed, access_sealed, lease_until
"""
_FORGET = """
    update connections set refresh_sealed = null, access_sealed = null where tenant = :tenant and id = :id
"""
_END_DELEGATIONS = """
    update delegations set revoked_at = :now, changed_at = :now
    where tenant = :tenant and user_id = :user_id and connection_id = :id and revoked_at is null
"""
_PENDING = """
    insert into upstream_revocations
        (tenant, connection_id, user_id, provider, sealed, attempts, outcome, next_at, created_at, done_at)
    values (:tenant, :id, :user_id, :provider, :sealed, 0, :outcome, :next_at, :now, :done_at)
"""
# Moving the counter voids the end of an attempt that is on its way with the older tokens.
_REPLACE_PENDING = """
    update upstream_revocations set sealed = :sealed, next_at = :now, attempts = attempts + 1
    where tenant = :tenant and connection_id = :id and done_at is null
"""


async def disconnect(transaction: Transaction, ring: KeyRing, connection: Connection, *, now: int) -> PendingRevocation:
    """End a connection: refused from this commit on. Call it last in the transaction; records `connection.closed`.

    What the provider's revocation needs is sealed into the pending revocation; the connection's key is destroyed only
    when that is done or given up (`vault.revocations`), or here when its tokens cannot be opened any more.
    """
    which: Mapping[str, Value] = {"tenant": TENANT, "id": connection.id}
    mine: Mapping[str, Value] = {**which, "user_id": connection.user_id, "now": now}
    row = await transaction.fetch_one(_END, {**mine, "state": ConnectionState.REVOKED.value, "reason": "disconnected"})
    if row is None:
        raise TransitionRefused("This connection is already disconnected.")
    sealed = await _seal_pending(transaction, ring, row, connection=connection)
    await transaction.execute(_FORGET, which)
    await transaction.execute(_DROP_NARROWED, which)
    await transaction.execute(_END_DELEGATIONS, mine)
    # A refresh in flight may have spent the token that we hold: wait until its answer is in, or cannot come any more.
    due_at = None if sealed is None else max(now, integer_or_none(row, "lease_until") or now)
    await transaction.execute(
        _PENDING,
        {
            **mine,
            "provider": connection.provider,
            "sealed": sealed,
            "outcome": "pending" if sealed is not None else "unreadable",
            "next_at": due_at,
            "done_at": None if sealed is not None else now,
        },
    )
    if sealed is None:
        await ring.destroy_connection_key(transaction, connection.id)
    await append(
        transaction,
        Event(
            "connection.closed",
            user_id=connection.user_id,
            connection_id=connection.id,
            details={"provider": connection.provider, "account": connection.label, "revocation_pending": bool(sealed)},
        ),
        now=now,
    )
    return PendingRevocation(connection.id, connection.user_id, connection.provider, due_at)


async def _seal_pending(transaction: Transaction, ring: KeyRing, row: Row, *, connection: Connection) -> bytes | None:
    """The tokens of a row sealed for its revocation; None when they do not open or are not there."""
    refresh_sealed, access_sealed = binary_or_none(row, "refresh_sealed"), binary_or_none(row, "access_sealed")
    try:
        key = await ring.load_key(transaction, user_id=connection.user_id, connection_id=connection.id)

        def opened(sealed: bytes | None, purpose: str, generation: int) -> str | None:
            if sealed is None:
                return None
            return key.open(
                sealed,
                purpose=purpose,
                provider=connection.provider,
                account=connection.account,
                generation=generation,
            )

        refresh_token = opened(refresh_sealed, REFRESH_TOKEN, integer(row, "generation"))
        access_token = opened(access_sealed, ACCESS_TOKEN, integer(row, "access_generation"))
    except CiphertextRejected:
        return None
    if refresh_token is None and access_token is None:
        return None
    return seal_revocation(
        key,
        refresh_token=refresh_token,
        access_token=access_token,
        provider=connection.provider,
        account=connection.account,
    )


def seal_revocation(
    key: ConnectionKey, *, refresh_token: str | None, access_token: str | None, provider: str, account: str
) -> bytes:
    """The tokens that a revocation at the provider needs, sealed."""
    tokens = json.dumps({REFRESH_TOKEN: refresh_token, ACCESS_TOKEN: access_token}, separators=(",", ":"))
    return key.seal(tokens, purpose=REVOCATION, provider=provider, account=account, generation=0)


def open_revocation(key: ConnectionKey, sealed: bytes, *, provider: str, account: str) -> tuple[str | None, str | None]:
    """Refresh token and access token of a pending revocation."""
    tokens: dict[str, str | None] = json.loads(
        key.open(sealed, purpose=REVOCATION, provider=provider, account=account, generation=0)
    )
    return tokens.get(REFRESH_TOKEN), tokens.get(ACCESS_TOKEN)


async def replace_pending(transaction: Transaction, connection_id: str, *, sealed: bytes, now: int) -> bool:
    """Revoke newer tokens instead: the answer of a refresh that was on its way at disconnection. False: too late."""
    changed = await transaction.execute(
        _REPLACE_PENDING, {"tenant": TENANT, "id": connection_id, "sealed": sealed, "now": now}
    )
    return changed == 1

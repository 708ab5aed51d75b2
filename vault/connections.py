"""Connections: a user's accounts at providers with their sealed tokens; opened, listed, disconnected.

Connecting an account again replaces its tokens. The previous grant becomes a separate ended connection with a pending
revocation. If ending it might also end the new grant, that revocation is `held` until the account is disconnected.

`vault.refresh.rotation` refreshes, `vault.upkeep.revocations` ends grants at the provider, and `vault.delegations`
records who may use a connection. Byte contexts: `refresh_sealed` is sealed at the row's `generation`, `access_sealed`
at its `access_generation`, a pending revocation at generation 0; each value opens in its own row and column only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from vault.audit.audit import append
from vault.classes.immutable import immutable
from vault.endings import (
    ACCESS_TOKEN,
    REFRESH_TOKEN,
    Aside,
    add_pending,
    release_held,
    seal_revocation,
    set_aside,
)
from vault.keys.key_ring import ConnectionKey, KeyRing
from vault.records import TENANT, Connection, ConnectionState, Event, format_scope, new_id, parse_scope
from vault.refusals import CiphertextRejected, TemporarilyUnavailable, TransitionRefused
from vault.storage.database import (
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
from vault.upstream import Account, TokenAnswer, UpstreamPolicy

DISCONNECTED: Final = "disconnected"
UNVOUCHED: Final = "identity_disconnected"  # reason: the identity provider's connection was disconnected


def narrowed_token(scope_key: str) -> str:
    """The purpose under which a token for one set of scopes is sealed."""
    return f"narrowed_token:{scope_key}"


# An unresolved send without a lease: the sending process got no answer or is gone.
_COLUMNS = """
    k.id, k.user_id, k.provider, k.account, k.label, k.scopes, k.state, k.reason, k.generation, k.created_at,
    k.access_expires_at, k.grant_expires_at, k.idle_expires_at, k.refreshed_at, k.metadata, k.nickname, k.renewed_by,
    k.consented_ms, case when k.refresh_sealed is null and k.renewed_by is null then 0 else 1 end as has_refresh_token,
    case when k.lease_owner is null and exists (
        select 1 from intents i
        where i.tenant = k.tenant and i.connection_id = k.id and i.generation = k.generation
    ) then 1 else 0 end as is_ambiguous,
    case when exists (
        select 1 from intents i
        where i.tenant = k.tenant and i.connection_id = k.id and i.generation = k.generation and i.settled_at is null
    ) then 0 else 1 end as is_settled, k.retry_at
"""
_LIST = f"select {_COLUMNS} from connections k where k.tenant = :tenant and k.user_id = :user_id"  # noqa: S608  constants
_LIST_ALL = f"{_LIST} order by k.provider, k.created_at, k.id"
_LIST_LIVE = f"{_LIST} and k.ended_at is null order by k.provider, k.created_at, k.id"
_GET = f"{_LIST} and k.id = :id"
_FIND = f"{_LIST} and k.provider = :provider and k.ended_at is null order by k.created_at, k.id"

_EXISTING = """
    select id, user_id, provider, account, label, scopes, state, generation, access_generation, refresh_sealed,
        access_sealed, access_expires_at, grant_expires_at, lease_until, consented_ms
    from connections
    where tenant = :tenant and user_id = :user_id and provider = :provider and account = :account and ended_at is null
"""
_INSERT = """
    insert into connections (tenant, id, user_id, provider, account, label, scopes, state, generation, refresh_sealed,
        access_sealed, access_generation, access_expires_at, grant_expires_at, idle_expires_at, metadata, created_at,
        refreshed_at, consented_ms, renewed_by)
    values (:tenant, :id, :user_id, :provider, :account, :label, :scopes, :state, :generation, :refresh_sealed,
        :access_sealed, :generation, :access_expires_at, :grant_expires_at, :idle_expires_at, :metadata, :now, :now,
        :consented_ms, :renewed_by)
"""
_RECONNECT = """
    update connections set label = :label, scopes = :scopes, state = :state, reason = null, generation = :generation,
        refresh_sealed = :refresh_sealed, access_sealed = :access_sealed, access_generation = :generation,
        access_expires_at = :access_expires_at, grant_expires_at = :grant_expires_at,
        idle_expires_at = :idle_expires_at, metadata = :metadata, refreshed_at = :now, retry_at = null,
        consented_ms = :consented_ms, renewed_by = :renewed_by
    where tenant = :tenant and id = :id and generation = :previous and ended_at is null
"""
_FREE_LEASE = "update connections set lease_owner = null, lease_until = null where tenant = :tenant and id = :id"
_DROP_INTENTS = "delete from intents where tenant = :tenant and connection_id = :id"
_CARRY_INTENTS = """
    update intents set generation = :generation
    where tenant = :tenant and connection_id = :id and generation = :previous
"""
_DROP_NARROWED = "delete from narrowed_tokens where tenant = :tenant and connection_id = :id"


def _as_json(facts: Mapping[str, str]) -> str:
    return json.dumps(dict(facts), separators=(",", ":"))


def connection_from(row: Row) -> Connection:
    """The record from one row of the listing queries."""
    metadata: dict[str, str] = json.loads(text(row, "metadata"))
    consented_ms = integer_or_none(row, "consented_ms")
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
        is_settled=integer(row, "is_settled") == 1,
        retry_at=integer_or_none(row, "retry_at"),
        metadata=metadata,
        nickname=text_or_none(row, "nickname") or "",
        renewed_by=text_or_none(row, "renewed_by"),
        consented_at=None if consented_ms is None else consented_ms // 1000,
    )


async def list_connections(reader: Reader, user_id: str, *, include_ended: bool = False) -> tuple[Connection, ...]:
    """A user's connections, by provider and age."""
    rows = await reader.fetch(_LIST_ALL if include_ended else _LIST_LIVE, {"tenant": TENANT, "user_id": user_id})
    return tuple(connection_from(row) for row in rows)


async def get_connection(reader: Reader, connection_id: str, *, user_id: str) -> Connection | None:
    """One connection of this user, live or ended; None for another user's."""
    row = await reader.fetch_one(_GET, {"tenant": TENANT, "user_id": user_id, "id": connection_id})
    return None if row is None else connection_from(row)


async def exists(reader: Reader, connection_id: str) -> bool:
    """Whether anyone has, or had, a connection with this ID."""
    named = {"tenant": TENANT, "id": connection_id}
    return await reader.fetch_one("select id from connections where tenant = :tenant and id = :id", named) is not None


async def find(reader: Reader, user_id: str, *, provider: str, account: str | None = None) -> tuple[Connection, ...]:
    """The user's live connections at a provider; `account` (an id, label, or connection id) selects among them."""
    rows = await reader.fetch(_FIND, {"tenant": TENANT, "user_id": user_id, "provider": provider})
    found = tuple(connection_from(row) for row in rows)
    if account is None:
        return found
    return tuple(one for one in found if names_account(account, id=one.id, account=one.account, label=one.label))


async def rename(transaction: Transaction, connection: Connection, *, nickname: str) -> None:
    """Set the person's own name for a live account; empty: no name."""
    await transaction.execute(
        "update connections set nickname = :nickname"
        " where tenant = :tenant and user_id = :user_id and id = :id and ended_at is null",
        {"tenant": TENANT, "user_id": connection.user_id, "id": connection.id, "nickname": nickname or None},
    )


def names_account(named: str, *, id: str, account: str, label: str) -> bool:  # noqa: A002  the field's own name
    """Whether the name that a person or agent gave matches this account."""
    return named in (account, id) or named.casefold() == label.casefold()


def access_expiry(answer: TokenAnswer, *, policy: UpstreamPolicy, refreshable: bool, now: int) -> int | None:
    """When the access token of an answer expires; None for one that lives until it is revoked.

    If the answer has no expiry, a token that can't be refreshed counts as permanent (classic Slack, GitHub).
    """
    if answer.expires_in is not None:
        return now + answer.expires_in
    return now + policy.access_lifetime if refreshable else None


def idle_expiry(policy: UpstreamPolicy, *, now: int) -> int | None:
    """When the grant ends unless it is refreshed again; None if the provider file sets no such time."""
    return None if policy.grant_idle is None else now + policy.grant_idle


async def hold(transaction: Transaction, connection_id: str, *, user_id: str) -> bool:
    """Lock this user's connection until the transaction ends; False if it isn't live. Lock the client before it."""
    live = await transaction.execute(
        "update connections set fence = fence"
        " where tenant = :tenant and id = :id and user_id = :user_id and ended_at is null",
        {"tenant": TENANT, "id": connection_id, "user_id": user_id},
    )
    return live == 1


async def note_fact(transaction: Transaction, connection_id: str, name: str, value: str) -> None:
    """Store a fact about the account in addition to the provider's facts, until it is connected again."""
    which: dict[str, Value] = {"tenant": TENANT, "id": connection_id}
    row = await transaction.fetch_one(
        "select metadata from connections where tenant = :tenant and id = :id and ended_at is null", which
    )
    if row is None:
        return
    facts: dict[str, str] = json.loads(text(row, "metadata"))
    await transaction.execute(
        "update connections set metadata = :metadata where tenant = :tenant and id = :id and metadata = :before",
        which | {"metadata": _as_json(facts | {name: value}), "before": text(row, "metadata")},
    )


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
    consented_ms: int | None = None,
    renewed_by: str | None = None,
) -> Connection:
    """Store a provider's answer to a consent: a new connection, or the same account connected again.

    Connecting again keeps the id and the delegations. The granted scopes are those of the new answer; the refresh token
    stays if the answer has none. An answer without `scope` means the requested scopes (RFC 6749 §5.1). `consented_ms`
    is when the answer came: an answer older than the account's newest consent changes nothing, but is kept so that its
    grant can be ended. `renewed_by`: the answer came by an assertion of that connection's identity provider, and so
    will the next. The caller records `connection.opened` as the last step of its transaction. Raises Conflict when
    another process just connected the same account: retry the whole transaction.
    """
    account = answer.account
    if account is None or not account.id:
        raise TransitionRefused("The provider didn't say which account this is, so nothing was connected.")
    named: Mapping[str, Value] = {
        "tenant": TENANT,
        "user_id": user_id,
        "provider": provider,
        "account": account.id,
    }
    policy = policy.for_renewal(renewed_by)
    granted = asked if answer.scopes is None else answer.scopes
    is_renewed = answer.refresh_token is not None or renewed_by is not None
    lifetime = answer.grant_seconds(policy.grant_lifetime, is_renewed=is_renewed)
    facts: Mapping[str, Value] = {
        **named,
        "label": account.label,
        "scopes": format_scope(granted),
        "state": ConnectionState.ACTIVE.value,
        "grant_expires_at": None if lifetime is None else now + lifetime,
        "idle_expires_at": idle_expiry(policy, now=now) if is_renewed else None,
        "metadata": _as_json(answer.metadata),
        "now": now,
        "consented_ms": consented_ms,
        "renewed_by": renewed_by,
    }
    for _ in range(5):
        existing = await transaction.fetch_one(_EXISTING, named)
        if existing is None:
            connection_id = new_id()
            key = await ring.create_keys(transaction, user_id=user_id, connection_id=connection_id, now=now)
            sealed = _seal_answer(key, answer, account=account, policy=policy, generation=1, kept=None, facts=facts)
            await transaction.execute(_INSERT, {**facts, **sealed, "id": connection_id})
            break
        connection_id = text(existing, "id")
        if consented_ms is not None and consented_ms < (integer_or_none(existing, "consented_ms") or 0):
            await set_aside(transaction, ring, _aside_of_answer(existing, answer), policy=policy, now=now)
            break
        if await _reconnect(transaction, ring, existing, answer=answer, account=account, policy=policy, facts=facts):
            break
    else:
        raise TemporarilyUnavailable("This account is being refreshed.", retry_after=2)
    opened = await get_connection(transaction, connection_id, user_id=user_id)
    if opened is None:
        raise TransitionRefused("This connection was removed while you were connecting it.")
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
    """Replace the old tokens with those of a new consent; False if a refresh changed the row first.

    A new grant's generation is at least the time of its consent: a host's journal may hold answers of a later
    generation than this row's, from before the database went back, and they are older than the consent.
    """
    connection_id, previous = text(existing, "id"), integer(existing, "generation")
    # A lost salt or user key is created again: what it sealed is lost, but the account isn't.
    key = await ring.create_keys(
        transaction, user_id=text(facts, "user_id"), connection_id=connection_id, now=integer(facts, "now")
    )
    before = _aside_of_row(key, existing)
    # It needs nothing from the old grant; an MCP server's old grant may belong to another account, since the server
    # can't be asked which.
    is_whole = answer.refresh_token is not None or facts["renewed_by"] is not None or policy.is_remote
    kept = None if is_whole else before.refresh_token
    following = previous + 1
    if is_whole:
        following = max(following, integer_or_none(facts, "consented_ms") or 0)
    sealed = _seal_answer(key, answer, account=account, policy=policy, generation=following, kept=kept, facts=facts)
    which: Mapping[str, Value] = {"tenant": TENANT, "id": connection_id, "previous": previous}
    update = {name: value for name, value in facts.items() if name not in ("user_id", "provider", "account")}
    if kept is not None:  # the old refresh token stays, with its original end
        update["grant_expires_at"] = integer_or_none(existing, "grant_expires_at")
        update["idle_expires_at"] = idle_expiry(policy, now=integer(facts, "now"))
    if await transaction.execute(_RECONNECT, {**update, **sealed, **which}) != 1:
        return False
    only_id: Mapping[str, Value] = {"tenant": TENANT, "id": connection_id}
    await transaction.execute(_DROP_NARROWED, only_id)
    if not is_whole:
        # The row keeps the old refresh token, so its unresolved sends stay unresolved.
        await transaction.execute(_CARRY_INTENTS, {**which, "generation": following})
    else:
        await transaction.execute(_DROP_INTENTS, only_id)
        await transaction.execute(_FREE_LEASE, only_id)
    if _is_another_grant(existing, before, answer, is_whole=is_whole, now=integer(facts, "now")):
        await set_aside(transaction, ring, before, policy=policy, now=integer(facts, "now"))
    return True


def _seal_answer(
    key: ConnectionKey,
    answer: TokenAnswer,
    *,
    account: Account,
    policy: UpstreamPolicy,
    generation: int,
    kept: str | None,
    facts: Mapping[str, Value],
) -> dict[str, Value]:
    """The sealed columns for an answer; `kept` is the refresh token to keep if the answer has none."""

    def seal(token: str, purpose: str) -> bytes:
        return key.seal(token, purpose=purpose, provider=policy.provider, account=account.id, generation=generation)

    refresh_token = answer.refresh_token or kept
    is_renewed = refresh_token is not None or facts["renewed_by"] is not None
    now = integer(facts, "now")
    return {
        "generation": generation,
        "refresh_sealed": None if refresh_token is None else seal(refresh_token, REFRESH_TOKEN),
        "access_sealed": seal(answer.access_token, ACCESS_TOKEN),
        "access_expires_at": access_expiry(answer, policy=policy, refreshable=is_renewed, now=now),
    }


def _aside_of_row(key: ConnectionKey, row: Row) -> Aside:
    """The grant in a connection's row, with the tokens that open."""

    def open_column(column: str, purpose: str, generation: int) -> str | None:
        sealed = binary_or_none(row, column)
        if sealed is None:
            return None
        try:
            return key.open(
                sealed,
                purpose=purpose,
                provider=text(row, "provider"),
                account=text(row, "account"),
                generation=generation,
            )
        except CiphertextRejected:
            return None

    return Aside(
        text(row, "user_id"),
        text(row, "provider"),
        text(row, "account"),
        text(row, "label"),
        scopes=parse_scope(text(row, "scopes")),
        refresh_token=open_column("refresh_sealed", REFRESH_TOKEN, integer(row, "generation")),
        access_token=open_column("access_sealed", ACCESS_TOKEN, integer(row, "access_generation")),
        generation=integer(row, "generation"),
        lease_until=integer_or_none(row, "lease_until"),
    )


def _aside_of_answer(existing: Row, answer: TokenAnswer) -> Aside:
    """The grant of a consent that arrived too late: the account has a newer one."""
    return Aside(
        text(existing, "user_id"),
        text(existing, "provider"),
        text(existing, "account"),
        text(existing, "label"),
        scopes=answer.scopes or frozenset(),
        refresh_token=answer.refresh_token,
        access_token=answer.access_token,
    )


def _is_another_grant(existing: Row, before: Aside, answer: TokenAnswer, *, is_whole: bool, now: int) -> bool:
    """Whether the old tokens belong to a grant that may stay valid alongside the new one."""
    has_refresh_token = binary_or_none(existing, "refresh_sealed") is not None
    if has_refresh_token and text(existing, "state") == ConnectionState.NEEDS_REAUTH.value:
        return False  # the provider itself reported it dead
    if has_refresh_token:
        return is_whole and answer.refresh_token != before.refresh_token
    if answer.refresh_token is None and answer.access_token == before.access_token:
        return False
    expires_at = integer_or_none(existing, "access_expires_at")
    return bool(before.access_token) and (expires_at is None or now < expires_at)


# Disconnecting


@immutable
class PendingRevocation:
    """A grant still to be ended at the provider, not before `due_at`; None when there is nothing to do."""

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
# Accounts that an identity provider vouched for end with the connection to it. A renewal in progress doesn't bring one
# back: its answer has an earlier generation, under a lease that is over. Renewing it uses up no token.
_END_VOUCHED = """
    update connections set state = :needs_reauth, reason = :reason, generation = generation + 1,
        lease_owner = null, lease_until = null
    where tenant = :tenant and user_id = :user_id and renewed_by = :id and state = :active and ended_at is null
"""
_END_DELEGATIONS = """
    update delegations set revoked_at = :now, changed_at = :now
    where tenant = :tenant and user_id = :user_id and connection_id = :id and revoked_at is null
"""


async def disconnect(
    transaction: Transaction,
    ring: KeyRing,
    connection: Connection,
    *,
    now: int,
    by: str = "",
    via: str = "",
    client_id: str | None = None,
) -> PendingRevocation:
    """End a connection: refused from this commit on. Call it last in the transaction.

    Records `connection.closed`, `connection.closed_by_admin` with the name `by` of the admin who did it (`via`
    this client of the Admin API), or `connection.closed_by_agent` with the `client_id` of the agent that did.

    Seals what the provider's revocation needs into the pending revocation. The connection's key is destroyed once that
    is done or given up (`vault.upkeep.revocations`), or here if its tokens do not open.
    """
    which: Mapping[str, Value] = {"tenant": TENANT, "id": connection.id}
    mine: Mapping[str, Value] = {**which, "user_id": connection.user_id, "now": now}
    row = await transaction.fetch_one(_END, {**mine, "state": ConnectionState.REVOKED.value, "reason": DISCONNECTED})
    if row is None:
        raise TransitionRefused("This connection is already disconnected.")
    sealed = await _seal_pending(transaction, ring, row, connection=connection)
    await transaction.execute(_FORGET, which)
    await transaction.execute(_DROP_NARROWED, which)
    await transaction.execute(_END_DELEGATIONS, mine)
    states = {"needs_reauth": ConnectionState.NEEDS_REAUTH.value, "active": ConnectionState.ACTIVE.value}
    await transaction.execute(_END_VOUCHED, {**which, **states, "user_id": connection.user_id, "reason": UNVOUCHED})
    await release_held(
        transaction,
        user_id=connection.user_id,
        provider=connection.provider,
        account=text(row, "account"),
        now=now,
    )
    # A refresh in progress may have spent the token that we hold: wait until its answer is in or can no longer come.
    due_at = max(now, integer_or_none(row, "lease_until") or now)
    await add_pending(transaction, {**mine, "provider": connection.provider}, sealed=sealed, due_at=due_at, now=now)
    if sealed is None:
        await ring.destroy_connection_key(transaction, connection.id)
    kind = "connection.closed" if client_id is None else "connection.closed_by_agent"
    await append(
        transaction,
        Event(
            "connection.closed_by_admin" if by else kind,
            user_id=connection.user_id,
            client_id=client_id,
            connection_id=connection.id,
            details={
                "provider": connection.provider,
                "account": connection.label,
                "revocation_pending": bool(sealed),
                **({"by": by} if by else {}),
                **({"via": via} if via else {}),
            },
        ),
        now=now,
    )
    return PendingRevocation(
        connection.id, connection.user_id, connection.provider, due_at=None if sealed is None else due_at
    )


async def _seal_pending(transaction: Transaction, ring: KeyRing, row: Row, *, connection: Connection) -> bytes | None:
    """The tokens of a row, sealed for its revocation; None when there are none or they do not open."""
    try:
        key = await ring.load_key(transaction, user_id=connection.user_id, connection_id=connection.id)
        refresh_token = open_refresh_token(key, row, connection)
        access_token = open_access_token(key, row, connection)
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


def open_refresh_token(key: ConnectionKey, row: Row, connection: Connection) -> str | None:
    """The refresh token in a row of this connection, if it has one. Raises CiphertextRejected."""
    generation = integer(row, "generation")
    return _open(key, binary_or_none(row, "refresh_sealed"), REFRESH_TOKEN, connection, generation=generation)


def open_access_token(key: ConnectionKey, row: Row, connection: Connection) -> str | None:
    """The access token in a row of this connection, if it has one. Raises CiphertextRejected."""
    generation = integer(row, "access_generation")
    return _open(key, binary_or_none(row, "access_sealed"), ACCESS_TOKEN, connection, generation=generation)


def _open(
    key: ConnectionKey, sealed: bytes | None, purpose: str, connection: Connection, *, generation: int
) -> str | None:
    if sealed is None:
        return None
    return key.open(
        sealed, purpose=purpose, provider=connection.provider, account=connection.account, generation=generation
    )

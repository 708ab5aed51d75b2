"""Delegations: what one agent may do with one connection of one user, and until when.

They are the fine-grained permission, separate from the agent's token, so that they can grow and end without a new
token. `vault.exchange` decides whether a delegation is enough. Writing functions record no event: the caller appends it
last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from vault.records import TENANT, ApprovalState, Connection, Delegation, Event, format_scope, parse_scope
from vault.refusals import TemporarilyUnavailable, TransitionRefused
from vault.storage.database import (
    Reader,
    Row,
    Transaction,
    Value,
    integer,
    integer_or_none,
    page_names,
    page_values,
    text,
)

WRITES: Final = "effect:write"  # ask about everything that may change something, including future tools

_SELECT = """
    select user_id, client_id, connection_id, scopes, created_at, expires_at, revoked_at, ask, is_default
    from delegations
    where tenant = :tenant and user_id = :user_id
"""
_FOR_USER = f"{_SELECT} order by client_id, connection_id"
_FOR_CONNECTION = f"{_SELECT} and connection_id = :connection_id"  # an order would make SQLite read all of the user's
_CLIENTS: Final = 25  # per read
_LIVE_OF_CLIENTS = f"""{_SELECT} and client_id in ({page_names("client", _CLIENTS)})
    and revoked_at is null and (expires_at is null or expires_at > :now)
"""
_COUNT_AGENTS = """
    select k.id, (select count(*) from delegations d
        where d.tenant = k.tenant and d.connection_id = k.id and d.user_id = k.user_id
            and d.revoked_at is null and (d.expires_at is null or d.expires_at > :now)) as n
    from connections k where k.tenant = :tenant and k.user_id = :user_id
"""
_FOR_CLIENT = f"{_SELECT} and client_id = :client_id order by connection_id"
_GET = f"{_SELECT} and client_id = :client_id and connection_id = :connection_id"

# The insert selects from the connections, so that only a live one of this user, or of a group that they are in, can be
# used.
_ALLOW = """
    insert into delegations (tenant, user_id, client_id, connection_id, scopes, created_at, changed_at, expires_at)
    select k.tenant, cast(:user_id as text), cast(:client_id as text), k.id, cast(:scopes as text),
        cast(:now as bigint), cast(:now as bigint), cast(:expires_at as bigint)
    from connections k
    where k.tenant = :tenant and k.id = :connection_id and k.ended_at is null and (
        k.user_id = :user_id or exists (
            select 1 from memberships m where m.tenant = :tenant and m.user_id = :user_id and m.group_id = k.user_id
                and (m.expires_at is null or m.expires_at > :now)
        )
    )
    on conflict (tenant, user_id, client_id, connection_id) do update set
        scopes = excluded.scopes, changed_at = excluded.changed_at, expires_at = excluded.expires_at, revoked_at = null
"""
# An approval given before the permission ended doesn't come back with the permission.
_VOID_APPROVALS = """
    update approvals set expires_at = :now
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and connection_id = :connection_id
        and state in (:pending, :approved) and expires_at > :now and exists (
            select 1 from delegations d
            where d.tenant = :tenant and d.user_id = :user_id and d.client_id = :client_id
                and d.connection_id = :connection_id and (d.revoked_at is not null or d.expires_at <= :now)
        )
"""
_VOID_STANDING = """
    delete from standing_approvals
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and connection_id = :connection_id
        and not exists (
            select 1 from delegations d
            where d.tenant = :tenant and d.user_id = :user_id and d.client_id = :client_id
                and d.connection_id = :connection_id and d.revoked_at is null
                and (d.expires_at is null or d.expires_at > :now)
        )
"""
# Nor does access that a request gave beyond a group's rule.
_VOID_REQUESTS = """
    update access_requests set state = 4, ended_at = :now, ended_reason = :reason
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and target = :connection_id and state = 2
        and exists (
            select 1 from delegations d
            where d.tenant = :tenant and d.user_id = :user_id and d.client_id = :client_id
                and d.connection_id = :connection_id and (d.revoked_at is not null or d.expires_at <= :now)
        )
"""
# From now on, the person's own choice for a permission counts: the end of a request doesn't undo it.
_MAKE_OWN = """
    update access_requests set made_permission = 0
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and target = :connection_id
        and made_permission = 1 and state in (2, 4)
"""
# A later approval must not restore what the person removed after they, or their agent, had asked.
_END_ASKING = """
    update access_requests set state = 4, ended_at = :now, ended_reason = :reason
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and target = :connection_id and state = 1
"""
_END_ASKING_OF_CLIENT = """
    update access_requests set state = 4, ended_at = :now, ended_reason = :reason
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and state = 1
"""
_STATES: Mapping[str, Value] = {"pending": ApprovalState.PENDING.value, "approved": ApprovalState.APPROVED.value}
_EXTEND = """
    update delegations set scopes = :scopes, changed_at = :now, expires_at = :expires_at
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and connection_id = :connection_id
        and scopes = :previous and revoked_at is null
"""
_SET_ASK = """
    update delegations set ask = :ask, changed_at = :now
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and connection_id = :connection_id
        and revoked_at is null and ask <> :ask
"""
_HOLD = """
    update delegations set changed_at = changed_at
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and connection_id = :connection_id
        and revoked_at is null
"""
_SET_DEFAULT = """
    update delegations set is_default = case when connection_id = :connection_id then 1 else 0 end, changed_at = :now
    where tenant = :tenant and user_id = :user_id and client_id = :client_id
        and is_default <> case when connection_id = :connection_id then 1 else 0 end
        and connection_id in (
            select k.id from connections k
            where k.tenant = :tenant and k.user_id = :user_id and k.provider = :provider and k.ended_at is null
        )
"""
_REVOKE = """
    update delegations set revoked_at = :now, changed_at = :now
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and connection_id = :connection_id
        and revoked_at is null
"""
_REVOKE_CLIENT = """
    update delegations set revoked_at = :now, changed_at = :now
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and revoked_at is null
"""


_scopes = lru_cache(maxsize=2048)(parse_scope)  # a person's delegations share a few sets


def _delegation(row: Row) -> Delegation:
    return Delegation(
        user_id=text(row, "user_id"),
        client_id=text(row, "client_id"),
        connection_id=text(row, "connection_id"),
        scopes=_scopes(text(row, "scopes")),
        created_at=integer(row, "created_at"),
        expires_at=integer_or_none(row, "expires_at"),
        revoked_at=integer_or_none(row, "revoked_at"),
        ask=_scopes(text(row, "ask")),
        is_default=integer(row, "is_default") == 1,
    )


async def allow(
    transaction: Transaction,
    *,
    user_id: str,
    client_id: str,
    connection_id: str,
    scopes: frozenset[str],
    now: int,
    expires_at: int | None = None,
) -> Delegation:
    """Let an agent use a connection with exactly these scopes, replacing its earlier ones."""
    which: Mapping[str, Value] = {
        "tenant": TENANT,
        "user_id": user_id,
        "client_id": client_id,
        "connection_id": connection_id,
    }
    await transaction.execute(_VOID_APPROVALS, {**which, **_STATES, "now": now})
    await transaction.execute(_VOID_STANDING, {**which, "now": now})
    await transaction.execute(_VOID_REQUESTS, {**which, "reason": "permission_ended", "now": now})
    await transaction.execute(_MAKE_OWN, which)
    changed = await transaction.execute(
        _ALLOW, {**which, "scopes": format_scope(scopes), "now": now, "expires_at": expires_at}
    )
    if changed != 1:
        raise TransitionRefused(
            "This connection no longer exists.", detail="the user has no live connection with this ID"
        )
    return Delegation(user_id, client_id, connection_id, scopes=scopes, created_at=now, expires_at=expires_at)


async def extend(
    transaction: Transaction,
    *,
    user_id: str,
    client_id: str,
    connection_id: str,
    scopes: frozenset[str],
    now: int,
    expires_at: int | None = None,
    ask: frozenset[str] = frozenset(),
) -> Delegation:
    """Let an agent also use a connection with these scopes; a live delegation keeps its scopes and the earlier end.

    The person is asked about `ask` each time, and about what they were asked before.
    """
    which = {"user_id": user_id, "client_id": client_id, "connection_id": connection_id}
    delegation = await _extend(transaction, which, scopes, now=now, expires_at=expires_at)
    if ask:
        held = await get(transaction, **which)
        asked = ask if held is None else ask | held.ask
        await set_ask(transaction, **which, ask=asked, now=now)
        return replace(delegation, ask=asked)
    return delegation


async def _extend(
    transaction: Transaction, which: Mapping[str, str], scopes: frozenset[str], *, now: int, expires_at: int | None
) -> Delegation:
    for _ in range(5):
        held = await get(transaction, **which)
        if held is None or not held.is_live(now):
            return await allow(transaction, **which, scopes=scopes, now=now, expires_at=expires_at)
        union = held.scopes | scopes
        until = min((end for end in (held.expires_at, expires_at) if end is not None), default=None)
        changed = await transaction.execute(
            _EXTEND,
            {
                "tenant": TENANT,
                **which,
                "scopes": format_scope(union),
                "previous": format_scope(held.scopes),
                "expires_at": until,
                "now": now,
            },
        )
        if changed == 1:
            await transaction.execute(_MAKE_OWN, {"tenant": TENANT, **which})
            return replace(held, scopes=union, expires_at=until)
    raise TemporarilyUnavailable("Something else is changing this permission.", retry_after=1)


async def set_ask(
    transaction: Transaction, *, user_id: str, client_id: str, connection_id: str, ask: frozenset[str], now: int
) -> bool:
    """Ask the person each time for exactly these scopes and tools (`tool:NAME`); False when nothing changes.

    Survives scope changes and a revocation: the same questions are asked if the connection is allowed again.
    """
    which: Mapping[str, Value] = {"user_id": user_id, "client_id": client_id, "connection_id": connection_id}
    return await transaction.execute(_SET_ASK, {"tenant": TENANT, **which, "ask": format_scope(ask), "now": now}) == 1


async def set_default(
    transaction: Transaction, *, user_id: str, client_id: str, provider: str, connection_id: str | None, now: int
) -> bool:
    """Set the account that this agent means when it names none; None: ask. False when nothing changes."""
    which: Mapping[str, Value] = {
        "tenant": TENANT,
        "user_id": user_id,
        "client_id": client_id,
        "provider": provider,
        "connection_id": connection_id or "",
        "now": now,
    }
    return await transaction.execute(_SET_DEFAULT, which) > 0


async def revoke(transaction: Transaction, *, user_id: str, client_id: str, connection_id: str, now: int) -> bool:
    """Take a connection and its pending requests away from an agent; False if the agent had none."""
    which: Mapping[str, Value] = {"user_id": user_id, "client_id": client_id, "connection_id": connection_id}
    await transaction.execute(_END_ASKING, {"tenant": TENANT, **which, "reason": "permission_ended", "now": now})
    return await expire(transaction, user_id=user_id, client_id=client_id, connection_id=connection_id, now=now)


async def expire(transaction: Transaction, *, user_id: str, client_id: str, connection_id: str, now: int) -> bool:
    """End the permission as if it expired, so that requests to extend it stay open; False without one."""
    which: Mapping[str, Value] = {"user_id": user_id, "client_id": client_id, "connection_id": connection_id}
    return await transaction.execute(_REVOKE, {"tenant": TENANT, **which, "now": now}) == 1


async def revoke_for_client(transaction: Transaction, *, user_id: str, client_id: str, now: int) -> int:
    """Take all of a user's connections and their pending requests away from an agent; returns how many."""
    which: Mapping[str, Value] = {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "now": now}
    await transaction.execute(_END_ASKING_OF_CLIENT, {**which, "reason": "permission_ended"})
    return await transaction.execute(_REVOKE_CLIENT, which)


async def get(reader: Reader, *, user_id: str, client_id: str, connection_id: str) -> Delegation | None:
    """This user's delegation of this connection to this agent, live or not."""
    row = await reader.fetch_one(
        _GET, {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "connection_id": connection_id}
    )
    return None if row is None else _delegation(row)


async def hold(transaction: Transaction, *, user_id: str, client_id: str, connection_id: str) -> Delegation | None:
    """Lock the delegation until the transaction ends, and read it; None if there is none or it was revoked."""
    which: Mapping[str, Value] = {"user_id": user_id, "client_id": client_id, "connection_id": connection_id}
    if await transaction.execute(_HOLD, {"tenant": TENANT, **which}) == 0:
        return None
    return await get(transaction, user_id=user_id, client_id=client_id, connection_id=connection_id)


async def list_for_user(reader: Reader, user_id: str) -> tuple[Delegation, ...]:
    """Every delegation of a user, live or not."""
    return tuple(_delegation(row) for row in await reader.fetch(_FOR_USER, {"tenant": TENANT, "user_id": user_id}))


async def list_for_client(reader: Reader, user_id: str, *, client_id: str) -> tuple[Delegation, ...]:
    """What a user delegated to one agent, live or not."""
    rows = await reader.fetch(_FOR_CLIENT, {"tenant": TENANT, "user_id": user_id, "client_id": client_id})
    return tuple(_delegation(row) for row in rows)


async def list_for_connection(reader: Reader, user_id: str, *, connection_id: str) -> tuple[Delegation, ...]:
    """What a user delegated of one connection, live or not."""
    rows = await reader.fetch(_FOR_CONNECTION, {"tenant": TENANT, "user_id": user_id, "connection_id": connection_id})
    return tuple(_delegation(row) for row in rows)


async def list_live_of_clients(
    reader: Reader, user_id: str, *, client_ids: Sequence[str], now: int
) -> tuple[Delegation, ...]:
    """What these agents may now use, in no order."""
    found: list[Delegation] = []
    for start in range(0, len(client_ids), _CLIENTS):
        page = page_values("client", client_ids[start : start + _CLIENTS], _CLIENTS)
        rows = await reader.fetch(_LIVE_OF_CLIENTS, {"tenant": TENANT, "user_id": user_id, "now": now, **page})
        found += map(_delegation, rows)
    return tuple(found)


async def count_agents(reader: Reader, user_id: str, *, now: int) -> Mapping[str, int]:
    """How many agents may now use each of the user's own connections, by its ID."""
    rows = await reader.fetch(_COUNT_AGENTS, {"tenant": TENANT, "user_id": user_id, "now": now})
    return {text(row, "id"): integer(row, "n") for row in rows}


def extended_event(
    connection: Connection,
    *,
    client_id: str,
    scopes: frozenset[str],
    ask: frozenset[str],
    expires_at: int | None,
) -> Event:
    """The event recorded when an agent gets more scopes of a connection, as passed to `extend`."""
    details: dict[str, object] = {
        "provider": connection.provider,
        "account": connection.label,
        "scopes": sorted(scopes),
        **({"ask": sorted(ask)} if ask else {}),
        **({"ends_at": expires_at} if expires_at is not None else {}),
    }
    return Event(
        kind="delegation.extended",
        user_id=connection.user_id,
        client_id=client_id,
        connection_id=connection.id,
        details=details,
    )

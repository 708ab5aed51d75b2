"""Tell people once that a provider will end a connection soon, before a call fails.

The row has when a grant ends, by age or because it is unused; the pages show `Connection.status`. This module selects
the unused connections that may be kept alive; `server.lifecycle.maintenance` refreshes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vault import replay
from vault.audit.audit import append
from vault.classes.immutable import immutable
from vault.records import EXPIRING, SHORT, TENANT, ConnectionState, Event
from vault.storage.database import Database, Row, Value, integer, integer_or_none, text

BATCH = 100  # connections per read and transaction
_PURPOSE = "connection.expiring"

# Like `_end`.
_NEXT_END = """
    case when idle_expires_at > :now and (grant_expires_at is null or grant_expires_at <= :now
        or idle_expires_at < grant_expires_at) then idle_expires_at else grant_expires_at end
"""
# A page of upcoming ends that aren't announced yet, after an end and an ID (many may end in one second). Ends by age
# and by disuse are separate, each with an index of unannounced ends; a grant with both is announced for the nearer one,
# which comes first.
_SOON = tuple(
    f"""
    select id, user_id, provider, label, grant_expires_at, idle_expires_at, created_at, consented_ms, {end} as ends_at
    from connections
    where tenant = :tenant and ended_at is null and {end} is not null and state = :active
        and ({end}, id) > (:from, :after) and {end} <= :soon
        and (announced_end is null or announced_end <> {end})
        and (announced_end is null or announced_end <> {_NEXT_END})
    order by {end}, id limit :limit
    """  # noqa: S608 -- names of columns
    for end in ("grant_expires_at", "idle_expires_at")
)
_ANNOUNCED = "update connections set announced_end = :end where tenant = :tenant and id = :id"
# A page of connections that a provider will end soon. Only those that an agent may use are kept alive.
_RESTING = """
    select k.id, k.access_generation, k.idle_expires_at,
        case when k.state = :active and k.refresh_sealed is not null and exists (
            select 1 from delegations d
            where d.tenant = k.tenant and d.connection_id = k.id and d.revoked_at is null
                and (d.expires_at is null or d.expires_at > :now)
        ) then 1 else 0 end as is_wanted
    from connections k
    where k.tenant = :tenant and k.provider = :provider and k.ended_at is null
        and (k.idle_expires_at, k.id) > (:from, :after) and k.idle_expires_at <= :soon
    order by k.idle_expires_at, k.id
    limit :limit
"""


async def announce(database: Database) -> int:
    """Record `connection.expiring` once for each connection that its provider ends within a week; returns how many."""
    return sum([await _announce(database, sql) for sql in _SOON])


async def _announce(database: Database, sql: str) -> int:
    now, announced = database.now(), 0
    which: dict[str, Value] = {"active": ConnectionState.ACTIVE.value, "soon": now + EXPIRING, "now": now}
    which |= {"tenant": TENANT, "limit": BATCH}
    start: Mapping[str, Value] = {"from": now + 1, "after": ""}
    end = start
    while rows := await database.fetch(sql, {**which, **start}):
        announced += await _announce_page(database, rows, now=now)
        start = end  # see `sign_ins`
        end = {"from": integer(rows[-1], "ends_at"), "after": text(rows[-1], "id")}
    return announced


async def _announce_page(database: Database, rows: Sequence[Row], *, now: int) -> int:
    """Announce a page of ends; also store each as a single-use value, the only form that the previous release reads.
    Grants of at most two days, such as an access token of an hour without a refresh token, aren't announced.
    """
    ends = [(row, _end(row, now=now)[0]) for row in rows]
    async with database.transaction() as transaction:
        events = [
            _event(row, now=now)
            for row, end in ends
            if not _is_short(row, now=now)
            and await replay.first_use(transaction, _PURPOSE, f"{text(row, 'id')} {end}", expires_at=end, now=now)
        ]
        marks = [{"tenant": TENANT, "id": text(row, "id"), "end": end} for row, end in ends]
        await transaction.execute_many(_ANNOUNCED, marks)
        await append(transaction, *events, now=now)
    return len(events)


@immutable
class RestingConnection:
    """A connection that its provider ends within two weeks unless it is refreshed."""

    connection_id: str
    generation: int


async def list_resting(database: Database, provider: str) -> tuple[RestingConnection, ...]:
    """Connections of a provider that agents may use and that end soon because they are unused, nearest end first.
    Returns at most two batches: refreshed connections end later, so the next sweep continues.
    """
    now, found = database.now(), list[RestingConnection]()
    page: dict[str, Value] = {"from": now + 1, "after": "", "limit": BATCH}
    which = {"active": ConnectionState.ACTIVE.value, "now": now, "soon": now + 2 * EXPIRING, "provider": provider}
    while len(found) < BATCH and (rows := await database.fetch(_RESTING, {"tenant": TENANT, **which, **page})):
        found += [
            RestingConnection(text(row, "id"), integer(row, "access_generation"))
            for row in rows
            if integer(row, "is_wanted")
        ]
        page |= {"from": integer(rows[-1], "idle_expires_at"), "after": text(rows[-1], "id")}
    return tuple(found)


def _end(row: Row, *, now: int) -> tuple[int, str]:
    """The next end of a grant and its reason: `age` or `unused`."""
    ends = ((integer_or_none(row, "grant_expires_at"), "age"), (integer_or_none(row, "idle_expires_at"), "unused"))
    return min((at, why) for at, why in ends if at is not None and at > now)


def _is_short(row: Row, *, now: int) -> bool:
    """Whether the grant ends by age, so soon after its consent that it needs no announcement."""
    ends_at, why = _end(row, now=now)
    consented_ms = integer_or_none(row, "consented_ms")
    begun = integer(row, "created_at") if consented_ms is None else consented_ms // 1000
    return why == "age" and ends_at - begun <= SHORT


def _event(row: Row, *, now: int) -> Event:
    ends_at, why = _end(row, now=now)
    return Event(
        _PURPOSE,
        user_id=text(row, "user_id"),
        connection_id=text(row, "id"),
        details={
            "provider": text(row, "provider"),
            "account": text(row, "label"),
            "ends_at": ends_at,
            "why": why,
        },
    )

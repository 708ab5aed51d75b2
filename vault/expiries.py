"""Telling people once that a provider will end a connection soon, while reconnecting still costs nobody a failed call.

When a grant ends, by its age or because nobody used it, is in its row; what the pages show of it is
`Connection.status`. Keeping an unused one alive is `server.upkeep`; which may be is said here.
"""

from __future__ import annotations

from dataclasses import dataclass

from vault import replay
from vault.audit import append
from vault.database import Database, Row, integer, integer_or_none, text
from vault.records import EXPIRING, TENANT, ConnectionState, Event

BATCH = 100  # connections per transaction

_SOON = """
    select id, user_id, provider, label, grant_expires_at, idle_expires_at from connections
    where tenant = :tenant and ended_at is null and state = :active
        and grant_expires_at > :now and grant_expires_at <= :soon
    union
    select id, user_id, provider, label, grant_expires_at, idle_expires_at from connections
    where tenant = :tenant and ended_at is null and state = :active
        and idle_expires_at > :now and idle_expires_at <= :soon
    order by id
"""
# Only while an agent may use it: a grant that nobody may use is better dead.
_RESTING = """
    select k.id, k.provider, k.access_generation from connections k
    where k.tenant = :tenant and k.ended_at is null and k.state = :active and k.refresh_sealed is not null
        and k.idle_expires_at > :now and k.idle_expires_at <= :soon
        and exists (
            select 1 from delegations d
            where d.tenant = k.tenant and d.connection_id = k.id and d.revoked_at is null
                and (d.expires_at is null or d.expires_at > :now)
        )
    order by k.idle_expires_at, k.id
    limit :limit
"""


async def announce(database: Database) -> int:
    """Record `connection.expiring` once for every connection that its provider ends within a week; how many."""
    now = database.now()
    which = {"tenant": TENANT, "active": ConnectionState.ACTIVE.value, "now": now, "soon": now + EXPIRING}
    rows = await database.fetch(_SOON, which)
    announced = 0
    for first in range(0, len(rows), BATCH):
        async with database.transaction() as transaction:
            events: list[Event] = []
            for row in rows[first : first + BATCH]:
                ends_at, _ = _end(row, now=now)
                named = f"{text(row, 'id')} {ends_at}"  # a new consent is announced anew
                if await replay.first_use(transaction, "connection.expiring", named, expires_at=ends_at, now=now):
                    events.append(_event(row, now=now))
            if events:
                await append(transaction, *events, now=now)
        announced += len(events)
    return announced


@dataclass(frozen=True, slots=True)
class Resting:
    """A connection that its provider ends within two weeks unless it is refreshed."""

    connection_id: str
    provider: str
    generation: int


async def resting(database: Database) -> tuple[Resting, ...]:
    """Connections that agents may use and that die soon because none did; at most a batch, the next to die first."""
    now = database.now()
    which = {"tenant": TENANT, "active": ConnectionState.ACTIVE.value, "now": now, "soon": now + 2 * EXPIRING}
    rows = await database.fetch(_RESTING, {**which, "limit": BATCH})
    return tuple(Resting(text(row, "id"), text(row, "provider"), integer(row, "access_generation")) for row in rows)


def _end(row: Row, *, now: int) -> tuple[int, str]:
    """The next end of a grant, and why: `age` or `unused`."""
    ends = ((integer_or_none(row, "grant_expires_at"), "age"), (integer_or_none(row, "idle_expires_at"), "unused"))
    return min((at, why) for at, why in ends if at is not None and at > now)


def _event(row: Row, *, now: int) -> Event:
    ends_at, why = _end(row, now=now)
    return Event(
        "connection.expiring",
        user_id=text(row, "user_id"),
        connection_id=text(row, "id"),
        details={
            "provider": text(row, "provider"),
            "account": text(row, "label"),
            "ends_at": ends_at,
            "why": why,
        },
    )

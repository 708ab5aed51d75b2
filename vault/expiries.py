"""Telling people once that a provider will end a connection soon, while reconnecting still costs nobody a failed call.

When a grant ends is in its row; what the pages show of it is `Connection.status`.
"""

from __future__ import annotations

from vault import replay
from vault.audit import append
from vault.database import Database, Row, integer, text
from vault.records import EXPIRING, TENANT, ConnectionState, Event

BATCH = 100  # connections per transaction

_SOON = """
    select id, user_id, provider, label, grant_expires_at from connections
    where tenant = :tenant and ended_at is null and state = :active
        and grant_expires_at > :now and grant_expires_at <= :soon
    order by grant_expires_at, id
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
                ends_at = integer(row, "grant_expires_at")
                named = f"{text(row, 'id')} {ends_at}"  # a new consent is announced anew
                if await replay.first_use(transaction, "connection.expiring", named, expires_at=ends_at, now=now):
                    events.append(_event(row))
            if events:
                await append(transaction, *events, now=now)
        announced += len(events)
    return announced


def _event(row: Row) -> Event:
    return Event(
        "connection.expiring",
        user_id=text(row, "user_id"),
        connection_id=text(row, "id"),
        details={
            "provider": text(row, "provider"),
            "account": text(row, "label"),
            "ends_at": integer(row, "grant_expires_at"),
        },
    )

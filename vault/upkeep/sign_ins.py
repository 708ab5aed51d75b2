"""Notify people once, a day ahead, that an agent's sign-in ends, by age or because it is unused.

The newest refresh token of each family (`vault.tokens.tokens`) has the end; `vault.upkeep.expiries` covers upstream
grants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from vault import replay
from vault.audit.audit import append
from vault.records import DAY, TENANT, Event
from vault.storage.database import Database, Row, Value, binary, integer, text

BATCH: Final = 200  # families per read and transaction
_PURPOSE: Final = "token.expiring"
# A page of tokens that end soon and haven't been checked yet, after an end and a token.
# Leaves out families that live less than a day: each of their uses would be announced.
_SOON: Final = """
    select t.token_hash, t.family, t.grant_id, t.client_id, t.expires_at, t.idle_expires_at as ends_at, g.user_id,
        case when g.revoked_at is null and c.removed_at is null and t.expires_at - g.created_at > :day
            and (t.idle_expires_at - t.issued_at > :day or t.idle_expires_at = t.expires_at) then 1 else 0 end as tells
    from (
        select token_hash, family, grant_id, client_id, issued_at, expires_at, idle_expires_at from refresh_tokens
        where tenant = :tenant and consumed_at is null and announced_end is null
            and (idle_expires_at, token_hash) > (:from, :after) and idle_expires_at <= :soon
        order by idle_expires_at, token_hash limit :limit
    ) t
    left join grants g on g.tenant = :tenant and g.id = t.grant_id
    left join clients c on c.tenant = :tenant and c.id = t.client_id
    order by t.idle_expires_at, t.token_hash
"""
_ANNOUNCED: Final = "update refresh_tokens set announced_end = :end where tenant = :tenant and token_hash = :token_hash"


async def announce(database: Database) -> int:
    """Record `token.expiring` once for every family that ends within a day unless it is used; returns how many."""
    now, announced = database.now(), 0
    which: dict[str, Value] = {"tenant": TENANT, "soon": now + DAY, "day": DAY, "limit": BATCH}
    start: Mapping[str, Value] = {"from": now + 1, "after": b""}
    end = start
    while rows := await database.fetch(_SOON, {**which, **start}):
        announced += await _announce_page(database, rows, now=now)
        # Starts where the page before the last one ended: PostgreSQL drops the entries of checked tokens from its index
        # as it passes them again, a page at a time; otherwise the next round would pass all of them in one statement.
        start = end
        end = {"from": integer(rows[-1], "ends_at"), "after": binary(rows[-1], "token_hash")}
    return announced


async def _announce_page(database: Database, rows: Sequence[Row], *, now: int) -> int:
    """Each token is checked once, because whatever excludes it doesn't change. A family that ends by age is refreshed
    until then, so its end is recorded with its tokens, too.
    """
    async with database.transaction() as transaction:
        events = [
            _event(row)
            for row in rows
            if integer(row, "tells")
            and await replay.first_use(
                transaction,
                _PURPOSE,
                f"{text(row, 'family')} {integer(row, 'ends_at')}",
                expires_at=integer(row, "ends_at"),
                now=now,
            )
        ]
        marks: list[dict[str, Value]] = [
            {"tenant": TENANT, "token_hash": binary(row, "token_hash"), "end": integer(row, "ends_at")} for row in rows
        ]
        await transaction.execute_many(_ANNOUNCED, marks)
        await append(transaction, *events, now=now)
    return len(events)


def _event(row: Row) -> Event:
    ends_at = integer(row, "ends_at")
    why = "age" if ends_at == integer(row, "expires_at") else "unused"
    return Event(
        _PURPOSE,
        user_id=text(row, "user_id"),
        client_id=text(row, "client_id"),
        details={"grant": text(row, "grant_id"), "ends_at": ends_at, "why": why},
    )

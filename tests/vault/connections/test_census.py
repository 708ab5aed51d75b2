"""What the vault counts of its connections and refreshes reads a bounded number of rows."""

from __future__ import annotations

import pytest

from tests.support.rooms.vault_room import Room
from vault.audit.audit import append
from vault.audit.segments import SEAL_AFTER, seal
from vault.records import DAY, Event
from vault.upkeep import census


@pytest.mark.parametrize("count", [1000, 1002])
async def test_of_a_providers_connections_1001_are_counted(room: Room, count: int) -> None:
    made = await room.connect()
    row = await room.database.fetch_one("select * from connections where id = :id", {"id": made.id})
    assert row is not None
    names = ", ".join(row)
    async with room.database.transaction() as transaction:
        await transaction.execute_many(
            f"insert into connections ({names}) values ({', '.join(f':{name}' for name in row)})",
            [{**row, "id": f"c-{number}", "account": f"account-{number}"} for number in range(count - 1)],
        )
    assert (await census.count_at_provider(room.database, "slack")).count == min(count, 1001)


async def test_refreshes_are_counted_among_the_newest_5000_events(room: Room) -> None:
    async with room.database.transaction() as transaction:
        for kind, times in (("connection.refreshed", 2), ("tool.called", 4999)):
            await append(transaction, *(Event(kind) for _ in range(times)), now=room.now)
    assert (await census.count_refreshes(room.database, since=0))["ok"] == 1


async def test_the_oldest_event_that_is_not_sealed_is_told_whatever_came_before_it(room: Room) -> None:
    """After a quiet night, the time since the last sealed event isn't how long the newest ones have waited."""
    began, day = room.now, room.now + DAY
    pulse = await census.take_pulse(room.database)
    assert (pulse.newest_event_at, pulse.sealed_until, pulse.unsealed_since) == (None, None, None)
    async with room.database.transaction() as transaction:
        await append(transaction, Event("grant.revoked"), now=began)
        await append(transaction, Event("grant.revoked"), now=began + 60)
    pulse = await census.take_pulse(room.database)
    assert (pulse.newest_event_at, pulse.sealed_until, pulse.unsealed_since) == (began + 60, None, began)
    await seal(room.database, now=began + SEAL_AFTER)
    pulse = await census.take_pulse(room.database)
    assert (pulse.newest_event_at, pulse.sealed_until, pulse.unsealed_since) == (began + 60, began + 60, None)
    async with room.database.transaction() as transaction:
        await append(transaction, Event("grant.revoked"), now=day)
        await append(transaction, Event("grant.revoked"), now=day + 60)
    pulse = await census.take_pulse(room.database)
    assert (pulse.newest_event_at, pulse.sealed_until, pulse.unsealed_since) == (day + 60, began + 60, day)
    async with room.database.transaction() as transaction:
        await transaction.execute("update event_checkpoints set last_at = last_at + 1")
    pulse = await census.take_pulse(room.database)  # a changed checkpoint seals nothing
    assert (pulse.newest_event_at, pulse.sealed_until, pulse.unsealed_since) == (day + 60, None, began)

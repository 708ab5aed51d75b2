"""What the vault counts of its connections and refreshes reads a bounded number of rows."""

from __future__ import annotations

import pytest

from tests.support.rooms.vault_room import Room
from vault.audit.audit import append
from vault.records import Event
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

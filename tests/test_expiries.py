"""Grants that their providers end: announced a week before, once."""

from __future__ import annotations

from tests.conftest import Store
from tests.exchanging import open_room, second_process
from vault.connections import get_connection
from vault.expiries import announce

DAY = 86400


async def test_the_end_of_a_grant_is_announced_once_a_week_before(store: Store) -> None:
    async with open_room(store) as room, second_process(room) as other:
        connection = await room.connect()
        await room.connect(account="lasting")
        async with room.database.transaction() as transaction:
            await transaction.execute(
                "update connections set grant_expires_at = :at where id = :id",
                {"at": room.now + 30 * DAY, "id": connection.id},
            )
        assert await announce(room.database) == 0
        room.pass_time(23 * DAY + 1)
        other.pass_time(23 * DAY + 1)
        assert await announce(room.database) + await announce(other.database) == 1
        assert await announce(room.database) == 0
        (event,) = await room.events("connection.expiring")
        assert (event.connection_id, event.user_id) == (connection.id, room.alice.user.id)
        shown = await get_connection(room.database, connection.id, user_id=room.alice.user.id)
        assert shown is not None
        assert shown.status(room.now) == "expiring"
        room.pass_time(8 * DAY)
        assert await announce(room.database) == 0

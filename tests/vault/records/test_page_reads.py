"""What pages read about one person's agents and accounts, on both databases: only theirs, and only what is current."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.rooms.vault_room import Room
from tests.support.seeded_grant import seed
from vault import clients, connections, delegations, grants
from vault.audit import audit
from vault.records import Event

DAY = 86400
READ = frozenset({"channels:read"})


async def test_only_permissions_that_count_now_are_listed(room: Room) -> None:
    alice, other = room.alice, await seed(room.database, name="other", client_id="agent-2")
    first, second = await room.connect(), await room.connect("google")
    await room.allow(second, READ, expires_at=room.now + 10)
    for user, now, live in (
        (alice.user, room.now, {first.id, second.id}),
        (alice.user, room.now + 10, {first.id}),
        (other.user, room.now, set[str]()),
    ):
        many = [*map(str, range(30)), alice.client.id]
        for some in (many, many[::-1]):
            found = await delegations.list_live_of_clients(room.database, user.id, client_ids=some, now=now)
            assert {one.connection_id for one in found} == live
        counted = await delegations.count_agents(room.database, user.id, now=now)
        assert {connection_id for connection_id, number in counted.items() if number} == live
    (held,) = await delegations.list_for_connection(room.database, alice.user.id, connection_id=second.id)
    assert (held.client_id, held.scopes) == (alice.client.id, READ)
    assert await delegations.list_for_connection(room.database, other.user.id, connection_id=second.id) == ()


async def test_agents_are_a_persons_own_while_signed_in_or_allowed_something(room: Room) -> None:
    alice, other = room.alice, await seed(room.database, name="other", client_id="agent-2")
    connection = await room.connect()
    assert [one.id for one in await clients.list_own(room.database, alice.user.id, now=room.now)] == [alice.client.id]
    async with room.database.transaction() as transaction:
        await grants.revoke_client_grants(
            transaction, user_id=alice.user.id, client_id=alice.client.id, reason="cut_off", now=room.now
        )
    assert [one.id for one in await clients.list_own(room.database, alice.user.id, now=room.now)] == [alice.client.id]
    await room.revoke(connection, whose=alice)
    assert await clients.list_own(room.database, alice.user.id, now=room.now) == ()
    assert [one.id for one in await clients.list_own(room.database, other.user.id, now=room.now)] == [other.client.id]
    (ended,) = await grants.list_sign_ins(room.database, alice.user.id, client_id=alice.client.id, limit=5)
    assert (ended.is_live, ended.revoked_reason) == (False, "cut_off")


async def test_the_last_use_of_each_account_is_found_and_refusals_are_no_use(room: Room) -> None:
    alice, connection = room.alice, await room.connect()
    for at, kind, account in (
        (100, "tool.called", connection.id),
        (200, "proxy.called", connection.id),
        (300, "exchange.refused", connection.id),
        (400, "token.refreshed", None),
    ):
        async with room.database.transaction() as transaction:
            event = Event(kind, user_id=alice.user.id, client_id=alice.client.id, connection_id=account)
            await audit.append(transaction, event, now=room.now + at)
    found = {one.connection_id: one.at for one in await audit.list_last_uses(room.database, alice.user.id)}
    assert found == {connection.id: room.now + 200, None: room.now + 400}
    assert await audit.last_uses_of_agents(room.database, alice.user.id) == {alice.client.id: room.now + 400}
    assert await audit.last_uses_of_accounts(room.database, alice.user.id) == {connection.id: room.now + 200}


async def test_last_uses_are_looked_for_among_2000_events_of_the_person(room: Room) -> None:
    alice = room.alice
    async with room.database.transaction() as transaction:
        await audit.append(transaction, Event("tool.called", user_id=alice.user.id, client_id="rare"), now=room.now)
    for count, expected in ((1999, {"rare", "often"}), (1, {"often"})):
        used = Event("tool.called", user_id=alice.user.id, client_id="often")
        async with room.database.transaction() as transaction:
            await audit.append(transaction, *[used] * count, now=room.now)
        assert {*await audit.last_uses_of_agents(room.database, alice.user.id)} == expected


async def test_the_uses_of_each_day_are_counted_as_far_back_as_is_known(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, connection = room.alice, await room.connect()
    today = room.now // DAY * DAY
    for age, kind, client_id in (
        (5, "tool.called", "agent-1"),  # too long ago
        (4, "tool.called", "agent-1"),
        (3, "tool.called", alice.client.id),
        (3, "token.exchanged", alice.client.id),
        (2, "exchange.refused", alice.client.id),
        (2, "tool.called", "agent-2"),
        (0, "proxy.called", alice.client.id),
    ):
        event = Event(kind, user_id=alice.user.id, client_id=client_id, connection_id=connection.id)
        async with room.database.transaction() as transaction:
            await audit.append(transaction, event, now=today - age * DAY)

    async def uses() -> tuple[int, ...]:
        return await audit.list_daily_uses(
            room.database, alice.user.id, client_id=alice.client.id, now=today + DAY - 1, days=4
        )

    assert await uses() == (2, 0, 0, 1)
    monkeypatch.setattr(audit, "LOOK_BACK", 7)  # both events from before the first day are examined
    assert await uses() == (2, 0, 0, 1)
    monkeypatch.setattr(audit, "LOOK_BACK", 4)  # events of the oldest day may be missing
    assert await uses() == (0, 0, 1)


async def test_an_account_keeps_its_own_name_and_others_cannot_give_it_one(room: Room) -> None:
    connection, other = await room.connect(), await seed(room.database, name="other", client_id="agent-2")
    foreign = replace(connection, user_id=other.user.id)
    for one, name, kept in ((connection, "Work", "Work"), (foreign, "Stolen", "Work"), (connection, "", "")):
        async with room.database.transaction() as transaction:
            await connections.rename(transaction, one, nickname=name)
        stored = await connections.get_connection(room.database, connection.id, user_id=room.alice.user.id)
        assert stored is not None
        assert stored.nickname == kept

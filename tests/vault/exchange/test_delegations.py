"""Delegations: what a person allows one agent to do with one connection."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.rooms.vault_room import Room
from tests.support.seeded_grant import seed
from vault import delegations
from vault.records import Connection, Delegation
from vault.refusals import TransitionRefused

READ, WRITE = frozenset({"channels:read"}), frozenset({"chat:write"})


async def get_delegation(room: Room, connection: Connection) -> Delegation | None:
    return await delegations.get(
        room.database,
        user_id=room.alice.user.id,
        client_id=room.alice.client.id,
        connection_id=connection.id,
    )


async def extend(
    room: Room, connection: Connection, scopes: frozenset[str], *, expires_at: int | None = None
) -> Delegation:
    async with room.database.transaction() as transaction:
        return await delegations.extend(
            transaction,
            user_id=room.alice.user.id,
            client_id=room.alice.client.id,
            connection_id=connection.id,
            scopes=scopes,
            now=room.now,
            expires_at=expires_at,
        )


async def test_allowing_sets_exactly_these_scopes(room: Room) -> None:
    connection = await room.connect(delegated=READ | WRITE)
    end = room.now + 60
    await room.allow(connection, READ, expires_at=end)
    found = await get_delegation(room, connection)
    assert found is not None
    assert (found.scopes, found.expires_at) == (READ, end)
    assert [found.is_live(end + late) for late in (-60, -1, 0)] == [True, True, False]


async def test_extending_keeps_what_was_allowed_before(room: Room) -> None:
    connection = await room.connect(delegated=READ)
    assert (await extend(room, connection, WRITE)).scopes == READ | WRITE
    found = await get_delegation(room, connection)
    assert found is not None
    assert found.scopes == READ | WRITE


async def test_extending_does_not_prolong_what_was_to_end(room: Room) -> None:
    connection = await room.connect(delegated=frozenset())
    soon = room.now + 60
    await room.allow(connection, READ, expires_at=soon)
    assert (await extend(room, connection, WRITE)).expires_at == soon
    assert (await extend(room, connection, WRITE, expires_at=soon - 30)).expires_at == soon - 30


async def test_extending_asks_about_what_was_asked_before_and_what_is_to_be_asked_now(room: Room) -> None:
    connection = await room.connect(delegated=READ)
    await room.set_ask(connection, "channels:read")
    async with room.database.transaction() as transaction:
        extended = await delegations.extend(
            transaction,
            user_id=room.alice.user.id,
            client_id=room.alice.client.id,
            connection_id=connection.id,
            scopes=WRITE,
            now=room.now,
            ask=WRITE,
        )
    assert extended == await get_delegation(room, connection)
    assert (extended.scopes, extended.ask) == (READ | WRITE, READ | WRITE)
    assert (await extend(room, connection, WRITE)).ask == READ | WRITE  # asking no more would be a separate decision


async def test_extending_a_delegation_that_has_ended_brings_nothing_of_it_back(room: Room) -> None:
    connection = await room.connect(delegated=READ)
    assert await room.revoke(connection)
    assert (await extend(room, connection, WRITE)).scopes == WRITE
    found = await get_delegation(room, connection)
    assert found is not None
    assert (found.scopes, found.revoked_at, found.expires_at) == (WRITE, None, None)


async def test_extensions_at_the_same_time_all_count(room: Room) -> None:
    connection = await room.connect(delegated=READ)
    wanted = [frozenset({f"scope-{number}"}) for number in range(4)]
    async with asyncio.timeout(30):
        await asyncio.gather(*(extend(room, connection, scopes) for scopes in wanted))
    found = await get_delegation(room, connection)
    assert found is not None
    assert found.scopes == READ.union(*wanted)


async def test_revoking_is_final_until_the_person_allows_again(room: Room) -> None:
    connection = await room.connect(delegated=READ)
    assert await room.revoke(connection)
    assert not await room.revoke(connection)
    found = await get_delegation(room, connection)
    assert found is not None
    assert not found.is_live(room.now)


async def test_cutting_an_agent_off_takes_all_its_connections(room: Room) -> None:
    for account in ("alice", "work"):
        await room.connect(account=account)
    user_id, client_id = room.alice.user.id, room.alice.client.id
    async with room.database.transaction() as transaction:
        assert await delegations.revoke_for_client(transaction, user_id=user_id, client_id=client_id, now=room.now) == 2
    found = await delegations.list_for_client(room.database, user_id, client_id=client_id)
    assert [one.is_live(room.now) for one in found] == [False, False]


async def test_only_the_owner_of_a_live_connection_can_delegate_it(room: Room) -> None:
    connection = await room.connect(delegated=frozenset())
    bob = await seed(room.database, name="bob", client_id="agent-2")
    with pytest.raises(TransitionRefused):
        await room.allow(connection, READ, whose=bob)
    await room.allow(connection, READ)
    await room.disconnect(connection)
    with pytest.raises(TransitionRefused):
        await room.allow(connection, READ)
    with pytest.raises(TransitionRefused):
        await extend(room, connection, READ)


async def test_a_user_sees_every_agent_and_an_agent_only_its_own(room: Room) -> None:
    connection = await room.connect(delegated=READ)
    async with room.database.transaction() as transaction:
        await delegations.allow(
            transaction,
            user_id=room.alice.user.id,
            client_id="agent-9",
            connection_id=connection.id,
            scopes=WRITE,
            now=room.now,
        )
    everything = await delegations.list_for_user(room.database, room.alice.user.id)
    assert {(one.client_id, one.scopes) for one in everything} == {("agent-1", READ), ("agent-9", WRITE)}
    mine = await delegations.list_for_client(room.database, room.alice.user.id, client_id="agent-9")
    assert [one.scopes for one in mine] == [WRITE]
    assert await delegations.list_for_user(room.database, "nobody") == ()


async def test_a_change_says_whether_it_changed_anything_and_only_a_live_permission_is_held(room: Room) -> None:
    connection = await room.connect(delegated=READ)
    agent = {"user_id": room.alice.user.id, "client_id": room.alice.client.id}
    which = {**agent, "connection_id": connection.id}
    async with room.database.transaction() as transaction:
        for ask, changes in ((READ, True), (READ, False), (frozenset[str](), True), (frozenset[str](), False)):
            assert await delegations.set_ask(transaction, **which, ask=ask, now=room.now) is changes
        for default, changes in ((connection.id, True), (connection.id, False), (None, True), (None, False)):
            changed = await delegations.set_default(
                transaction, **agent, provider="slack", connection_id=default, now=room.now
            )
            assert changed is changes
        held = await delegations.hold(transaction, **which)
        assert held is not None
        assert held == await delegations.get(transaction, **which)
        assert await delegations.revoke(transaction, **which, now=room.now)
        assert await delegations.hold(transaction, **which) is None
        assert not await delegations.set_ask(transaction, **which, ask=READ, now=room.now)

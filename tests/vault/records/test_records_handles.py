"""Proxy handles: 256 bits, stored as a hash, bound to agent, account, scopes, time, key; they end with any of these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from tests.support.rooms.vault_room import Room, principal_of
from vault import clients, delegations, grants, handles, users
from vault.connections import disconnect
from vault.exchange.exchange import ExchangeRequest, exchange
from vault.handles import HandleRefused
from vault.records import Connection
from vault.refusals import ConnectionRequired, DelegationRequired, GrantEnded, VaultError

WRITE = frozenset({"chat:write"})


async def issue_handle(room: Room, connection: Connection, *, lifetime: int = 300, key: str | None = None) -> str:
    principal = replace(principal_of(room.alice), actors=("backend", "agent-1"))
    async with room.database.transaction() as transaction:
        return await handles.issue(
            transaction,
            principal=principal,
            connection_id=connection.id,
            provider="slack",
            scopes=WRITE,
            key_thumbprint=key,
            expires_at=room.now + lifetime,
            now=room.now,
        )


async def use_handle(room: Room, value: str) -> str | VaultError:
    """The result of using the handle: the account, or the refusal."""
    try:
        found = await handles.find(room.database, value, now=room.now)
        request = ExchangeRequest(
            found.principal, found.provider, found.scopes, purpose="proxy", connection_id=found.connection_id
        )
        return (await exchange(request, vault=room.vault, now=room.now)).connection_id
    except VaultError as refusal:
        return refusal


async def test_a_handle_brings_back_whose_it_is_and_what_for(room: Room) -> None:
    connection = await room.connect()
    value = await issue_handle(room, connection, key="thumb")
    assert value.startswith("tvp_")
    assert len(value) == 4 + 43
    found = await handles.find(room.database, value, now=room.now)
    assert (found.principal.user_id, found.principal.client_id) == (room.alice.user.id, room.alice.client.id)
    assert found.principal.grant_id == room.alice.grant.id
    assert found.principal.actors == ("backend", "agent-1")
    assert (found.connection_id, found.provider, found.scopes) == (connection.id, "slack", WRITE)
    assert found.expires_at - found.issued_at == 300
    rows = await room.database.fetch("select handle_hash from handles")
    assert [bytes(row["handle_hash"]) for row in rows] == [handles.handle_hash(value)]
    assert value not in repr(found)


async def test_two_handles_of_the_same_are_two(room: Room) -> None:
    connection = await room.connect()
    assert await issue_handle(room, connection) != await issue_handle(room, connection)


@pytest.mark.parametrize(
    "value", ["", "tvp_", "tvp_" + "A" * 43, "tvp_" + "A" * 42 + "\0", "x" * 47, "tvp_" + "é" * 43]
)
async def test_what_was_never_issued_is_refused(room: Room, value: str) -> None:
    connection = await room.connect()
    good = await issue_handle(room, connection)
    assert await use_handle(room, good) == connection.id
    assert isinstance(await use_handle(room, value), HandleRefused)
    assert isinstance(await use_handle(room, good[:-1]), HandleRefused)
    assert isinstance(await use_handle(room, good + "A"), HandleRefused)


async def test_a_handle_ends_on_time(room: Room) -> None:
    connection = await room.connect()
    value = await issue_handle(room, connection, lifetime=300)
    room.pass_time(270)
    assert await use_handle(room, value) == connection.id
    room.pass_time(30)
    assert isinstance(await use_handle(room, value), HandleRefused)


async def test_a_bound_handle_needs_its_key_and_an_unbound_one_takes_none(room: Room) -> None:
    connection = await room.connect()
    bound = await handles.find(room.database, await issue_handle(room, connection, key="mine"), now=room.now)
    bound.check_key("mine")
    for other in (None, "another"):
        with pytest.raises(HandleRefused):
            bound.check_key(other)
    free = await handles.find(room.database, await issue_handle(room, connection), now=room.now)
    free.check_key(None)
    with pytest.raises(HandleRefused):
        free.check_key("mine")


@pytest.mark.parametrize("end", ["grant", "disconnect", "delegation"])
async def test_a_handle_ends_with_what_it_stands_on(room: Room, end: str) -> None:
    connection = await room.connect()
    value = await issue_handle(room, connection)
    assert await use_handle(room, value) == connection.id
    async with room.database.transaction() as transaction:
        if end == "grant":
            await grants.revoke_grant(transaction, room.alice.grant.id, reason="test", now=room.now)
        elif end == "disconnect":
            await disconnect(transaction, room.vault.keys, connection, now=room.now)
        else:
            await delegations.revoke_for_client(
                transaction, user_id=room.alice.user.id, client_id=room.alice.client.id, now=room.now
            )
    refusal = await use_handle(room, value)
    expected = {"grant": GrantEnded, "disconnect": ConnectionRequired, "delegation": DelegationRequired}[end]
    assert isinstance(refusal, expected)


async def test_a_handle_of_one_account_never_reaches_another_one(room: Room) -> None:
    """Not even one that replaced the disconnected account, nor one whose label is the connection's ID."""
    first = await room.connect(account="first")
    value = await issue_handle(room, first)
    second = await room.connect(account=first.id)
    assert await use_handle(room, value) == first.id
    async with room.database.transaction() as transaction:
        await disconnect(transaction, room.vault.keys, first, now=room.now)
    assert isinstance(await use_handle(room, value), ConnectionRequired)
    assert await use_handle(room, await issue_handle(room, second)) == second.id


async def test_only_its_client_gives_a_handle_up(room: Room) -> None:
    connection = await room.connect()
    value = await issue_handle(room, connection)
    async with room.database.transaction() as transaction:
        assert not await handles.remove(transaction, value, client_id="another")
    assert await use_handle(room, value) == connection.id
    async with room.database.transaction() as transaction:
        assert await handles.remove(transaction, value, client_id=room.alice.client.id)
    assert isinstance(await use_handle(room, value), HandleRefused)


async def test_handles_that_are_over_are_forgotten_an_hour_later(room: Room) -> None:
    connection = await room.connect()
    await issue_handle(room, connection, lifetime=300)
    for seconds, forgotten in ((300, 0), (3599, 0), (1, 1)):
        room.pass_time(seconds)
        async with room.database.transaction() as transaction:
            assert await handles.sweep(transaction, now=room.now) == forgotten


async def end_nothing(room: Room, connection: Connection) -> None:
    """Does nothing."""


async def end_grant(room: Room, connection: Connection) -> None:
    async with room.database.transaction() as transaction:
        await grants.revoke_grant(transaction, room.alice.grant.id, reason="test", now=room.now)


async def end_connection(room: Room, connection: Connection) -> None:
    async with room.database.transaction() as transaction:
        await disconnect(transaction, room.vault.keys, connection, now=room.now)


async def end_delegation(room: Room, connection: Connection) -> None:
    async with room.database.transaction() as transaction:
        await delegations.revoke_for_client(
            transaction, user_id=room.alice.user.id, client_id=room.alice.client.id, now=room.now
        )


async def limit_delegation(room: Room, connection: Connection) -> None:
    await room.allow(connection, WRITE, expires_at=room.now + 60)


async def remove_client(room: Room, connection: Connection) -> None:
    async with room.database.transaction() as transaction:
        await clients.remove_client(transaction, room.alice.client.id, now=room.now)


async def disable_user(room: Room, connection: Connection) -> None:
    async with room.database.transaction() as transaction:
        await users.disable_user(transaction, room.alice.user.id, now=room.now)


async def ask_each_time(room: Room, connection: Connection) -> None:
    await room.set_ask(connection, *WRITE)


CHANGES = [
    *(end_nothing, end_grant, end_connection, end_delegation),
    *(limit_delegation, remove_client, disable_user, ask_each_time),
]


@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_a_use_depends_on_is_seen_to_change_in_one_read(
    room: Room, change: Callable[[Room, Connection], Awaitable[None]]
) -> None:
    connection = await room.connect()
    value = await issue_handle(room, connection)
    before = await handles.look(room.database, value, known=None, now=room.now)
    assert before.handle == await handles.find(room.database, value, now=room.now)
    assert value not in repr(before)
    await change(room, connection)
    after = await handles.look(room.database, value, known=before, now=room.now)
    assert (after is before) == (change is end_nothing)
    assert (after.facts == before.facts) == (change is end_nothing)
    if change is limit_delegation:
        assert after.until == room.now + 60


async def test_a_known_standing_ends_on_time_and_opens_nothing_for_another_value(room: Room) -> None:
    connection = await room.connect()
    value = await issue_handle(room, connection, lifetime=3000)
    standing = await handles.look(room.database, value, known=None, now=room.now)
    for wrong in ("", value + "A", "tvp_" + "A" * 43):
        with pytest.raises(HandleRefused):
            await handles.look(room.database, wrong, known=standing, now=room.now)
    room.pass_time(2900)
    assert await handles.look(room.database, value, known=standing, now=room.now) is standing
    room.pass_time(100)
    with pytest.raises(HandleRefused):
        await handles.look(room.database, value, known=standing, now=room.now)


def test_only_a_value_with_the_form_of_a_handle_is_looked_up() -> None:
    value = f"{handles.PREFIX}{'x' * 43}"
    assert handles.is_handle(value)
    for other in (value[:-1], f"{value}x", "x" * len(value), handles.PREFIX, ""):
        assert not handles.is_handle(other)

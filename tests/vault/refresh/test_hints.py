"""Hints that a grant may have ended: each is followed up, at most once a minute, even after a crash."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.doubles.upstream_double import INVALID_CLIENT
from tests.support.rooms.vault_room import WAIT, Room, second_process
from vault import connections
from vault.records import Connection, ConnectionState
from vault.refresh import grant_checks
from vault.refresh.grant_checks import HintedConnection

LATER = 90


async def hint(room: Room, connection: Connection) -> int:
    """How many checks this hint scheduled."""
    async with room.database.transaction() as transaction:
        named = [HintedConnection(connection.id, connection.user_id)]
        return len(await grant_checks.note(transaction, named, now=room.now))


@pytest.mark.parametrize("again", [True, False])
async def test_a_hint_within_a_minute_of_another_is_looked_at_after_it(room: Room, again: bool) -> None:
    connection = await room.connect()
    assert await hint(room, connection) == 1
    await grant_checks.look_if_due(room.vault, connection.id)
    assert len(room.slack.sends) == 1
    room.pass_time(10)
    if again:
        assert [await hint(room, connection) for _ in range(5)] == [1, 0, 0, 0, 0]
    await grant_checks.run_due(room.vault)
    room.pass_time(49)
    await grant_checks.run_due(room.vault)
    assert len(room.slack.sends) == 1, "too early"
    room.pass_time(1)
    for _ in range(3):
        await grant_checks.run_due(room.vault)
    assert len(room.slack.sends) == 1 + again
    assert not await grant_checks.run_due(room.vault)


async def test_a_hint_during_a_look_makes_another_one(room: Room) -> None:
    connection = await room.connect()
    await hint(room, connection)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        looked = asyncio.create_task(grant_checks.run_due(room.vault))
        await room.slack.arrived.wait()
        await hint(room, connection)
        room.slack.gate.set()
        await looked
    for passed, sends in ((0, 1), (59, 1), (1, 2)):
        room.pass_time(passed)
        await grant_checks.run_due(room.vault)
        assert len(room.slack.sends) == sends
    room.pass_time(LATER)
    assert not await grant_checks.run_due(room.vault)


async def test_a_hint_outlives_the_process_that_heard_it(room: Room) -> None:
    connection = await room.connect()
    await hint(room, connection)
    async with second_process(room) as other:
        assert await grant_checks.run_due(other.vault) == 1
        assert len(room.slack.sends) == 1
        assert not await grant_checks.run_due(room.vault), "nobody looks twice"


async def test_a_look_that_dies_with_its_process_is_made_again(room: Room) -> None:
    connection = await room.connect()
    await hint(room, connection)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        dying = asyncio.create_task(grant_checks.run_due(room.vault))
        await room.slack.arrived.wait()
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        room.slack.gate.set()
        await room.settle()
    room.slack.sends.clear()
    async with second_process(room) as other:
        assert not await grant_checks.run_due(other.vault)
        other.pass_time(299)
        assert not await grant_checks.run_due(other.vault)
        other.pass_time(1)
        assert await grant_checks.run_due(other.vault) == 1
    assert len(room.slack.sends) == 1


async def test_a_look_without_an_answer_is_repeated_a_bounded_number_of_times(room: Room) -> None:
    connection = await room.connect()
    await hint(room, connection)
    room.slack.faults.extend([INVALID_CLIENT] * 20)
    for sends in (6, 12):  # as often after the next hint
        for tries in range(1, 6):
            assert await grant_checks.run_due(room.vault) == 1
            room.pass_time(60 * 2 ** (tries - 1) - 1)
            assert await grant_checks.run_due(room.vault) == 0
            room.pass_time(1)
        assert await grant_checks.run_due(room.vault) == 1
        room.pass_time(60 * 2**6)
        assert await grant_checks.run_due(room.vault) == 0
        assert len(room.slack.sends) == sends
        await hint(room, connection)
    room.slack.faults.clear()
    await grant_checks.run_due(room.vault)
    assert room.slack.sends[-1].outcome == "Rotation"


@pytest.mark.parametrize(("error", "looks"), [(None, 1), ("temporarily_unavailable", 6), ("token_revoked", 1)])
async def test_whoever_has_no_refresh_token_is_asked_about_until_the_answer_says_something(
    room: Room, error: str | None, looks: int
) -> None:
    connection = await room.connect(refreshable=False)
    await hint(room, connection)
    room.slack.identity_error = error
    made = 0
    while await grant_checks.run_due(room.vault):
        made += 1
        room.pass_time(60 * 2**6)
    assert made == looks
    assert not room.slack.sends
    found = await connections.get_connection(room.database, connection.id, user_id=connection.user_id)
    assert found is not None
    assert (found.state is ConnectionState.ACTIVE) == (error != "token_revoked")


async def test_whoever_must_reconnect_is_not_asked_about(room: Room) -> None:
    connection = await room.connect(refreshable=False)
    for error in ("token_revoked", "temporarily_unavailable"):  # which would be asked again
        await hint(room, connection)
        room.slack.identity_error = error
        assert await grant_checks.run_due(room.vault) == 1
        room.pass_time(60 * 2**6)
        assert await grant_checks.run_due(room.vault) == 0


@pytest.mark.parametrize("is_set_up", [True, False])
async def test_a_provider_that_is_not_set_up_any_more_is_not_asked(room: Room, *, is_set_up: bool) -> None:
    connection = await room.connect(refreshable=False)
    await hint(room, connection)
    room.slack.identity_error = "token_revoked"
    room.slack.is_configured = is_set_up
    assert await grant_checks.run_due(room.vault) == 1
    room.pass_time(60 * 2**6)
    assert await grant_checks.run_due(room.vault) == 0
    found = await connections.get_connection(room.database, connection.id, user_id=connection.user_id)
    assert found is not None
    assert (found.state is ConnectionState.NEEDS_REAUTH) is is_set_up


async def test_what_was_looked_at_is_forgotten_and_what_waits_is_not(room: Room) -> None:
    done, waits = await room.connect(), await room.connect(account="other")
    await hint(room, done)
    await grant_checks.run_due(room.vault)
    for passed, forgotten in ((0, 0), (60, 0), (1, 1)):  # for a minute, another hint needs to know of it
        room.pass_time(passed)
        await hint(room, waits)
        async with room.database.transaction() as transaction:
            assert await grant_checks.sweep(transaction, now=room.now) == forgotten
    rows = await room.database.fetch("select connection_id from looks")
    assert [row["connection_id"] for row in rows] == [waits.id]


async def _copy(room: Room, connection: Connection, accounts: list[str]) -> None:
    row = await room.database.fetch_one("select * from connections where id = :id", {"id": connection.id})
    assert row is not None
    names = ", ".join(row)
    async with room.database.transaction() as transaction:
        await transaction.execute_many(
            f"insert into connections ({names}) values ({', '.join(f':{name}' for name in row)})",
            [
                {**row, "id": f"c{number}", "user_id": f"u{number}", "account": account}
                for number, account in enumerate(accounts)
            ],
        )


async def test_a_hint_is_followed_up_for_500_connections(room: Room) -> None:
    connection = await room.connect(account="T1/one")
    await _copy(room, connection, ["T1/one"] * 500)
    named = {"provider": "slack"}
    assert len(await grant_checks.find_accounts(room.database, **named, account="T1/one")) == 500
    assert len(await grant_checks.find_group(room.database, **named, prefix="T1/")) == 500


@pytest.mark.parametrize(("others", "found"), [(700, 1), (9_999, 1), (10_000, 0)])
async def test_10000_connections_are_searched_for_a_group_of_accounts(room: Room, others: int, found: int) -> None:
    connection = await room.connect(account="T9/last")
    await _copy(room, connection, [f"T1/{number}" for number in range(others)])
    assert len(await grant_checks.find_group(room.database, provider="slack", prefix="T9/")) == found

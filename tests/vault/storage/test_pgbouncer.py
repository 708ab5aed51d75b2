"""The vault behind PgBouncer in transaction mode: with its default settings, or refused with the line to change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

import vault.storage.postgres
import vault.storage.postgres_owners
from tests.conftest import SILENCE, Store
from tests.support.inspection import verify_activity
from tests.support.network.poolers import pgbouncer
from tests.support.rooms.vault_room import open_room
from tests.vault.storage.test_liveness import holder, until_dead
from vault.audit.audit import Activity, append
from vault.records import Event
from vault.refusals import StorageBusy, StorageUnavailable
from vault.storage.database import Database, Transaction
from vault.storage.database_url import open_database
from vault.storage.names import Whose, read_names
from vault.storage.postgres_hosts import CONNECT_TIMEOUT, ERRORS, Servers, split_hosts


@pytest.fixture(autouse=True)
def real_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = str(int(vault.storage.postgres.IDLE_LIMIT * 1000))
    monkeypatch.setitem(vault.storage.postgres.SESSION, SILENCE, limit)


@pytest.fixture
async def pooled_store(postgres_store: Store) -> AsyncGenerator[Store]:
    """The store behind a PgBouncer with its default settings."""
    async with pgbouncer(postgres_store.url) as url:
        yield Store(url, postgres_store.data)


async def settings_of(database: Database) -> dict[str, str]:
    """The values that the vault's required settings have inside a transaction."""
    async with database.transaction() as transaction:
        return {name: await read_setting(transaction, name) for name in vault.storage.postgres.SESSION}


async def read_setting(transaction: Transaction, name: str) -> str:
    row = await transaction.fetch_one("select current_setting(:name) as value", {"name": name})
    assert row is not None
    return str(row["value"])


async def test_exchanges_and_refreshes_work(pooled_store: Store) -> None:
    async with open_room(pooled_store) as room:
        await room.connect()
        assert room.database.is_pooled
        assert all(await asyncio.gather(*(room.exchange() for _ in range(50))))
        room.pass_time(3600)
        assert all(await asyncio.gather(*(room.exchange() for _ in range(50))))
        assert len(room.slack.sends) == 1
        await verify_activity(room.database)


async def test_transactions_have_the_same_settings_as_without_a_pooler(
    postgres_store: Store, pooled_store: Store
) -> None:
    direct = await postgres_store.open()
    through = await pooled_store.open()
    try:
        wanted = await settings_of(direct)
        assert (wanted["lock_timeout"], wanted[SILENCE]) == ("3s", "1s")
        assert (direct.is_pooled, through.is_pooled) == (False, True)
        assert await settings_of(through) == wanted
        assert all(await asyncio.gather(*(is_ours(through, wanted) for _ in range(20))))
    finally:
        await direct.close()
        await through.close()


async def is_ours(database: Database, wanted: dict[str, str]) -> bool:
    return await settings_of(database) == wanted


async def test_a_transaction_that_stands_still_is_ended(pooled_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process must not keep locks that others wait for."""
    for milliseconds in (200, 20_000):
        limit = f"begin; set local idle_in_transaction_session_timeout = {milliseconds}"
        monkeypatch.setattr(vault.storage.postgres, "_BEGIN_POOLED", limit)
        database = await pooled_store.open()
        try:
            if milliseconds > 1000:
                assert await stand_still(database)
            else:
                with pytest.raises(StorageBusy):
                    await stand_still(database)
        finally:
            await database.close()


async def stand_still(database: Database) -> bool:
    async with database.transaction() as transaction:
        assert await transaction.fetch_one("select 1 as one")
        await asyncio.sleep(0.6)
        return await transaction.fetch_one("select 1 as one") is not None


async def test_a_pooler_that_is_told_to_ignore_settings_is_found_too(postgres_store: Store) -> None:
    ignored = ",".join((*vault.storage.postgres.SESSION, "tcp_keepalives_idle", "tcp_keepalives_interval"))
    async with pgbouncer(postgres_store.url, {"ignore_startup_parameters": ignored}) as url:
        direct, through = await postgres_store.open(), await Store(url, postgres_store.data).open()
        try:
            assert through.is_pooled
            assert await settings_of(through) == await settings_of(direct)
        finally:
            await direct.close()
            await through.close()


@pytest.mark.parametrize(
    ("lines", "works"),
    [
        ({"max_prepared_statements": 0}, False),
        ({"max_prepared_statements": 200}, True),
        ({"max_prepared_statements": 0, "pool_mode": "session"}, True),
    ],
)
async def test_a_pooler_that_mixes_up_statements_is_refused_with_the_line_to_change(
    postgres_store: Store, lines: dict[str, object], *, works: bool
) -> None:
    async with pgbouncer(postgres_store.url, lines) as url:
        store = Store(url, postgres_store.data)
        if not works:
            for _ in range(3):
                with pytest.raises(StorageUnavailable, match="max_prepared_statements = 200"):
                    await store.open()
            return
        database = await store.open()
        try:
            assert await database.fetch_one("select 1 as one")
        finally:
            await database.close()


async def test_a_living_process_of_another_host_is_told_from_a_dead_one(
    pooled_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.postgres_owners, "SETTLE", 0.0)
    elsewhere = tmp_path / "other-host"
    elsewhere.mkdir(mode=0o700)
    database = await pooled_store.open()
    try:
        with holder(pooled_store, elsewhere) as process:
            # after many transactions, a lock of a server connection would belong to any of them
            for _ in range(3):
                await asyncio.gather(*(settings_of(database) for _ in range(20)))
                assert not await database.is_dead("other")
            process.kill()
            process.wait(20)
            await until_dead(database, "other")
    finally:
        await database.close()


async def test_the_lasting_transaction_holds_no_snapshot(postgres_store: Store, pooled_store: Store) -> None:
    """Otherwise, the database couldn't clean up old row versions."""
    database, direct = await pooled_store.open(), await open_database(postgres_store.url, data=postgres_store.data)
    try:
        await database.hold_liveness("me")
        rows = await direct.fetch(
            "select backend_xmin, backend_xid from pg_stat_activity where state = :idle "
            "and datname = current_database()",
            {"idle": "idle in transaction"},
        )
        assert [(row["backend_xmin"], row["backend_xid"]) for row in rows] == [(None, None)]
    finally:
        await database.close()
        await direct.close()


@pytest.mark.parametrize("way", ["direct", "pooled"])
async def test_every_commit_waits_for_the_disk_whatever_the_servers_default_is(
    postgres_store: Store, pooled_store: Store, way: str
) -> None:
    """A trigger records how each event is committed, alone or with a change."""
    name = urlsplit(postgres_store.url).path[1:]
    direct = await asyncpg.connect(postgres_store.url)
    try:
        await direct.execute(f'alter database "{name}" set synchronous_commit = off')
        await direct.execute(
            """
            create table committed (how text);
            create function note() returns trigger language plpgsql as
                $$ begin insert into committed values (current_setting('synchronous_commit')); return null; end $$;
            create trigger noting after insert on events for each row execute function note();
            """
        )
        database = await (pooled_store if way == "pooled" else postgres_store).open()
        activity = Activity(database)
        try:
            await activity.record(Event("user.created"))
            async with database.transaction() as transaction:
                await append(transaction, Event("user.created"), now=database.now())
        finally:
            await activity.close()
            await database.close()
        assert [row["how"] for row in await direct.fetch("select how from committed")] == ["on", "on"]
        assert await fresh_default(postgres_store) == "off"
    finally:
        await direct.close()


async def fresh_default(store: Store) -> str:
    """The value in a session that doesn't set it."""
    connection = await asyncpg.connect(store.url)
    try:
        return str(await connection.fetchval("show synchronous_commit"))
    finally:
        await connection.close()


async def test_a_pooler_that_lends_no_connection_is_given_up_in_the_time_that_the_caller_has(
    postgres_store: Store,
) -> None:
    async with pgbouncer(postgres_store.url, {"default_pool_size": 1}) as url:
        servers = Servers(split_hosts(url), {})
        first = await servers.connect()
        try:
            await first.execute("begin")  # on the only connection
            started = time.monotonic()
            with pytest.raises(ERRORS):
                await servers.connect(within=0.5)
            assert time.monotonic() - started < CONNECT_TIMEOUT
            await first.execute("commit")
            await (await servers.connect()).close()
        finally:
            await first.close()


async def test_names_for_completion_need_no_prepared_statement(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, which both begin to number their statements, meet at a pooler that passes the names through."""
    async with pgbouncer(postgres_store.url, {"max_prepared_statements": 0, "default_pool_size": 1}) as url:
        for _ in range(2):
            monkeypatch.setattr(asyncpg.connection, "_uid", 0)
            assert await asyncio.to_thread(read_names, "apis", url, sqlite=None, whose=Whose("")) == []

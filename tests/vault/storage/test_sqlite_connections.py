"""The connections of one SQLite vault: what each one serves, and that none of them outlives it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import closing, suppress
from pathlib import Path

import pytest

import vault.storage.sqlite_files
from tests.conftest import Store
from tests.vault.storage.test_database import add, hold_write_lock, names
from tests.vault.storage.test_sqlite_writer import batch_of, keep, kinds, settle
from vault.refusals import StorageUnavailable, ValueUnstorable
from vault.storage.database import Database, integer
from vault.storage.database_url import open_database
from vault.storage.sqlite import BATCH_LIMIT, SqliteDatabase, connect, connect_here
from vault.storage.sqlite_files import SqliteFiles

SECONDS = 10.0  # limit for each wait


@pytest.fixture
async def database(sqlite_store: Store) -> AsyncGenerator[SqliteDatabase]:
    opened = await open_database(sqlite_store.url, data=sqlite_store.data)
    assert isinstance(opened, SqliteDatabase)
    try:
        yield opened
    finally:
        await opened.close()


def open_files(folder: Path) -> set[str]:
    """Names of the folder's files that this process has open."""
    found: set[str] = set()
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed since it was listed
            path = one.readlink()
            found |= {path.name} if path.is_relative_to(folder) else set()
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists the open files here")


@needs_proc
async def test_a_closed_vault_has_no_file_open(sqlite_store: Store) -> None:
    database = await open_database(sqlite_store.url, data=sqlite_store.data)
    assert {"vault.sqlite", "keys.sqlite"} <= open_files(sqlite_store.data)
    await database.hold_liveness("me")
    await database.close()
    assert open_files(sqlite_store.data) == set()


@needs_proc
async def test_a_vault_that_cant_be_opened_leaves_no_file_open(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last connection fails, as when the process has too many files open."""
    really = sqlite3.connect

    def fail(*arguments: object, **options: object) -> sqlite3.Connection:
        if threading.current_thread() is threading.main_thread():
            raise sqlite3.OperationalError("unable to open database file")
        return really(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", fail)
    with pytest.raises(StorageUnavailable, match=r"can't open .*vault\.sqlite: unable to open database file"):
        await open_database(sqlite_store.url, data=sqlite_store.data)
    assert open_files(sqlite_store.data) == set()
    monkeypatch.undo()
    await (await open_database(sqlite_store.url, data=sqlite_store.data)).close()


@needs_proc
async def test_a_connection_that_cant_be_prepared_ends_with_the_drivers_reason(tmp_path: Path) -> None:
    """Its second file is a folder."""
    stores = SqliteFiles(vault=tmp_path, keys=tmp_path / "keys.sqlite")
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        await connect(stores, read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        connect_here(stores)
    assert open_files(tmp_path) == set()


async def test_only_the_writer_can_write(database: SqliteDatabase) -> None:
    delete = "delete from vault.apis"
    for reader in database._readers:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await reader.execute(delete)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database._here.execute(delete)
    await database._writing.execute(delete)


async def test_a_long_read_delays_no_short_one(database: SqliteDatabase) -> None:
    release = threading.Event()
    for reader in database._readers:
        await reader.create_function("hold", 0, lambda: release.wait(SECONDS))
    for _ in range(3):
        long = asyncio.create_task(database.fetch("select hold() as held"))
        try:
            async with asyncio.timeout(SECONDS / 2):
                for _ in range(5):
                    assert await names(database) == []
            assert not long.done()
        finally:
            release.set()
            await long
        release.clear()
        assert await names(database) == []


async def test_a_commit_waits_for_no_more_callers_than_it_may_serve(database: SqliteDatabase) -> None:
    """Otherwise other processes would wait as long as new callers arrive."""
    seen: list[int] = []

    async def write(number: int) -> None:
        async with database.transaction() as transaction:
            await add(transaction, f"{number:03}")
            seen.append(len(await names(database)))  # what is committed

    await asyncio.gather(*(write(number) for number in range(2 * BATCH_LIMIT)))
    assert seen[1] == 0, "the second shares the commit of the first"
    assert seen[-1] > 0
    assert len(await names(database)) == 2 * BATCH_LIMIT


async def test_events_before_and_after_a_waiting_transaction_are_all_written(database: SqliteDatabase) -> None:
    begun, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.transaction():
            begun.set()
            await leave.wait()

    first = asyncio.create_task(hold())
    await begun.wait()
    waiting = [
        asyncio.ensure_future(database.append_events(batch_of("before"))),
        asyncio.create_task(keep(database, "a")),
        asyncio.ensure_future(database.append_events(batch_of("after"))),
    ]
    await settle()
    leave.set()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(first, *waiting)
    assert await names(database) == ["a"]
    assert await kinds(database) == ["before", "after"]


async def test_deleted_data_is_not_called_removed_while_another_process_writes(
    sqlite_store: Store, database: SqliteDatabase
) -> None:
    await keep(database, "a")
    await database._writing.execute("pragma busy_timeout = 10")
    async with hold_write_lock(sqlite_store):
        assert await database.wipe() is False
    assert await database.wipe() is True
    async with hold_write_lock(sqlite_store):  # with nothing in the write-ahead logs
        assert await database.wipe() is False


async def test_a_failure_to_remove_deleted_data_is_a_refusal(database: SqliteDatabase) -> None:
    await keep(database, "a")
    await database._writing.set_progress_handler(lambda: 1, 1)  # SQLite interrupts each statement
    with pytest.raises(StorageUnavailable) as refused:
        async with asyncio.timeout(SECONDS):
            await database.wipe()
    assert "interrupted" in refused.value.detail
    await database._writing.set_progress_handler(None, 0)
    assert await database.wipe()
    await keep(database, "b")


async def test_a_value_that_no_column_can_hold_is_refused_by_a_read_on_the_loop_too(database: Database) -> None:
    for value in ("\ud800", 2**64):
        with pytest.raises(ValueUnstorable):
            await database.look_up("select resource from apis where name = :value", {"value": value})
    assert await database.look_up("select resource from apis where name = :value", {"value": "a"}) == []


async def test_a_sqlite_vault_has_no_server_or_pooler_and_names_no_other_process(database: SqliteDatabase) -> None:
    assert not database.is_pooled
    assert (database.server_changes, await database.count_others()) == (0, 0)
    row = await database.fetch_one("select count(*) as n from apis")
    assert row is not None
    assert integer(row, "n") == 0


@pytest.mark.parametrize("mode", [0o644, 0o610, 0o601])
async def test_a_file_whose_mode_cant_be_corrected_is_refused_and_a_private_one_needs_no_correction(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Another user owns it."""
    path = sqlite_store.data / "vault.sqlite"
    real = Path.chmod

    def chmod(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", chmod)
    await (await sqlite_store.open()).close()
    real(path, mode)
    with pytest.raises(StorageUnavailable, match=r"can't use .*Operation not permitted"):
        await sqlite_store.open()


def test_switching_to_the_write_ahead_log_waits_for_another_process_and_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vault.sqlite"
    with (
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
        closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection,
    ):
        other.execute("create table a (b)")
        other.execute("begin exclusive")
        monkeypatch.setattr(vault.storage.sqlite_files, "BUSY_WAIT", 0.05)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            vault.storage.sqlite_files._use_wal(connection, "")
        monkeypatch.setattr(vault.storage.sqlite_files, "BUSY_WAIT", SECONDS)
        ending = threading.Timer(0.1, lambda: other.execute("rollback"))
        ending.start()
        try:
            vault.storage.sqlite_files._use_wal(connection, "")
        finally:
            ending.join()
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)


def test_a_file_that_takes_no_write_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "vault.sqlite"
    with closing(sqlite3.connect(path)) as other:
        other.execute("create table a (b)")
    began = time.monotonic()
    with (
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        vault.storage.sqlite_files._use_wal(connection, "")
    assert time.monotonic() - began < vault.storage.sqlite_files.BUSY_WAIT / 2

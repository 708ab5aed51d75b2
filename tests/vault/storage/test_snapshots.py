"""A snapshot: both stores at one instant, whatever is written while it is read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import vault.storage.snapshots
from tests.conftest import Store
from tests.support.processes import free_port
from tests.vault.storage.test_database import add
from tests.vault.storage.test_sqlite_locks import lock_holder
from vault.refusals import StorageUnavailable, TemporarilyUnavailable
from vault.storage.database import Database, text
from vault.storage.snapshots import Snapshot, snapshot


async def write(database: Database, name: str) -> None:
    """One row in each store."""
    async with database.transaction() as transaction:
        await add(transaction, name)
        await transaction.execute(
            "insert into keys.connection_keys (tenant, connection_id, salt, created_at)"
            " values (:tenant, :name, :salt, :now)",
            {"tenant": "default", "name": name, "salt": b"salt", "now": 5},
        )


async def read(seen: Snapshot) -> tuple[list[str], list[str]]:
    """What is in both stores."""
    here = [text(row, "resource") async for page in seen.rows("apis") for row in page]
    keys = [text(row, "connection_id") async for page in seen.rows("keys.connection_keys") for row in page]
    return sorted(here), sorted(keys)


async def test_a_snapshot_shows_nothing_that_was_written_since_it_began(store: Store) -> None:
    database = await store.open()
    try:
        await write(database, "before")
        async with snapshot(store.url, data=store.data) as seen:
            await write(database, "since")
            assert await read(seen) == (["before"], ["before"])
        async with snapshot(store.url, data=store.data) as seen:
            assert await read(seen) == (["before", "since"], ["before", "since"])
    finally:
        await database.close()


@pytest.mark.parametrize("rows", [1, 2, 5])
async def test_a_snapshot_has_each_row_once_however_many_pages_it_takes(
    store: Store, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(vault.storage.snapshots, "PAGE", 2)
    names = [f"{number}" for number in range(rows)]
    database = await store.open()
    try:
        for name in names:
            await write(database, name)
        async with snapshot(store.url, data=store.data) as seen:
            assert await read(seen) == (names, names)
    finally:
        await database.close()


async def test_a_vault_that_another_process_holds_is_copied_once_it_is_free(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.snapshots, "BUSY_WAIT", 0.1)
    await (await sqlite_store.open()).close()
    with lock_holder(sqlite_store.data / "vault.sqlite"), pytest.raises(TemporarilyUnavailable) as refused:
        async with snapshot(sqlite_store.url, data=sqlite_store.data):
            pass
    assert refused.value.retry_after == 5
    async with snapshot(sqlite_store.url, data=sqlite_store.data) as seen:
        assert await read(seen) == ([], [])


async def test_a_server_that_cant_be_reached_is_not_copied(tmp_path: Path) -> None:
    url = f"postgresql://vault:secret@127.0.0.1:{free_port()}/vault"
    with pytest.raises(StorageUnavailable, match="can't be copied") as refused:
        async with snapshot(url, data=tmp_path):
            pass
    assert refused.value.detail.startswith("ConnectionRefusedError")
    assert "secret" not in refused.value.detail


async def test_a_copy_whose_connection_ends_is_refused(postgres_store: Store) -> None:
    database = await postgres_store.open()
    try:
        with pytest.raises(StorageUnavailable, match="can't be copied"):
            async with snapshot(postgres_store.url, data=postgres_store.data) as seen:
                assert await read(seen) == ([], [])
                ended = await database.fetch(
                    "select pid, pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and state = :idle",
                    {"idle": "idle in transaction"},
                )
                assert len(ended) == 1
                while await database.fetch("select 1 from pg_stat_activity where pid = :pid", {"pid": ended[0]["pid"]}):
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)  # the driver notices
                await read(seen)
    finally:
        await database.close()


async def test_a_damaged_file_is_not_copied(sqlite_store: Store) -> None:
    database = await sqlite_store.open()
    for number in range(200):
        await write(database, f"{number:03}{'x' * 500}")
    await database.close()
    async with snapshot(sqlite_store.url, data=sqlite_store.data) as seen:
        assert len((await read(seen))[0]) == 200
    path = sqlite_store.data / "vault.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[: -16 * 4096] + b"\xff" * 16 * 4096)
    with pytest.raises(StorageUnavailable, match="can't be copied") as refused:
        async with snapshot(sqlite_store.url, data=sqlite_store.data) as seen:
            await read(seen)
    assert "malformed" in refused.value.detail


async def test_an_error_of_whoever_reads_a_snapshot_arrives_as_it_is(store: Store) -> None:
    await (await store.open()).close()
    with pytest.raises(OSError, match="mine"):
        async with snapshot(store.url, data=store.data):
            raise OSError("mine")

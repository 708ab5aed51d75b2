"""A stopped process that holds the write lock of a SQLite file is named to those who wait in vain for the lock."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Store
from vault.refusals import StorageBusy
from vault.storage.sqlite_locks import LockHolder, find_lock_holder
from vault.upkeep import health

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux says who holds a lock")

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin immediate")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def lock_holder(path: Path) -> Generator[subprocess.Popen[str]]:
    """Another process in the middle of a transaction."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["vault.sqlite", "keys.sqlite"])
async def test_who_waits_in_vain_is_told_which_process_holds_the_lock_and_how_to_end_that(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("vault.storage.sqlite.BUSY_WAIT", 0.3)
    database = await sqlite_store.open()
    try:
        with lock_holder(sqlite_store.data / name) as process:
            with pytest.raises(StorageBusy, match=f"process {process.pid} holds its lock$"):
                await health.check_writable(database)
            process.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(20):
                while not (find_lock_holder([sqlite_store.data / name]) or LockHolder(0, is_stopped=False)).is_stopped:
                    await asyncio.sleep(0.01)
            fix = f"is stopped: resume it with kill -CONT {process.pid}, or stop it"
            with pytest.raises(StorageBusy, match=fix):
                await health.check_writable(database)
            process.send_signal(signal.SIGCONT)
            process.communicate()  # the process ends, which releases its lock
            await health.check_writable(database)
    finally:
        await database.close()


async def test_a_reader_and_our_own_transaction_are_no_holders(sqlite_store: Store) -> None:
    database = await sqlite_store.open()
    files = [sqlite_store.data / name for name in ("vault.sqlite", "keys.sqlite", "missing.sqlite")]
    try:
        with closing(sqlite3.connect(files[0])) as reader:
            reader.execute("begin")
            assert reader.execute("select count(*) from users").fetchone() is not None
            async with database.transaction() as transaction:
                await transaction.fetch("select id from users")
                assert find_lock_holder(files) is None
    finally:
        await database.close()

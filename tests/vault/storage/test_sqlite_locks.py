"""A process that holds the write lock of a SQLite file, or the whole vault, is named to those who wait in vain."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Store
from vault.refusals import StorageBusy, StorageUnavailable
from vault.storage import sqlite_locks
from vault.storage.liveness import OwnerLocks, is_anybody_alive
from vault.storage.presence import FILE, Presence
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
            async with asyncio.timeout(30):
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


@pytest.mark.parametrize(
    ("kind", "mode", "pid", "first", "last", "is_holder"),
    [
        ("POSIX", "WRITE", "4242", "120", "120", True),
        ("POSIX", "WRITE", "4242", "119", "121", True),
        ("POSIX", "WRITE", "4242", "0", "EOF", True),
        ("POSIX", "WRITE", "1", "120", "120", True),
        ("POSIX", "READ", "4242", "120", "120", False),
        ("FLOCK", "WRITE", "4242", "120", "120", False),
        ("POSIX", "WRITE", "4242", "121", "EOF", False),
        ("POSIX", "WRITE", "4242", "121", "125", False),
        ("POSIX", "WRITE", "4242", "0", "119", False),
        ("POSIX", "WRITE", "0", "120", "120", False),
        ("POSIX", "WRITE", "-1", "120", "120", False),
        ("POSIX", "WRITE", "self", "120", "120", False),
    ],
)
def test_the_holder_is_another_process_that_may_write(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    kind: str,
    mode: str,
    pid: str,
    first: str,
    last: str,
    is_holder: bool,
) -> None:
    pid = str(os.getpid()) if pid == "self" else pid
    locks = tmp_path / "locks"
    monkeypatch.setattr(sqlite_locks, "_LOCKS", locks)
    assert find_lock_holder([tmp_path / "missing"]) is None
    shared = tmp_path / "vault.sqlite-shm"
    shared.touch()
    status = shared.stat()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    elsewhere = f"1: POSIX  ADVISORY  WRITE 4343 {place}9 120 120\n1: -> POSIX ADVISORY WRITE 4343 {place} 120 120\n"
    locks.write_text(f"{elsewhere}2: {kind}  ADVISORY  {mode} {pid} {place} {first} {last}\n")
    found = find_lock_holder([tmp_path / "missing", tmp_path / "vault.sqlite"])
    assert (found is not None) is is_holder
    assert found is None or found.pid == int(pid)


def test_a_process_that_has_ended_isnt_stopped() -> None:
    assert not sqlite_locks._is_stopped(str(2**22 + 1))  # beyond the highest number of a process
    assert not sqlite_locks._is_stopped(str(os.getpid()))


def test_a_restore_has_the_vault_alone_and_others_only_without_it(tmp_path: Path) -> None:
    first, second, restoring = (Presence("sqlite:", data=tmp_path / "data") for _ in range(3))
    first.enter()
    second.enter()
    assert not restoring.take_alone()
    first.close()
    assert not restoring.take_alone()
    second.close()
    assert restoring.take_alone()
    assert [one.stat().st_mode & 0o777 for one in (tmp_path / "data", tmp_path / "data" / FILE)] == [0o700, 0o600]
    for late in (first, second):
        with pytest.raises(StorageBusy, match="a restore of this vault is running") as refused:
            late.enter()
        assert refused.value.retry_after == 5
    restoring.close()
    restoring.close()
    first.enter()
    first.close()


def test_a_restore_excludes_all_who_use_its_database_file_whatever_their_data_directory(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/else/where/vault.sqlite"
    first, restoring = (Presence(url, data=tmp_path / name) for name in ("a", "b"))
    first.enter()
    assert (tmp_path / "else" / "where" / FILE).exists()
    assert not restoring.take_alone()
    first.close()
    assert restoring.take_alone()
    restoring.close()
    other = Presence("postgresql://vault@host/vault", data=tmp_path / "a")
    other.enter()
    assert (tmp_path / "a" / FILE).exists()
    other.close()


def test_a_restore_waits_for_a_process_of_an_earlier_release(tmp_path: Path) -> None:
    owners, restoring = OwnerLocks(tmp_path), Presence("sqlite:", data=tmp_path)
    assert not is_anybody_alive(tmp_path)
    owners.hold("earlier")
    assert is_anybody_alive(tmp_path)
    assert not restoring.take_alone()
    restoring.close()
    owners.close()
    assert not is_anybody_alive(tmp_path)
    assert restoring.take_alone()
    restoring.close()


def test_a_restore_needs_a_folder_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = Presence("sqlite:", data=tmp_path / "file" / "data")
    place.enter()  # opening the database says more
    with pytest.raises(StorageUnavailable, match="can't write to"):
        place.take_alone()

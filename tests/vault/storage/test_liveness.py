"""Telling a dead process from a stopped one: by the kernel on one host, by PostgreSQL's session locks between hosts."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

import vault.storage.postgres
import vault.storage.postgres_owners
from tests.conftest import Store
from tests.support.rooms.vault_room import open_room
from vault.refresh import leases, takeover
from vault.refusals import StorageBusy, StorageUnavailable
from vault.storage.database import Database
from vault.storage.database_url import open_database
from vault.storage.host_files import lock
from vault.storage.liveness import FOLDER, OwnerLocks, is_anybody_alive
from vault.storage.postgres_hosts import Servers, split_hosts
from vault.storage.postgres_owners import OwnerSessions, owner_key

WAIT = 30.0  # seconds: the limit for every wait here

HOLDER = """
import asyncio, sys
from pathlib import Path
from vault.storage.database_url import open_database
async def main():
    database = await open_database(sys.argv[1], data=Path(sys.argv[2]))
    await database.hold_liveness("other")
    print("held", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def trust_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes trust a free lock as soon as they hold their own."""
    monkeypatch.setattr(vault.storage.postgres_owners, "SETTLE", 0.0)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The data directory of another host."""
    folder = tmp_path / "other-host"
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def holder(store: Store, data: Path) -> Generator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, store.url, str(data)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
            process.wait(WAIT)


async def until_dead(database: Database, owner: str, *, certainly: bool = False) -> None:
    async with asyncio.timeout(WAIT):
        while not await database.is_dead(owner, certainly=certainly):
            await asyncio.sleep(0.01)


async def test_a_stopped_process_lives_and_a_killed_one_is_dead(store: Store) -> None:
    database = await store.open()
    try:
        with holder(store, store.data) as process:
            assert not await database.is_dead("other")
            os.kill(process.pid, signal.SIGSTOP)
            assert not await database.is_dead("other")
            assert not await database.is_dead("other", certainly=True)
            process.kill()
            process.wait(WAIT)
            await until_dead(database, "other", certainly=True)
    finally:
        await database.close()


@pytest.mark.usefixtures("trust_at_once")
async def test_death_on_another_host_shows_but_is_not_certain(postgres_store: Store, elsewhere: Path) -> None:
    database = await postgres_store.open()
    try:
        with holder(postgres_store, elsewhere) as process:
            assert not await database.is_dead("other")
            process.kill()
            process.wait(WAIT)
            await until_dead(database, "other")
            assert not await database.is_dead("other", certainly=True)
    finally:
        await database.close()


@pytest.mark.usefixtures("trust_at_once")
@pytest.mark.parametrize("is_elsewhere", [True, False])
async def test_only_a_certain_death_settles_what_was_sent(
    postgres_store: Store, elsewhere: Path, *, is_elsewhere: bool
) -> None:
    """Another host may still receive the answer, although its session seems to have ended."""
    async with open_room(postgres_store) as room:
        connection = await room.connect()
        async with room.database.transaction() as transaction:
            await leases.claim(transaction, await room.row(connection), owner="other", now=room.now)
        with holder(postgres_store, elsewhere if is_elsewhere else postgres_store.data) as process:
            process.kill()
            process.wait(WAIT)
            await until_dead(room.database, "other")
        assert await takeover.holder_is_gone(room.vault, await room.row(connection)) is not is_elsewhere
        await takeover.settle_gone(room.vault)
        (send,) = await leases.list_unresolved(room.database, await room.row(connection))
        assert send.is_settled is not is_elsewhere


@pytest.mark.usefixtures("trust_at_once")
async def test_a_broken_connection_is_made_anew_before_the_next_claim(postgres_store: Store, elsewhere: Path) -> None:
    database = await postgres_store.open()
    other = await open_database(postgres_store.url, data=elsewhere)
    try:
        await database.hold_liveness("me")
        assert not await other.is_dead("me")
        await break_owner_connections(other)
        await until_dead(other, "me")
        assert not await other.is_dead("me", certainly=True)
        async with asyncio.timeout(WAIT):
            while await other.is_dead("me"):
                await database.hold_liveness("me")
                await asyncio.sleep(0.01)
    finally:
        await database.close()
        await other.close()


async def break_owner_connections(database: Database) -> None:
    await database.fetch(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = :name and datname = current_database()",
        {"name": "token-vault owner"},
    )


@pytest.mark.parametrize("is_believed", [False, True])
async def test_a_failover_that_ends_all_locks_makes_nobody_look_dead(
    postgres_store: Store, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, *, is_believed: bool
) -> None:
    monkeypatch.setattr(vault.storage.postgres_owners, "SETTLE", 0.0)
    database = await postgres_store.open()
    other = await open_database(postgres_store.url, data=elsewhere)
    try:
        await database.hold_liveness("me")
        await other.hold_liveness("other")
        assert not await other.is_dead("me")
        monkeypatch.setattr(vault.storage.postgres_owners, "SETTLE", 0.0 if is_believed else WAIT)
        await break_owner_connections(other)
        if is_believed:
            await until_dead(other, "me")
        else:
            await asyncio.sleep(0.1)  # time to learn about the broken connection
            assert not await other.is_dead("me")
    finally:
        await database.close()
        await other.close()


async def test_a_broken_lock_comes_back_by_itself(
    postgres_store: Store, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.postgres_owners, "SETTLE", 0.0)
    monkeypatch.setattr(vault.storage.postgres_owners, "LOOK_EVERY", 0.5)
    database = await postgres_store.open()
    other = await open_database(postgres_store.url, data=elsewhere)
    try:
        await database.hold_liveness("me")
        await other.hold_liveness("other")
        await break_owner_connections(other)
        await until_dead(other, "me")
        async with asyncio.timeout(WAIT):
            while await other.is_dead("me"):
                await asyncio.sleep(0.05)
    finally:
        await database.close()
        await other.close()


@pytest.mark.parametrize("knows_us", [False, True])
@pytest.mark.usefixtures("trust_at_once")
async def test_a_server_that_does_not_know_our_own_lock_is_not_believed(
    postgres_store: Store, postgres_server: str, *, knows_us: bool
) -> None:
    """The old primary, stopped, still has our locks. Locks belong to one database, so another one stands in for it."""
    servers = Servers(split_hosts(postgres_store.url), {})
    there = Servers(split_hosts(postgres_store.url if knows_us else postgres_server), {})
    sessions = OwnerSessions(servers.connect, is_pooled=lambda: False)
    seen = await there.connect()
    try:
        await sessions.hold("me")
        assert await sessions.is_free(seen, "the dead") is knows_us
    finally:
        await seen.close()
        await sessions.close()


async def test_without_locks_nobody_is_ever_taken_for_dead(store: Store) -> None:
    database = await open_database(store.url, data=store.data, has_locks=False)
    try:
        await database.hold_liveness("me")
        assert not await database.is_dead("never seen")
        assert not await database.is_dead("never seen", certainly=True)
    finally:
        await database.close()


def test_files_of_the_dead_are_swept_a_month_after_their_death_was_noticed(tmp_path: Path) -> None:
    living, dying = OwnerLocks(tmp_path), OwnerLocks(tmp_path)
    living.hold("living")
    living.hold("living")
    dying.hold("dead")
    dying.close()
    assert (living.is_gone("living"), living.is_gone("dead"), living.is_gone("unknown")) == (False, True, None)

    def pass_time(seconds: int) -> None:
        for path in (tmp_path / "owners").iterdir():
            assert path.stat().st_mode & 0o777 == 0o600
            long_ago = path.stat().st_mtime - seconds
            os.utime(path, (long_ago, long_ago))

    def start(name: str) -> None:
        starting = OwnerLocks(tmp_path)
        starting.hold(name)
        starting.close()

    pass_time(30 * 86400 + 60)  # the dead process had been running that long, so its death is news
    start("first")
    assert (living.is_gone("living"), living.is_gone("dead")) == (False, True)
    pass_time(30 * 86400 - 60)
    start("almost")
    assert living.is_gone("dead")
    pass_time(120)
    start("second")
    assert (living.is_gone("living"), living.is_gone("dead"), living.is_gone("almost")) == (False, None, True)
    living.close()


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "owners").write_text("in the way")
    with pytest.raises(StorageUnavailable, match="can't write to"):
        OwnerLocks(tmp_path).hold("me")


def test_a_name_whose_file_cannot_be_put_in_place_is_held_once_it_can(tmp_path: Path) -> None:
    before = OwnerLocks(tmp_path)
    before.hold("me")
    before.close()
    (path,) = (tmp_path / FOLDER).iterdir()
    path.unlink()
    path.mkdir()
    locks = OwnerLocks(tmp_path)
    with pytest.raises(StorageUnavailable, match="can't write to"):
        locks.hold("me")
    path.rmdir()
    locks.hold("me")
    assert locks.is_gone("me") is False
    locks.close()
    assert locks.is_gone("me") is True


def test_a_missing_file_proves_nothing_and_is_made_again_by_its_living_owner(tmp_path: Path) -> None:
    living, looking = OwnerLocks(tmp_path), OwnerLocks(tmp_path)
    living.hold("living")
    assert looking.is_gone("living") is False
    for path in (tmp_path / "owners").iterdir():
        path.unlink()
    assert looking.is_gone("living") is None
    living.hold("living")
    assert looking.is_gone("living") is False
    (path,) = (tmp_path / "owners").iterdir()
    path.unlink()
    path.touch(mode=0o600)  # somebody created another file, on which nobody holds a lock
    living.hold("living")
    assert looking.is_gone("living") is False
    held = path.stat().st_ino
    living.hold("living")
    assert path.stat().st_ino == held
    living.close()
    assert looking.is_gone("living") is True
    looking.hold("living")  # as after a restart
    assert living.is_gone("living") is False
    looking.close()


def test_a_copied_folder_that_is_put_back_under_a_living_process_proves_no_death(tmp_path: Path) -> None:
    folder, copy = tmp_path / "owners", tmp_path / "copy"
    living, dead, looking = OwnerLocks(tmp_path), OwnerLocks(tmp_path), OwnerLocks(tmp_path)
    living.hold("living")
    dead.hold("dead")
    dead.close()
    OwnerLocks(tmp_path).hold("passing by")  # this process notices the death
    assert (looking.is_gone("living"), looking.is_gone("dead")) == (False, True)
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    copy.rename(folder)
    assert (looking.is_gone("living"), looking.is_gone("dead")) == (None, None)
    living.hold("living")
    assert looking.is_gone("living") is False
    living.close()
    assert looking.is_gone("living") is True


def test_a_process_that_looks_at_a_dead_one_makes_it_look_alive_to_nobody(tmp_path: Path) -> None:
    dead = OwnerLocks(tmp_path)
    dead.hold("dead")
    assert is_anybody_alive(tmp_path)
    dead.close()
    (path,) = (tmp_path / FOLDER).iterdir()
    with path.open("rb") as looking:
        lock(looking.fileno(), is_shared=True)
        assert OwnerLocks(tmp_path).is_gone("dead") is True
        assert not is_anybody_alive(tmp_path)
        OwnerLocks(tmp_path).hold("passing by")
    assert path.read_bytes().endswith(b"gone\n"), "whoever passes by still notes the death"


def test_a_file_of_the_release_before_proves_a_death_as_it_did(tmp_path: Path) -> None:
    dead, looking = OwnerLocks(tmp_path), OwnerLocks(tmp_path)
    dead.hold("dead")
    (path,) = (tmp_path / "owners").iterdir()
    os.truncate(path, 0)
    assert looking.is_gone("dead") is False
    dead.close()
    assert looking.is_gone("dead") is True
    for name in ("passing by", "passing by later"):
        OwnerLocks(tmp_path).hold(name)
        assert path.read_bytes() == b"gone\n"
        assert looking.is_gone("dead") is True


async def test_an_owner_of_which_nothing_is_known_is_not_taken_for_dead(sqlite_store: Store) -> None:
    database = await sqlite_store.open()
    try:
        assert not await database.is_dead("never seen")
        assert not await database.is_dead("never seen", certainly=True)
    finally:
        await database.close()


def test_every_release_has_the_same_file_for_an_owner(tmp_path: Path) -> None:
    OwnerLocks(tmp_path).hold("one")
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["7692c3ad3540bb803c020b3aee66cd88.lock"]


def test_every_release_has_the_same_lock_for_an_owner_on_postgres() -> None:
    assert owner_key("one") == -5070952331543636652


def test_the_folder_of_locks_is_made_where_it_is_missing_and_only_for_its_owner(tmp_path: Path) -> None:
    locks = OwnerLocks(tmp_path / "new" / "data")
    locks.hold("me")
    assert locks.is_gone("me") is False
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new" / "data" / FOLDER).iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "new" / "data" / FOLDER).stat().st_mode) == 0o700
    locks.close()
    assert locks.is_gone("me") is True


async def test_a_name_whose_lock_another_session_has_is_held_once_it_is_free(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.postgres, "STATEMENT_TIMEOUT", 0.3)
    database = await postgres_store.open()
    other = await Servers(split_hosts(postgres_store.url), {}).connect()
    try:
        await other.execute(f"select pg_advisory_lock({owner_key('me')})")
        with pytest.raises(StorageBusy):
            await database.hold_liveness("me")
        await other.execute(f"select pg_advisory_unlock({owner_key('me')})")
        monkeypatch.setattr(vault.storage.postgres, "STATEMENT_TIMEOUT", WAIT)
        await database.hold_liveness("me")
        assert await other.fetchval("select cast(pg_try_advisory_lock($1) as int)", owner_key("me")) == 0
    finally:
        await other.close()
        await database.close()


def test_a_name_that_cant_be_put_in_place_leaves_no_file_open(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    OwnerLocks(tmp_path).hold("me")
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageUnavailable):
        OwnerLocks(tmp_path).hold("me")
    (unseen,) = (one for one in folder.iterdir() if one != path)
    with unseen.open("rb") as left:
        lock(left.fileno())  # nobody holds it


def test_the_unfinished_file_of_a_process_that_died_is_not_marked_and_goes_after_a_month(tmp_path: Path) -> None:
    """Another process may be about to lock such a file."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    unfinished = folder / ".01234567-name.lock"
    unfinished.touch(mode=0o600)
    for age, stays in ((0, True), (29, True), (31, False)):
        if age:
            os.utime(unfinished, (time.time() - age * 86400,) * 2)
        OwnerLocks(tmp_path).hold(f"{age}")
        assert unfinished.exists() is stays
        assert not stays or unfinished.read_bytes() == b""


def test_where_the_file_system_has_no_locks_nobody_is_known_to_be_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = OwnerLocks(tmp_path)
    dead.hold("dead")
    dead.close()
    assert OwnerLocks(tmp_path).is_gone("dead") is True

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert OwnerLocks(tmp_path).is_gone("dead") is None
    assert is_anybody_alive(tmp_path), "a restore must not run where nobody can be seen"


def test_a_process_that_sweeps_the_folder_keeps_no_other_from_holding_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It locks each new file for a moment to see whether its owner is alive."""
    really, sweeping = os.open, list[threading.Timer]()

    def open_and_sweep(path: Path, flags: int, mode: int = 0o777) -> int:
        opened = really(path, flags, mode)
        if flags & os.O_CREAT:
            seen = really(path, os.O_RDONLY)
            fcntl.flock(seen, fcntl.LOCK_SH)
            sweeping.append(threading.Timer(0.1, os.close, [seen]))
            sweeping[-1].start()
        return opened

    monkeypatch.setattr(os, "open", open_and_sweep)
    locks = OwnerLocks(tmp_path)
    locks.hold("me")
    for one in sweeping:
        one.join()
    assert len(sweeping) == 1
    assert locks.is_gone("me") is False
    locks.close()

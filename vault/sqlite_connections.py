"""Connections to the two SQLite files, and running statements and programs on one of them.

The files are attached to an empty in-memory database. Whose turn it is, and when a batch is committed, is `sqlite.py`;
making and upgrading the files is `sqlite_files.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import aiosqlite

from vault.database import Conflict, Program, Row, T
from vault.refusals import StorageBusy, StorageUnavailable, VaultError
from vault.sqlite_files import BUSY_WAIT, TRANSIENT, SqliteFiles

BUSY_STEP_MS = 100  # SQLite's own wait; short, because its pauses grow and a busy neighbour would starve us

# the last two: text or a number that no column can hold, noticed before the statement runs
ERRORS = (sqlite3.Error, UnicodeEncodeError, OverflowError)
VERSIONS = ("pragma keys.data_version", "pragma vault.data_version")
_UNIQUE = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})


def refusal(error: Exception) -> VaultError:
    """A driver error in the vault's words. Messages of SQLite name tables and columns, never values."""
    if not isinstance(error, sqlite3.Error):
        return StorageUnavailable("a value cannot be stored", detail=type(error).__name__)
    code: int = getattr(error, "sqlite_errorcode", 0)
    detail = f"{type(error).__name__}: {error}"
    if code in _UNIQUE:
        return Conflict("this already exists", detail=detail)
    if code & 0xFF in TRANSIENT:
        return StorageBusy("the database is busy", retry_after=1, detail=detail)
    return StorageUnavailable("the database cannot be read or written", detail=detail)


async def connect(stores: SqliteFiles, *, read_only: bool) -> aiosqlite.Connection:
    """A connection with a thread of its own."""
    connection = await aiosqlite.connect(":memory:", isolation_level=None, cached_statements=512)
    connection.row_factory = sqlite3.Row
    try:
        for statement, parameters in _preparations(
            stores, read_only=read_only, wait=int(BUSY_WAIT * 1000) if read_only else BUSY_STEP_MS
        ):
            await connection.execute(statement, parameters)
    except BaseException:
        await connection.close()
        raise
    return connection


def connect_here(stores: SqliteFiles) -> sqlite3.Connection:
    """A connection for the loop's own thread: it reads, and waits for nobody."""
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)
    connection.row_factory = sqlite3.Row
    try:
        for statement, parameters in _preparations(stores, read_only=True, wait=0):
            connection.execute(statement, parameters)
    except BaseException:
        connection.close()
        raise
    return connection


def _preparations(stores: SqliteFiles, *, read_only: bool, wait: int) -> Sequence[tuple[str, tuple[str, ...]]]:
    return (
        ("attach database ? as keys", (str(stores.keys),)),
        ("attach database ? as vault", (str(stores.vault),)),
        ("pragma keys.synchronous = full", ()),
        ("pragma vault.synchronous = full", ()),
        ("pragma keys.secure_delete = on", ()),
        ("pragma vault.secure_delete = on", ()),
        (f"pragma busy_timeout = {wait}", ()),
        (f"pragma query_only = {'on' if read_only else 'off'}", ()),
        ("pragma temp_store = memory", ()),
    )


def rows_of(found: Sequence[sqlite3.Row]) -> list[Row]:
    """The rows of one statement as mappings."""
    if not found:
        return []
    names = found[0].keys()
    return [dict(zip(names, row, strict=True)) for row in found]


def run(connection: sqlite3.Connection, program: Program[T]) -> T:
    """Run a program; in the connection's thread."""
    rows: Sequence[Row] = ()
    try:
        statement = next(program)
        while True:
            if len(statement.parameters) == 1:
                rows = rows_of(connection.execute(statement.sql, statement.parameters[0]).fetchall())
            else:
                connection.executemany(statement.sql, statement.parameters)
                rows = ()
            statement = program.send(rows)
    except StopIteration as end:
        return end.value


def commit(connection: sqlite3.Connection, program: Program[T]) -> T:
    """Run a program as a transaction of its own; in the connection's thread."""
    connection.execute("begin immediate")
    try:
        result = run(connection, program)
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise
    return result


async def in_one_trip(
    connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection, Program[T]], T], program: Program[T]
) -> T:
    """aiosqlite makes a trip to its thread per statement, 30 us each, and has no public way to run several in one."""
    return await connection._execute(work, connection._conn, program)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType] -- see above  # noqa: SLF001

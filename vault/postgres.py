"""PostgreSQL driver: asyncpg's pool, READ COMMITTED, prepared statements, no reset query.

Translates `:name` parameters to `$n` once per SQL text and asyncpg's errors into the vault's. The key store is the
schema `keys` of the same database.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import asyncpg

from vault.database import NO_PARAMETERS, Conflict, Program, Row, T, Value, check_version, schema_files
from vault.liveness import OwnerLocks
from vault.refusals import StorageBusy, StorageUnavailable, VaultError

LOG = logging.getLogger("token_vault.storage")

POOL_SIZE = 10
WAIT = 2.5  # seconds for a connection
LOCK_WAIT = 3.0  # seconds for a row's or an owner's lock
STATEMENT_TIMEOUT = 3.5  # with WAIT the time after which a frozen server is called away
PATIENT_TIMEOUT = 600.0  # seconds for one statement of bulk work or of a schema upgrade
CALIBRATE_EVERY = 60.0  # seconds between looks at the server's clock
SCHEMA_LOCK = 0x746F6B656E5661  # advisory lock of schema upgrades: "tokenVa"

_PARAMETER = re.compile(r":([a-z_][a-z0-9_]*)")
_CLOCK = "select cast(extract(epoch from clock_timestamp()) * 1000 as bigint)"
_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    UnicodeEncodeError,  # text that no column can hold
)
_TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutdown, cancelled statement
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # this server is a replica now
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.LockNotAvailableError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


class _Block(Protocol):
    async def __aenter__(self) -> object: ...
    async def __aexit__(self, kind: object, error: object, traceback: object, /) -> object: ...


class _Connection(Protocol):
    """The part of asyncpg's connection that we use; asyncpg declares no types."""

    async def fetch(
        self,
        query: str,
        /,
        *args: Value,
        timeout: float | None = None,  # noqa: ASYNC109  the driver's own
    ) -> Sequence[Mapping[str, Value]]: ...
    async def fetchrow(
        self,
        query: str,
        /,
        *args: Value,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Mapping[str, Value] | None: ...
    async def fetchval(self, query: str, /, *args: Value) -> int | None: ...
    async def execute(self, query: str, /, *args: Value, timeout: float | None = None) -> str: ...  # noqa: ASYNC109
    async def executemany(self, command: str, /, args: Sequence[Sequence[Value]], *, timeout: float | None) -> None: ...  # noqa: ASYNC109
    def transaction(self, *, isolation: str) -> _Block: ...
    def is_closed(self) -> bool: ...
    async def close(self) -> None: ...
    def terminate(self) -> None: ...


class _Pool(Protocol):
    """The part of asyncpg's pool that we use."""

    def acquire(self, *, timeout: float) -> Awaitable[_Connection]: ...
    async def release(self, connection: _Connection, /) -> None: ...
    async def close(self) -> None: ...
    def terminate(self) -> None: ...


@lru_cache(maxsize=1024)
def translate(sql: str) -> tuple[str, tuple[str, ...]]:
    """SQL with `$n` parameters and the names in their order."""
    if "::" in sql or "'" in sql or '"' in sql:
        raise ValueError("shared SQL has no casts with ::, no literals and no quoted names: use cast() and parameters")
    names: dict[str, int] = {}
    translated = _PARAMETER.sub(lambda match: f"${names.setdefault(match[1], len(names) + 1)}", sql)
    return translated, tuple(names)


def refusal(error: Exception) -> VaultError:
    """A driver error in the vault's words. The server's text goes to the log: its first line names no values."""
    if isinstance(error, ValueError | asyncpg.DataError):  # their texts repeat the value
        return StorageUnavailable("a value cannot be stored", detail=type(error).__name__)
    detail = f"{type(error).__name__}: {error}".partition("\n")[0]
    if isinstance(error, asyncpg.UniqueViolationError):
        return Conflict("this already exists", detail=detail)
    if isinstance(error, _TRANSIENT):
        return StorageBusy("the database cannot be reached", retry_after=1, detail=detail)
    return StorageUnavailable("the database cannot be read or written", detail=detail)


async def _keep_session(_connection: object) -> None:
    """Instead of asyncpg's reset query (70 us per call): we change no session state. Open ones still end."""


async def _connect_pool(url: str) -> _Pool:
    pool: _Pool = await asyncpg.create_pool(  # pyright: ignore[reportUnknownMemberType, reportAssignmentType] -- no types
        url,
        min_size=0,  # the pool would log a trace for each vain try to keep a floor
        max_size=POOL_SIZE,
        reset=_keep_session,
        timeout=WAIT,
        command_timeout=STATEMENT_TIMEOUT,
        statement_cache_size=1024,
        max_cached_statement_lifetime=0,
        server_settings={
            "application_name": "token-vault",
            "lock_timeout": str(int(LOCK_WAIT * 1000)),
            "idle_in_transaction_session_timeout": "30000",
            "jit": "off",
        },
    )
    return pool


async def _upgrade(connection: _Connection) -> None:
    """Apply missing schema files in one transaction; processes that start together take turns."""
    found = await connection.fetchval("select cast(to_regclass('schema_versions') is not null as int)")
    version = await connection.fetchval("select max(number) from schema_versions") or 0 if found else 0
    check_version(version)
    if version == len(schema_files()):
        return
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("select pg_advisory_xact_lock($1)", SCHEMA_LOCK, timeout=PATIENT_TIMEOUT)
        await connection.execute("create schema if not exists keys")
        await connection.execute(
            "create table if not exists schema_versions "
            "(number bigint not null primary key, applied_at bigint not null)"
        )
        version = await connection.fetchval("select max(number) from schema_versions") or 0
        check_version(version)
        for file in schema_files()[version:]:
            for statement in (*file.keys, *file.vault):
                await connection.execute(statement, timeout=PATIENT_TIMEOUT)
            await connection.execute(
                "insert into schema_versions (number, applied_at) "
                "values ($1, cast(extract(epoch from now()) as bigint))",
                file.number,
            )


def _where(url: str) -> str:
    """The place without user and password."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the address in database.url"
    return f"{parts.hostname or 'its socket'}{port}{parts.path}"


def _cannot_open(url: str, error: Exception) -> StorageUnavailable:
    # A configuration error may repeat the address, and with it the password.
    known = isinstance(error, asyncpg.PostgresError | OSError) and not isinstance(error, asyncpg.InterfaceError)
    cause = f"{error}".partition("\n")[0] if known else ""
    return StorageUnavailable(
        f"cannot use PostgreSQL at {_where(url)}: {cause or type(error).__name__}; start it or correct database.url"
    )


class PostgresTransaction:
    """One transaction on one connection."""

    def __init__(self, connection: _Connection, *, timeout: float | None = None) -> None:
        self._connection: _Connection | None = connection
        self._timeout = timeout  # of each statement; None: the connection's own
        self.failed = False

    def _enter(self) -> _Connection:
        if self._connection is None:
            raise StorageUnavailable("the transaction is over")
        if self.failed:
            raise StorageUnavailable("the transaction failed before", detail="a refused statement was passed over")
        self.failed = True  # until the statement has succeeded; a cancelled one has not
        return self._connection

    def finish(self) -> None:
        """No statement after this one."""
        self._connection = None

    def _given_up(self, connection: _Connection, error: Exception) -> VaultError:
        """The refusal. Hang up on a server that did not answer in time, since it will not answer a rollback either, and
        on one that takes no writes: after a failover the next connection finds its successor."""
        if isinstance(error, TimeoutError | asyncpg.ReadOnlySQLTransactionError):
            connection.terminate()
        return refusal(error)

    async def fetch(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        connection = self._enter()
        query, names = translate(sql)
        try:
            found = await connection.fetch(query, *[parameters[name] for name in names], timeout=self._timeout)
        except _ERRORS as error:
            raise self._given_up(connection, error) from error
        self.failed = False
        return [dict(record.items()) for record in found]

    async def fetch_one(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Row | None:
        connection = self._enter()
        query, names = translate(sql)
        try:
            record = await connection.fetchrow(query, *[parameters[name] for name in names], timeout=self._timeout)
        except _ERRORS as error:
            raise self._given_up(connection, error) from error
        self.failed = False
        return None if record is None else dict(record.items())

    look_up = fetch

    async def execute(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> int:
        connection = self._enter()
        query, names = translate(sql)
        try:
            status = await connection.execute(query, *[parameters[name] for name in names], timeout=self._timeout)
        except _ERRORS as error:
            raise self._given_up(connection, error) from error
        self.failed = False
        count = status.rpartition(" ")[2]  # "UPDATE 3", "INSERT 0 1"
        return int(count) if count.isdigit() else 0

    async def execute_many(self, sql: str, parameters: Sequence[Mapping[str, Value]]) -> None:
        connection = self._enter()
        query, names = translate(sql)
        try:
            rows = [[row[name] for name in names] for row in parameters]
            await connection.executemany(query, rows, timeout=self._timeout)
        except _ERRORS as error:
            raise self._given_up(connection, error) from error
        self.failed = False

    async def perform(self, program: Program[T]) -> T:
        rows: Sequence[Row] = ()
        try:
            statement = next(program)
            while True:
                if len(statement.parameters) == 1:
                    rows = await self.fetch(statement.sql, statement.parameters[0])
                else:
                    await self.execute_many(statement.sql, statement.parameters)
                    rows = ()
                statement = program.send(rows)
        except StopIteration as end:
            return end.value


def _owner_key(owner: str) -> int:
    return int.from_bytes(hashlib.sha256(b"token-vault owner " + owner.encode()).digest()[:8], signed=True)


class _OwnerSessions:
    """The connection whose advisory locks show other hosts that we live; made anew when it broke."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: _Connection | None = None
        self._held: set[str] = set()
        self._turn = asyncio.Lock()

    async def hold(self, owner: str) -> None:
        if self._is_held(owner):
            return
        async with self._turn:
            if self._is_held(owner):
                return
            try:
                if self._connection is None or self._connection.is_closed():
                    self._held.clear()
                    self._connection = await _connect_alone(self._url)
                await self._connection.execute("select pg_advisory_lock($1)", _owner_key(owner))
            except _ERRORS as error:
                raise refusal(error) from error
            self._held.add(owner)

    def _is_held(self, owner: str) -> bool:
        return owner in self._held and self._connection is not None and not self._connection.is_closed()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*_ERRORS):
                async with asyncio.timeout(LOCK_WAIT):
                    await connection.close()


async def _connect_alone(url: str) -> _Connection:
    """A connection that the server notices the end of within seconds, also when our host vanished."""
    connection: _Connection = await asyncpg.connect(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportAssignmentType] -- no types
        url,
        timeout=ceil(WAIT),
        command_timeout=STATEMENT_TIMEOUT,
        server_settings={
            "application_name": "token-vault owner",
            "lock_timeout": str(int(LOCK_WAIT * 1000)),
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
        },
    )
    return connection  # pyright: ignore[reportUnknownVariableType] -- as above


class PostgresDatabase:
    """One vault in one PostgreSQL database; any number of processes may have it open."""

    def __init__(
        self, pool: _Pool, *, clock_difference: float, owners: OwnerLocks | None, sessions: _OwnerSessions
    ) -> None:
        self.clock_offset = 0
        self._owners = owners
        self._sessions = sessions
        self._pool = pool
        self._clock_difference = clock_difference  # the server's clock minus our monotonic one
        self._calibrating = asyncio.create_task(self._calibrate(), name="postgres-clock")

    @classmethod
    async def open(cls, url: str, *, data: Path, has_locks: bool = True) -> PostgresDatabase:
        """Connect and bring the schema up to date."""
        pool: _Pool | None = None
        try:
            pool = await _connect_pool(url)
            connection = await pool.acquire(timeout=WAIT)  # the first that looks at the address
            try:
                await _upgrade(connection)
                difference = await _clock_difference(connection)
            finally:
                await pool.release(connection)
        except BaseException as error:
            if pool is not None:
                pool.terminate()
            if isinstance(error, (*_ERRORS, ValueError)):
                raise _cannot_open(url, error) from error
            raise
        owners = OwnerLocks(data) if has_locks else None
        return cls(pool, clock_difference=difference, owners=owners, sessions=_OwnerSessions(url))

    def now(self) -> int:
        return int(time.monotonic() + self._clock_difference) + self.clock_offset

    async def _calibrate(self) -> None:
        while True:
            await asyncio.sleep(CALIBRATE_EVERY)
            try:
                async with self._connection() as connection:
                    self._clock_difference = await _clock_difference(connection)
            except (VaultError, *_ERRORS) as error:
                LOG.warning("the database's clock could not be read", extra={"detail": type(error).__name__})

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[_Connection]:
        try:
            connection = await self._pool.acquire(timeout=WAIT)
        except _ERRORS as error:
            raise refusal(error) from error
        try:
            yield connection
        except TimeoutError:
            connection.terminate()  # instead of asking a server that does not answer to cancel
            raise
        finally:
            await self._pool.release(connection)

    @asynccontextmanager
    async def _transaction(self, *, patient: bool = False) -> AsyncGenerator[PostgresTransaction]:
        async with self._connection() as connection:
            transaction = PostgresTransaction(connection, timeout=PATIENT_TIMEOUT if patient else None)
            callers: BaseException | None = None
            try:
                async with connection.transaction(isolation="read_committed"):
                    try:
                        yield transaction
                    except BaseException as error:
                        callers = error
                        raise
                    finally:
                        transaction.finish()
                    if transaction.failed:
                        raise StorageUnavailable("the transaction failed", detail="a refused statement was passed over")
            except _ERRORS as error:  # of BEGIN, COMMIT or ROLLBACK; without a connection the server rolls back
                if isinstance(error, TimeoutError):
                    connection.terminate()
                if callers is not None:
                    raise callers from callers.__cause__
                raise refusal(error) from error

    async def perform(self, program: Program[T]) -> T:
        async with self._transaction() as transaction:
            return await transaction.perform(program)

    def transaction(self, *, patient: bool = False) -> AbstractAsyncContextManager[PostgresTransaction]:
        return self._transaction(patient=patient)

    async def fetch(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        query, names = translate(sql)
        arguments = [parameters[name] for name in names]
        try:
            async with self._connection() as connection:
                found = await connection.fetch(query, *arguments)
        except _ERRORS as error:
            raise refusal(error) from error
        return [dict(record.items()) for record in found]

    async def fetch_one(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Row | None:
        query, names = translate(sql)
        arguments = [parameters[name] for name in names]
        try:
            async with self._connection() as connection:
                record = await connection.fetchrow(query, *arguments)
        except _ERRORS as error:
            raise refusal(error) from error
        return None if record is None else dict(record.items())

    look_up = fetch

    def mark(self) -> object | None:
        return None

    async def hold_liveness(self, owner: str) -> None:
        if self._owners is not None:
            self._owners.hold(owner)
            await self._sessions.hold(owner)

    async def is_dead(self, owner: str, *, certainly: bool = False) -> bool:
        if self._owners is None:
            return False
        is_gone = self._owners.is_gone(owner)
        if is_gone is not None or certainly:
            return is_gone is True
        try:
            async with self._connection() as connection:  # one statement: the lock is let go with it
                is_free = await connection.fetchval(
                    "select cast(pg_try_advisory_xact_lock_shared($1) as int)", _owner_key(owner)
                )
        except _ERRORS as error:
            raise refusal(error) from error
        return is_free == 1

    async def close(self) -> None:
        """Wait for connections in use, bounded."""
        if self._owners is not None:
            self._owners.close()
        await self._sessions.close()
        self._calibrating.cancel()
        with suppress(asyncio.CancelledError):
            await self._calibrating
        try:
            async with asyncio.timeout(2 * WAIT):
                await self._pool.close()
        except _ERRORS:
            self._pool.terminate()


async def _clock_difference(connection: _Connection) -> float:
    before = time.monotonic()
    milliseconds = await connection.fetchval(_CLOCK)
    after = time.monotonic()
    return (milliseconds or 0) / 1000 - (before + after) / 2

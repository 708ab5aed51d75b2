"""PostgreSQL driver: asyncpg's pool, READ COMMITTED, prepared statements, no reset query.

Translates `:name` parameters to `$n` once per SQL text, and asyncpg's errors to the vault's. The key store is the
schema `keys` of the same database.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import asyncpg

from vault.refusals import StorageBusy, StorageUnavailable, ValueUnstorable, VaultError
from vault.storage import postgres_events
from vault.storage.clock import boot_time
from vault.storage.database import NO_PARAMETERS, Conflict, Program, Row, T, Value
from vault.storage.event_chain import Batch
from vault.storage.liveness import OwnerLocks
from vault.storage.postgres_attempts import Attempts
from vault.storage.postgres_hosts import CONNECT_TIMEOUT, STARTED, Servers, place_of, split_hosts
from vault.storage.postgres_hosts import ERRORS as _ERRORS
from vault.storage.postgres_hosts import DriverConnection as _Connection
from vault.storage.postgres_lookups import LookUps
from vault.storage.postgres_owners import OwnerSessions
from vault.storage.postgres_poolers import MIXED_UP, MIXES_UP, check_pooler
from vault.storage.postgres_schema import PATIENT_TIMEOUT, upgrade
from vault.storage.schema_shape import fingerprint
from vault.storage.turns import StatementTurns

LOG = logging.getLogger("token_vault.storage")

POOL_SIZE = 10
WAIT = 2.5  # seconds that a caller waits for a connection
LOCK_WAIT = 3.0  # seconds for a row's or an owner's lock: longer than a stopped process can hold one
IDLE_LIMIT = 1.0  # seconds after which the server ends a transaction whose process stays silent
STATEMENT_TIMEOUT = 3.5  # with WAIT, the time after which we disconnect from a frozen server
EVENTS_WITH_COMMIT = 1000  # a restore, which has more, appends them before: one message holds at most 1 GB
CALIBRATE_EVERY = 60.0  # seconds between reads of the server's clock

# For each session or, behind a pooler, where no session is ours, for each transaction. Names and values are constants.
SESSION = {
    "lock_timeout": str(int(LOCK_WAIT * 1000)),
    "idle_in_transaction_session_timeout": str(int(IDLE_LIMIT * 1000)),
    "jit": "off",
    "synchronous_commit": "on",  # whatever the server's default: commits are durable
}
_SET_LOCAL = "; ".join(f"set local {name} = '{value}'" for name, value in SESSION.items())

_BEGIN = "begin isolation level read committed"
_BEGIN_POOLED = f"{_BEGIN}; {_SET_LOCAL}"
_UNHURRIED = f"set local idle_in_transaction_session_timeout = '{int(PATIENT_TIMEOUT * 1000)}'"

_PARAMETER = re.compile(r":([a-z_][a-z0-9_]*)")
_OTHERS = """
    select count(*) from pg_stat_activity
    where datname = current_database() and application_name like 'token-vault%' and pid <> pg_backend_pid()
"""
_CLOCK = "select cast(extract(epoch from clock_timestamp()) * 1000 as bigint)"
_TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutdown, cancelled statement
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # this server is now a replica
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,  # this process paused during a transaction
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


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
    """A driver error as a vault refusal. The server's text goes to the log: its first line contains no values."""
    if isinstance(error, ValueError | asyncpg.DataError):  # their texts repeat the value
        return ValueUnstorable("the request has a text or number that can't be stored", detail=type(error).__name__)
    detail = f"{type(error).__name__}: {error}".partition("\n")[0]
    if isinstance(error, asyncpg.UniqueViolationError):
        return Conflict("this already exists", detail=detail)
    if isinstance(error, _TRANSIENT):
        return StorageBusy("the database can't be reached", detail=detail)
    return StorageUnavailable("the database can't be read or written", detail=detail)


def is_unreachable(error: BaseException | None) -> bool:
    """Whether opening failed because no server accepts connections there, or not yet: it may be starting."""
    if isinstance(error, ssl.SSLError | PermissionError):
        return False
    return isinstance(error, OSError | asyncpg.CannotConnectNowError)


async def _keep_session(_connection: object) -> None:
    """Replaces asyncpg's reset query (70 us per call), because we change no session state. Open transactions still
    end."""


@asynccontextmanager
async def _borrow(pool: _Pool) -> AsyncGenerator[_Connection]:
    connection = await pool.acquire(timeout=WAIT)
    try:
        yield connection
    finally:
        await pool.release(connection)


async def _create_pool(attempts: Attempts) -> _Pool:
    pool: _Pool = await asyncpg.create_pool(  # pyright: ignore[reportUnknownMemberType, reportAssignmentType] -- no types
        connect=attempts.take,
        min_size=0,  # the pool would log a trace for each failed attempt to keep a minimum
        max_size=POOL_SIZE,
        reset=_keep_session,
    )
    return pool


async def _connect_one(servers: Servers) -> _Connection:
    return await servers.connect(
        command_timeout=STATEMENT_TIMEOUT, statement_cache_size=1024, max_cached_statement_lifetime=0
    )


def _cannot_open(url: str, error: Exception) -> StorageUnavailable:
    # A configuration error may repeat the address, and with it the password.
    cause = f"{error}".partition("\n")[0] if isinstance(error, asyncpg.PostgresError | OSError) else ""
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        cause = "none of its hosts that answer accepts writes"
    fix = "Start it, or correct database.url"
    if isinstance(error, socket.gaierror):  # with the code alone, nobody sees that a name is mistyped
        cause, fix = (
            f"its host's name isn't known here ({error.strerror})",
            "Correct the name in database.url, or start it",
        )
    return StorageUnavailable(f"can't use PostgreSQL at {place_of(url)}: {cause or type(error).__name__}. {fix}")


def _given_up(connection: _Connection, error: Exception) -> VaultError:
    """The refusal, after disconnecting from a server that is of no use: it didn't answer in time, so it won't answer a
    rollback either, or it accepts no writes. After a failover, the next connection finds its successor.
    """
    if isinstance(error, TimeoutError | asyncpg.ReadOnlySQLTransactionError):
        with suppress(*_ERRORS):  # the pool took back a connection that had ended
            connection.terminate()
    return refusal(error)


def _is_usable(connection: _Connection) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # it ended, and the pool took it back
        return False


async def _end_if_busy(connection: _Connection) -> None:
    """End a connection whose last statement broke off without the driver noticing: it would refuse all later ones."""
    try:
        if not connection.is_closed():
            await connection.execute("select 1")
    except _ERRORS:
        with suppress(*_ERRORS):  # as above
            connection.terminate()


async def _roll_back(connection: _Connection) -> None:
    """End the open transaction, or the connection; without it the server rolls back."""
    try:
        if connection.is_in_transaction():
            await connection.execute("rollback")
    except BaseException as error:
        with suppress(*_ERRORS):  # as above
            connection.terminate()
        if not isinstance(error, _ERRORS):
            raise


class PostgresTransaction(StatementTurns[_Connection]):
    """One transaction on one connection."""

    def __init__(
        self, connection: _Connection, *, event_key: bytes | None = None, timeout: float | None = None
    ) -> None:
        super().__init__(connection)
        self._timeout = timeout  # timeout of each statement; None: the connection's own
        self._event_key = event_key
        self._batches: list[Batch] = []  # events that travel with COMMIT

    async def fetch(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        connection = self._enter()
        query, names = translate(sql)
        try:
            found = await connection.fetch(query, *[parameters[name] for name in names], timeout=self._timeout)
        except _ERRORS as error:
            raise _given_up(connection, error) from error
        self.failed = False
        return [dict(record) for record in found]

    async def fetch_one(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Row | None:
        connection = self._enter()
        query, names = translate(sql)
        try:
            record = await connection.fetchrow(query, *[parameters[name] for name in names], timeout=self._timeout)
        except _ERRORS as error:
            raise _given_up(connection, error) from error
        self.failed = False
        return None if record is None else dict(record)

    look_up = fetch

    async def execute(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> int:
        connection = self._enter()
        query, names = translate(sql)
        try:
            status = await connection.execute(query, *[parameters[name] for name in names], timeout=self._timeout)
        except _ERRORS as error:
            raise _given_up(connection, error) from error
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
            raise _given_up(connection, error) from error
        self.failed = False

    async def perform(self, program: Program[T]) -> T:
        try:
            statement = next(program)
            while True:
                statement = program.send(await self.fetch(statement.sql, statement.parameters))
        except StopIteration as end:
            return end.value

    async def append_events(self, batch: Batch) -> None:
        connection = self._enter()
        self._batches.append(batch)
        if sum(len(one.entries) for one in self._batches) > EVENTS_WITH_COMMIT:
            try:
                await connection.execute("; ".join(self._scripts()), timeout=self._timeout)
            except _ERRORS as error:
                raise _given_up(connection, error) from error
        self.failed = False

    def _scripts(self) -> list[str]:
        """The statements that append the events so far."""
        batches, self._batches = self._batches, []
        return [postgres_events.script(batch, key=self._event_key) for batch in batches]

    async def commit(self, connection: _Connection) -> None:
        """Append the events and commit, in one message. Raises the driver's errors."""
        if self.failed:
            raise StorageUnavailable(
                "the transaction failed", detail="the transaction continued after a refused statement"
            )
        status = await connection.execute("; ".join([*self._scripts(), "commit"]), timeout=self._timeout)
        if status != "COMMIT":
            raise StorageUnavailable("the transaction failed", detail=f"COMMIT ended as {status}")


async def _connect_alone(servers: Servers, *, statement_cache_size: int = 100) -> _Connection:
    """A connection that the server closes within seconds of losing our host."""
    return await servers.connect(
        command_timeout=STATEMENT_TIMEOUT,
        statement_cache_size=statement_cache_size,
        server_settings={
            "application_name": "token-vault owner",
            "idle_in_transaction_session_timeout": "0",
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
        },
    )


async def _take(attempts: Attempts) -> _Connection:
    async with asyncio.timeout(WAIT):
        return await attempts.take()


class _Use:
    """The use of one connection. It is a class because a generator would add a few microseconds to every call."""

    __slots__ = ("_connection", "_database")

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._connection: _Connection | None = None

    async def __aenter__(self) -> _Connection:
        self._connection = taken = await self._database.take()
        return taken

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        connection = self._connection
        if connection is None:
            return
        if isinstance(error, TimeoutError):
            connection.terminate()  # instead of asking an unresponsive server to cancel
        await self._database.put_back(connection, is_spoiled=error is not None)


class PostgresDatabase:
    """One vault in one PostgreSQL database; any number of processes may open it."""

    def __init__(
        self,
        pool: _Pool,
        servers: Servers,
        attempts: Attempts,
        *,
        clock_difference: float,
        owners: OwnerLocks | None,
    ) -> None:
        self.clock_offset = 0
        self.event_key: bytes | None = None
        self.fingerprint = ""
        self._owners = owners
        self._servers = servers
        alone = Attempts(partial(_connect_alone, servers), at_once=1)
        self._attempts = (attempts, alone)
        self._sessions = OwnerSessions(partial(_take, alone), is_pooled=lambda: servers.is_pooled)
        self._pool = pool
        self._resting: list[_Connection] = []  # between uses: the pool takes three times as long as a read
        self._look_ups = LookUps(self._ask, self._ask_many)
        self._waiting = 0  # callers waiting for the pool, who get a connection before one rests
        self._is_closing = False
        self._clock_difference = clock_difference  # the server's clock minus ours, see `clock`
        self._calibrating = asyncio.create_task(self._calibrate(), name="postgres-clock", context=Context())

    @classmethod
    async def open(cls, url: str, *, data: Path, has_locks: bool = True) -> PostgresDatabase:
        """Connect and upgrade the schema."""
        pool: _Pool | None = None
        servers = Servers(split_hosts(url), SESSION)
        attempts = Attempts(partial(_connect_one, servers))
        try:
            pool = await _create_pool(attempts)
            connection = await pool.acquire(timeout=CONNECT_TIMEOUT + 1)  # the first code that reads the address
            try:
                if servers.is_pooled:
                    await check_pooler(partial(_connect_alone, servers, statement_cache_size=0))
                shape = await upgrade(connection, partial(_borrow, pool), is_pooled=servers.is_pooled)
                difference = await _clock_difference(connection)
            finally:
                await pool.release(connection)
        except BaseException as error:
            await attempts.close()
            if pool is not None:
                pool.terminate()
            if isinstance(error, MIXED_UP):
                raise StorageUnavailable(MIXES_UP) from error
            if isinstance(error, (*_ERRORS, ValueError)):
                raise _cannot_open(url, error) from error
            raise
        owners = OwnerLocks(data) if has_locks else None
        opened = cls(pool, servers, attempts, clock_difference=difference, owners=owners)
        opened.fingerprint = fingerprint(shape)
        return opened

    @property
    def server_changes(self) -> int:
        return self._servers.changes

    @property
    def is_pooled(self) -> bool:
        return self._servers.is_pooled

    def now(self) -> int:
        return int(boot_time() + self._clock_difference) + self.clock_offset

    async def _calibrate(self) -> None:
        while True:
            await asyncio.sleep(CALIBRATE_EVERY)
            try:
                async with self._connection() as connection:
                    self._clock_difference = await _clock_difference(connection)
                    self._servers.note(await connection.fetchval(STARTED))  # a pooler keeps its clients connected
                await self._give_back()  # the pool closes those that no one needs anymore
            except (VaultError, *_ERRORS) as error:
                LOG.warning("the database's clock couldn't be read", extra={"detail": type(error).__name__})

    def _connection(self) -> _Use:
        return _Use(self)

    async def put_back(self, connection: _Connection, *, is_spoiled: bool) -> None:
        """Take a connection back. It rests, unless someone or closing waits for the pool, or its use failed."""
        if is_spoiled:
            await _end_if_busy(connection)
        if is_spoiled or self._waiting or self._is_closing or not _is_usable(connection):
            await self._pool.release(connection)
        else:
            self._resting.append(connection)

    async def take(self) -> _Connection:
        """The most recently used connection, or one of the pool."""
        try:
            while self._resting:
                connection = self._resting.pop()
                if _is_usable(connection):
                    return connection
                await self._pool.release(connection)
            self._waiting += 1
            try:
                return await self._pool.acquire(timeout=WAIT)
            finally:
                self._waiting -= 1
        except _ERRORS as error:
            raise refusal(error) from error

    async def _give_back(self) -> None:
        """Return the resting connections to the pool, the most recently used one last, so that it is taken first."""
        for _ in range(len(self._resting)):
            if self._resting:  # each leaves the list on its own: this may be cancelled in between
                await self._pool.release(self._resting.pop(0))

    @asynccontextmanager
    async def transaction(self, *, patient: bool = False, alone: bool = False) -> AsyncGenerator[PostgresTransaction]:
        async with self._connection() as connection:
            timeout = PATIENT_TIMEOUT if patient else None
            transaction = PostgresTransaction(connection, event_key=self.event_key, timeout=timeout)
            callers: BaseException | None = None
            try:
                begin = _BEGIN_POOLED if self._servers.is_pooled else _BEGIN
                await connection.execute(f"{begin}; {_UNHURRIED}" if alone else begin)
                try:
                    yield transaction
                except BaseException as error:
                    callers = error
                    raise
                finally:
                    transaction.finish()
                await transaction.commit(connection)
            except BaseException as error:
                refused = None
                if callers is None and isinstance(error, _ERRORS):  # timeout of BEGIN or COMMIT
                    refused = _given_up(connection, error)
                await _roll_back(connection)
                if refused is not None:
                    raise refused from error
                raise

    async def perform(self, program: Program[T], *, events: Batch | None = None) -> T:
        async with self.transaction() as transaction:
            result = await transaction.perform(program)
            if events is not None and result:
                await transaction.append_events(events)
            return result

    async def append_events(self, batch: Batch) -> None:
        if self._servers.is_pooled:  # a single statement would run with someone else's settings
            async with self.transaction() as transaction:
                await transaction.append_events(batch)
            return
        async with self._connection() as connection:
            try:
                await postgres_events.append(connection, batch, key=self.event_key)
            except _ERRORS as error:
                raise _given_up(connection, error) from error

    async def fetch(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        query, names = translate(sql)
        arguments = [parameters[name] for name in names]
        try:
            async with self._connection() as connection:
                found = await connection.fetch(query, *arguments)
        except _ERRORS as error:
            raise refusal(error) from error
        return [dict(record) for record in found]

    async def fetch_one(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Row | None:
        query, names = translate(sql)
        arguments = [parameters[name] for name in names]
        try:
            async with self._connection() as connection:
                record = await connection.fetchrow(query, *arguments)
        except _ERRORS as error:
            raise refusal(error) from error
        return None if record is None else dict(record)

    async def look_up(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        query, names = translate(sql)
        return await self._look_ups.find(query, [parameters[name] for name in names])

    async def _ask(self, query: str, values: Sequence[Value]) -> Sequence[Row]:
        try:
            async with self._connection() as connection:
                return await connection.fetch(query, *values)
        except _ERRORS as error:
            raise refusal(error) from error

    async def _ask_many(self, query: str, values: Sequence[Sequence[Value]]) -> Sequence[Row]:
        try:
            async with self._connection() as connection:
                return await connection.fetchmany(query, values)
        except _ERRORS as error:
            raise refusal(error) from error

    def mark(self) -> object | None:
        return None

    async def hold_liveness(self, owner: str) -> None:
        if self._owners is not None:
            self._owners.hold(owner)
            try:
                await self._sessions.hold(owner)
            except _ERRORS as error:
                raise refusal(error) from error

    async def is_dead(self, owner: str, *, certainly: bool = False) -> bool:
        if self._owners is None:
            return False
        is_gone = self._owners.is_gone(owner)
        if is_gone is not None or certainly:
            return is_gone is True
        try:
            async with self._connection() as connection:
                return await self._sessions.is_free(connection, owner)
        except _ERRORS as error:
            raise refusal(error) from error

    async def wipe(self) -> bool:
        return True

    async def count_others(self) -> int:
        try:
            async with self._connection() as connection:
                return await connection.fetchval(_OTHERS) or 0
        except _ERRORS as error:
            raise refusal(error) from error

    async def close(self) -> None:
        """Wait for connections in use, at most a bounded time."""
        if self._owners is not None:
            self._owners.close()
        await self._sessions.close()
        for attempts in self._attempts:
            await attempts.close()
        self._calibrating.cancel()
        with suppress(asyncio.CancelledError):
            await self._calibrating
        try:
            async with asyncio.timeout(2 * WAIT):
                self._is_closing = True
                await self._give_back()
                await self._pool.close()
        except _ERRORS:
            self._pool.terminate()


async def _clock_difference(connection: _Connection) -> float:
    before = boot_time()
    milliseconds = await connection.fetchval(_CLOCK)
    after = boot_time()
    return (milliseconds or 0) / 1000 - (before + after) / 2

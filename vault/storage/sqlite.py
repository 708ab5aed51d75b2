"""SQLite driver: connections, group commit, and concurrent reads.

Two files, `vault.sqlite` and `keys.sqlite`, are attached to an empty in-memory database, the key store first: a commit
over several WAL files is atomic in each but not over both, and SQLite writes them in this order. A connection's key is
therefore durable before the connection is.

One writer task owns the writing connection. A transaction is a savepoint inside the writer's current batch; a refusal
rolls back only its own savepoint; callers resume after the batch's commit. Because the task begins and commits, not a
caller, a cancelled caller doesn't affect others.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import Context
from typing import Any, TypeVar

import aiosqlite

from vault.refusals import StorageBusy, StorageUnavailable, ValueUnstorable, VaultError
from vault.storage.database import NO_PARAMETERS, Conflict, Row, T, Value
from vault.storage.event_chain import Batch
from vault.storage.liveness import OwnerLocks
from vault.storage.schema_shape import fingerprint
from vault.storage.sqlite_events import ERRORS, SqliteProgram, Work, append_program, commit, rows_of, run
from vault.storage.sqlite_files import BUSY_WAIT, TRANSIENT, SqliteFiles, prepare
from vault.storage.sqlite_locks import find_lock_holder
from vault.storage.turns import StatementTurns

Argument = TypeVar("Argument")

BUSY_STEP_MS = 100  # SQLite's own wait; short, because its pauses grow and another busy process would starve us


VERSIONS = ("pragma keys.data_version", "pragma vault.data_version")


_UNIQUE = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})


def refusal(error: Exception) -> VaultError:
    """A driver error as a vault refusal. Messages of SQLite name tables and columns, never values."""
    if not isinstance(error, sqlite3.Error):
        return ValueUnstorable("the request has a text or number that can't be stored", detail=type(error).__name__)
    code: int = getattr(error, "sqlite_errorcode", 0)
    detail = f"{type(error).__name__}: {error}"
    if code in _UNIQUE:
        return Conflict("this already exists", detail=detail)
    if code & 0xFF in TRANSIENT:
        return StorageBusy("the database is busy", detail=detail)
    return StorageUnavailable("the database can't be read or written", detail=detail)


async def connect(stores: SqliteFiles, *, read_only: bool) -> aiosqlite.Connection:
    """A connection with its own thread."""
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
    """A connection for the loop's own thread: it reads and never waits."""
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
        # without these, macOS leaves synced data in the drive's cache; elsewhere they change nothing
        ("pragma fullfsync = on", ()),
        ("pragma checkpoint_fullfsync = on", ()),
        ("pragma keys.secure_delete = on", ()),
        ("pragma vault.secure_delete = on", ()),
        (f"pragma busy_timeout = {wait}", ()),
        (f"pragma query_only = {'on' if read_only else 'off'}", ()),
        ("pragma temp_store = memory", ()),
    )


async def run_at_once(
    connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection, Argument], T], argument: Argument
) -> T:
    """aiosqlite switches to its thread for each statement, which takes 30 us, and has no public way to run several at
    once."""
    return await connection._execute(work, connection._conn, argument)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType] -- see above  # noqa: SLF001


LOG = logging.getLogger("token_vault.storage")

BATCH_LIMIT = 64  # transactions per commit; bounds how long other processes wait
COMPANY_WAIT = 0.01  # seconds from the start of a commit that a work waits for as many others as that one had
READERS = 2


class _Turn:
    """One caller's place in the writer's queue."""

    __slots__ = ("begun", "committed", "ended", "errand", "owner", "work")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        work: Work[Any] | None = None,
        errand: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.work = work  # instead of statements of the caller
        self.errand = errand  # outside of any transaction
        self.begun: asyncio.Future[None] = loop.create_future()  # set by the writer: your savepoint is open
        self.ended: asyncio.Future[bool] = loop.create_future()  # set by the caller: keep it, or roll it back
        self.committed: asyncio.Future[None] = loop.create_future()  # set by the writer: it is durable
        self.owner = asyncio.current_task()
        if not self.is_callers:
            self.begun.set_result(None)

    @property
    def is_callers(self) -> bool:
        """Whether its caller sends the statements."""
        return self.work is None and self.errand is None

    def end(self, *, kept: bool) -> None:
        """The caller is done; a writer that was closed in the meantime no longer waits for it."""
        if not self.ended.done():
            self.ended.set_result(kept)

    def settle(self, error: VaultError | None) -> None:
        """Wake the caller, wherever it waits: with the error, or because its work is durable."""
        waiting = self.committed if self.begun.done() else self.begun
        if waiting.done():
            return  # it was cancelled
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)
            waiting.exception()  # a caller that is cancelled now never asks


class SqliteTransaction(StatementTurns[aiosqlite.Connection]):
    """A savepoint in the current batch."""

    def __init__(self, connection: aiosqlite.Connection, *, event_key: bytes | None) -> None:
        super().__init__(connection)
        self._event_key = event_key

    async def fetch(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        connection = self._enter()
        try:
            found = await connection.execute_fetchall(sql, parameters)
        except ERRORS as error:
            raise refusal(error) from error
        self.failed = False
        return rows_of(list(found))

    async def fetch_one(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Row | None:
        rows = await self.fetch(sql, parameters)
        return next(iter(rows), None)

    look_up = fetch

    async def execute(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> int:
        connection = self._enter()
        try:
            cursor = await connection.execute(sql, parameters)
        except ERRORS as error:
            raise refusal(error) from error
        self.failed = False
        return cursor.rowcount

    async def execute_many(self, sql: str, parameters: Sequence[Mapping[str, Value]]) -> None:
        connection = self._enter()
        try:
            await connection.executemany(sql, parameters)
        except ERRORS as error:
            raise refusal(error) from error
        self.failed = False

    async def perform(self, program: SqliteProgram[T]) -> T:
        connection = self._enter()
        try:
            result = await run_at_once(connection, run, program)
        except ERRORS as error:
            raise refusal(error) from error
        self.failed = False
        return result

    async def append_events(self, batch: Batch) -> None:
        await self.perform(append_program(batch, key=self._event_key))


class _Writer:
    """The task that begins transactions, makes savepoints, and commits."""

    def __init__(self, connection: aiosqlite.Connection, stores: SqliteFiles) -> None:
        self._connection = connection
        self._stores = stores
        self._queue: deque[_Turn] = deque()
        self._current: _Turn | None = None
        self._company = 1  # how many works a commit waits for
        self._started = -COMPANY_WAIT  # of the last commit of works
        self._wake = asyncio.Event()
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run(), name="sqlite-writer", context=Context())

    def _queue_up(self, *, work: Work[Any] | None = None, errand: Callable[[], Awaitable[None]] | None = None) -> _Turn:
        if self._closing or self._task.done():
            raise StorageUnavailable("the database is closed")
        turn = _Turn(self._loop, work=work, errand=errand)
        self._queue.append(turn)
        self._wake.set()
        return turn

    @asynccontextmanager
    async def transaction(self, *, event_key: bytes | None) -> AsyncGenerator[SqliteTransaction]:
        current = self._current
        if current is not None and not current.ended.done() and current.owner is asyncio.current_task():
            raise RuntimeError("this task has an open transaction already: pass it on")  # would wait for itself
        turn = self._queue_up()
        transaction = SqliteTransaction(self._connection, event_key=event_key)
        try:
            await turn.begun
            yield transaction
        except BaseException:
            turn.end(kept=False)
            raise
        else:
            turn.end(kept=not transaction.failed)
        finally:
            transaction.finish()
        if transaction.failed:
            raise StorageUnavailable(
                "the transaction failed", detail="the transaction continued after a refused statement"
            )
        await turn.committed

    async def perform(self, work: Work[Any]) -> None:
        """Do the work in its turn; works that wait one after another share a commit."""
        await self._queue_up(work=work).committed

    async def wipe(self) -> bool:
        """Move the write-ahead logs' content to the files, overwriting deleted bytes, and truncate the logs."""
        were_cut: list[bool] = []

        async def cut() -> None:
            for name in ("keys", "vault"):
                found = await self._connection.execute_fetchall(f"pragma {name}.wal_checkpoint(truncate)")
                were_cut.extend(row[0] == 0 for row in found)

        await self._queue_up(errand=cut).committed
        return all(were_cut)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Wait, for a bounded time, for other processes' transactions. Only BEGIN can be refused as busy."""
        deadline = self._loop.time() + BUSY_WAIT
        while True:
            try:
                return await attempt()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in TRANSIENT or self._loop.time() > deadline:
                    raise

    def _refusal(self, error: Exception) -> VaultError:
        """Like `refusal`; if a lock wasn't available, names the process that holds it."""
        refused = refusal(error)
        if isinstance(refused, StorageBusy) and (holder := find_lock_holder((self._stores.keys, self._stores.vault))):
            return StorageBusy(f"the database is busy: {holder}", detail=refused.detail)
        return refused

    def _as_refusal(self, error: Exception) -> VaultError:
        return error if isinstance(error, VaultError) else self._refusal(error)

    async def _run_errand(self, turn: _Turn, errand: Callable[[], Awaitable[None]]) -> None:
        error: VaultError | None = StorageUnavailable("the database was closed before the end")
        try:
            await errand()
            error = None
        except ERRORS as failure:
            error = self._refusal(failure)
        finally:
            turn.settle(error)

    async def _wait_for_company(self) -> None:
        """Wait until as many works are there as at the end of the last commit, unless something else waits, too."""
        ends, alarm = self._started + COMPANY_WAIT, None
        while len(self._queue) + 1 < self._company and not self._closing and self._loop.time() < ends:
            if any(turn.work is None for turn in self._queue):
                break
            alarm = alarm or self._loop.call_at(ends, self._wake.set)
            self._wake.clear()
            await self._wake.wait()
        if alarm is not None:
            alarm.cancel()

    async def _perform(self, first: _Turn) -> None:
        """Do all work that waits next, up to a batch, with one commit."""
        turns = [first]
        outcomes: Sequence[VaultError | None] = ()
        try:
            if self._company > 1:
                await self._wait_for_company()
            self._started = self._loop.time()
            while self._queue and self._queue[0].work is not None and len(turns) < BATCH_LIMIT:
                turns.append(self._queue.popleft())
            turns = [turn for turn in turns if not turn.committed.cancelled()]
            works = [turn.work for turn in turns if turn.work is not None]
            if works:
                found = await self._patiently(lambda: run_at_once(self._connection, commit, works))
                outcomes = [None if error is None else self._as_refusal(error) for error in found]
        except ERRORS as failure:
            outcomes = [self._refusal(failure)] * len(turns)
        finally:
            closed = StorageUnavailable("the database was closed before the commit")
            for turn, outcome in zip(turns, outcomes or [closed] * len(turns), strict=True):
                turn.settle(outcome)
            self._company = min(len(turns) + len(self._queue), BATCH_LIMIT)

    async def close(self) -> None:
        """Serve waiting callers, then stop. Bounded: gives up a transaction that doesn't end."""
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._task}, timeout=2 * BUSY_WAIT)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def _next(self, *, only_callers: bool = False) -> _Turn | None:
        while self._queue:
            if only_callers and not self._queue[0].is_callers:
                return None  # after this batch
            turn = self._queue.popleft()
            if not turn.begun.cancelled() and not turn.committed.cancelled():
                return turn
        return None

    async def _run(self) -> None:
        try:
            while True:
                turn = self._next()
                if turn is not None and turn.errand is not None:
                    await self._run_errand(turn, turn.errand)
                elif turn is not None and turn.work is not None:
                    await self._perform(turn)
                elif turn is not None:
                    await self._batch(turn)
                elif self._closing:
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._refuse_waiting(StorageUnavailable("the database is closed"))

    def _refuse_waiting(self, error: VaultError) -> None:
        while (turn := self._next()) is not None:
            turn.settle(error)

    async def _batch(self, first: _Turn) -> None:
        """Begin, serve turns while any wait, and commit once; every kept turn gets the same outcome."""
        kept: list[_Turn] = []
        outcome: VaultError | None = StorageUnavailable("the database was closed before the commit")
        turn: _Turn | None = first
        try:
            await self._begin()
            served = 0
            while turn is not None:
                is_kept = await self._serve(turn)
                if is_kept:
                    kept.append(turn)
                served += 1
                turn = self._next(only_callers=True) if served < BATCH_LIMIT else None
                if is_kept and turn is not None:
                    await self._connection.execute("savepoint turn")  # nested: commit releases them all
            await self._connection.execute("commit" if kept else "rollback")
            outcome = None
        except sqlite3.Error as error:
            outcome = self._refusal(error)
            LOG.warning("a commit failed", extra={"detail": outcome.detail})
            self._refuse_waiting(outcome)  # all waited equally long; separate commits would only add waiting
        finally:
            for member in kept if turn is None else (*kept, turn):
                member.settle(outcome)
            if outcome is not None:
                with suppress(sqlite3.Error):  # there may be no transaction
                    await self._connection.execute("rollback")

    async def _begin(self) -> None:
        await self._patiently(lambda: self._connection.executescript("begin immediate; savepoint turn;"))

    async def _serve(self, turn: _Turn) -> bool:
        """Let the caller work in the open savepoint. A rolled-back savepoint stays open for the next turn."""
        if turn.begun.done():
            return False
        self._current = turn
        try:
            turn.begun.set_result(None)
            is_kept = await turn.ended
        finally:
            self._current = None
        if not is_kept:
            await self._connection.execute("rollback to turn")
        return is_kept


class SqliteDatabase:
    """One vault in two SQLite files; any number of processes may open them."""

    def __init__(
        self,
        readers: Sequence[aiosqlite.Connection],
        writer: aiosqlite.Connection,
        here: sqlite3.Connection,
        *,
        stores: SqliteFiles,
        owners: OwnerLocks | None,
        fingerprint: str,
    ) -> None:
        self.clock_offset = 0
        self.event_key: bytes | None = None
        self.fingerprint = fingerprint
        self._owners = owners
        self._here = here
        self._readers = tuple(readers)
        self._reading = [0] * len(self._readers)
        self._writing = writer
        self._writer = _Writer(writer, stores)
        self._is_closed = False

    @property
    def server_changes(self) -> int:
        return 0

    @classmethod
    async def open(cls, stores: SqliteFiles, *, has_locks: bool = True) -> SqliteDatabase:
        """Upgrade the schema and connect."""
        shape = await asyncio.to_thread(prepare, stores)
        opened: list[aiosqlite.Connection] = []
        try:
            for number in range(READERS + 1):
                opened.append(await connect(stores, read_only=number < READERS))  # noqa: PERF401 -- closed on failure
            here = connect_here(stores)
        except sqlite3.Error as error:
            for connection in opened:
                await connection.close()
            raise StorageUnavailable(f"can't open {stores.vault}: {error}", detail=str(error)) from error
        owners = OwnerLocks(stores.vault.parent) if has_locks else None
        return cls(
            opened[:READERS], opened[READERS], here, stores=stores, owners=owners, fingerprint=fingerprint(shape)
        )

    @property
    def is_pooled(self) -> bool:
        return False

    def now(self) -> int:
        return int(time.time()) + self.clock_offset

    def mark(self) -> object | None:
        try:
            return [self._here.execute(sql).fetchone()[0] for sql in VERSIONS]
        except ERRORS:
            return None  # closed, or another process holds the files briefly: the following read reports it

    def transaction(
        self, *, patient: bool = False, alone: bool = False
    ) -> AbstractAsyncContextManager[SqliteTransaction]:
        return self._writer.transaction(event_key=self.event_key)

    async def perform(self, program: SqliteProgram[T], *, events: Batch | None = None) -> T:
        work = Work(program, events, key=self.event_key)
        await self._writer.perform(work)
        return work.result

    async def append_events(self, batch: Batch) -> None:
        work: Work[None] = Work(None, batch, key=self.event_key)
        await self._writer.perform(work)

    async def fetch(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        if self._is_closed:
            raise StorageUnavailable("the database is closed")
        number = self._reading.index(min(self._reading))  # a long list must not delay short reads
        self._reading[number] += 1
        try:
            found = await self._readers[number].execute_fetchall(sql, parameters)
        except ERRORS as error:
            raise refusal(error) from error
        finally:
            self._reading[number] -= 1
        return rows_of(list(found))

    async def fetch_one(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Row | None:
        rows = await self.fetch(sql, parameters)
        return next(iter(rows), None)

    async def look_up(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        """Runs on the loop: a read by keys takes microseconds, a switch to a thread and back several times that."""
        if self._is_closed:
            raise StorageUnavailable("the database is closed")
        try:
            return rows_of(self._here.execute(sql, parameters).fetchall())
        except sqlite3.OperationalError:  # maybe another process holds the files briefly: wait for them in a thread
            return await self.fetch(sql, parameters)
        except ERRORS as error:
            raise refusal(error) from error

    async def hold_liveness(self, owner: str) -> None:
        if self._is_closed:
            raise StorageUnavailable("the database is closed")
        if self._owners is not None:
            self._owners.hold(owner)

    async def is_dead(self, owner: str, *, certainly: bool = False) -> bool:
        return self._owners is not None and self._owners.is_gone(owner) is True

    async def wipe(self) -> bool:
        return await self._writer.wipe()

    async def count_others(self) -> int:
        return 0

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._owners is not None:
            self._owners.close()
        self._here.close()
        await self._writer.close()
        for connection in (*self._readers, self._writing):
            await connection.close()

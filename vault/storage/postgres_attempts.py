"""Attempts to connect to PostgreSQL: few at a time, and none ends because its caller gave up. A login can take longer
than a caller waits: on a busy machine, after a failover, or in a pooler's queue. If each attempt ended with its caller,
none would succeed, and each new attempt would slow down the others: PgBouncer assigns server connections to clients
that already left, and then discards those connections. So an attempt outlives its caller, and its connection serves the
next caller. After failures, attempts pause.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import asyncpg

from vault.storage.postgres_hosts import ERRORS, DriverConnection

AT_ONCE = 2
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds after a failed attempt, before jitter
SPARE = 30.0  # seconds that an unused connection is kept for the next caller

_Waiter = asyncio.Future[DriverConnection]


class Attempts:
    """The attempts of one pool. `connect` opens one connection or fails within a bounded time."""

    def __init__(self, connect: Callable[[], Awaitable[DriverConnection]], *, at_once: int = AT_ONCE) -> None:
        self._connect = connect
        self._at_once = at_once
        self._waiting: dict[_Waiter, None] = {}  # in order of arrival
        self._running: set[asyncio.Task[None]] = set()
        self._spare: dict[DriverConnection, asyncio.TimerHandle] = {}
        self._pause = 0.0
        self._resuming: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def take(self, *_address: object, **_options: object) -> DriverConnection:
        """A new connection, from whichever attempt succeeds first.

        Ignores the arguments that asyncpg's pool passes, because `connect` has its own. Raises the error of an attempt
        that began while this caller waited, and InterfaceError after `close`.
        """
        if self._is_closed:
            raise asyncpg.InterfaceError("the pool is closed")
        while self._spare:
            connection, ending = self._spare.popitem()
            ending.cancel()
            is_good = False
            try:
                is_good = await _takes_writes(connection)
            finally:
                if not is_good:
                    connection.terminate()
            if is_good:
                return connection
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        self._start()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give(waiter.result())  # it arrived just as the caller left
            raise
        finally:
            self._waiting.pop(waiter, None)

    async def close(self) -> None:
        """Cancel all attempts and close unused connections."""
        self._is_closed = True
        if self._resuming is not None:
            self._resuming.cancel()
        self._refuse(tuple(self._waiting), asyncpg.InterfaceError("the pool is closed"))
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for connection in tuple(self._spare):
            self._discard(connection)

    def _start(self) -> None:
        """Start as many attempts as callers need, unless attempts are paused."""
        if self._resuming is not None or self._is_closed:
            return
        while len(self._running) < min(self._at_once, len(self._waiting)):
            self._running.add(asyncio.create_task(self._attempt(tuple(self._waiting)), name="postgres-attempt"))

    async def _attempt(self, waiters: tuple[_Waiter, ...]) -> None:
        try:
            connection = await self._connect()
        except Exception as error:  # noqa: BLE001 -- the callers raise it
            self._pause_attempts()
            self._refuse(waiters, error)
        else:
            self._pause = 0.0
            self._end_pause()
            self._give(connection)
        finally:
            self._running.discard(asyncio.current_task())  # pyright: ignore[reportArgumentType] -- we are a task
            self._start()

    def _pause_attempts(self) -> None:
        if self._resuming is None and not self._is_closed:
            self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
            spread = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret
            self._resuming = asyncio.get_running_loop().call_later(spread, self._continue)

    def _end_pause(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None

    def _continue(self) -> None:
        self._resuming = None
        self._start()

    def _refuse(self, waiters: tuple[_Waiter, ...], error: Exception) -> None:
        for waiter in waiters:
            self._waiting.pop(waiter, None)
            if not waiter.done():
                waiter.set_exception(error)

    def _give(self, connection: DriverConnection) -> None:
        """Give it to the caller that has waited longest; without callers, keep it for `SPARE` seconds."""
        while self._waiting:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            if not waiter.done():
                waiter.set_result(connection)
                return
        if self._is_closed:
            connection.terminate()
        else:
            ending = asyncio.get_running_loop().call_later(SPARE, self._discard, connection)
            self._spare[connection] = ending

    def _discard(self, connection: DriverConnection) -> None:
        self._spare.pop(connection).cancel()
        connection.terminate()


async def _takes_writes(connection: DriverConnection) -> bool:
    """Whether a connection that waited is still usable: it may have been opened while its server accepted no writes."""
    if connection.is_closed():
        return False
    try:
        row = await connection.fetchrow("select current_setting('transaction_read_only') as read_only", timeout=1.0)
    except ERRORS:
        return False
    return row is not None and row["read_only"] == "off"

"""Advisory locks that show processes on other hosts that we are running. The locks end with our connection, however it
ends. A free lock therefore means that its owner has ended *or* that its connection broke, and a failover breaks all of
them at once. Two rules keep running processes from being treated as dead: each process restores a broken connection by
itself within seconds, and no one trusts a free lock before its own has been held on the same server for longer than
that.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context

from vault.storage.postgres_hosts import ERRORS, DriverConnection

LOOK_EVERY = 5.0  # seconds between checks of the connection: a server that stopped doesn't report it
SETTLE = 20.0  # seconds from a failover until every running process has its locks again
_CLOSING = 3.0  # seconds

# The lock is released with the statement; `is_lost` is about our own lock: this server doesn't have it.
_LOOK = """
    select cast(pg_try_advisory_xact_lock_shared($1) as int) as is_free,
        cast(pg_try_advisory_xact_lock_shared($2) as int) as is_lost
"""


def owner_key(owner: str) -> int:
    """The advisory lock of one name."""
    return int.from_bytes(hashlib.sha256(b"token-vault owner " + owner.encode()).digest()[:8], signed=True)


class OwnerSessions:
    """The connection that holds this process's locks; restored when it breaks. Raises the driver's errors."""

    def __init__(self, connect: Callable[[], Awaitable[DriverConnection]], *, is_pooled: Callable[[], bool]) -> None:
        self._connect = connect
        self._is_pooled = is_pooled
        self._connection: DriverConnection | None = None
        self._wanted = [f"witness {secrets.token_urlsafe(16)}"]
        self._held: set[str] = set()
        self._since = 0.0
        self._lock = ""
        self._turn = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    async def hold(self, owner: str) -> None:
        """Hold the lock with this name from now on."""
        if self._is_held(owner):
            return
        if owner not in self._wanted:
            self._wanted.append(owner)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="postgres-owner", context=Context())
        async with self._turn:
            await self._restore()

    async def is_free(self, connection: DriverConnection, owner: str) -> bool:
        """Whether the name's lock is free, as seen on `connection`, and whether that can be trusted."""
        witness = self._wanted[0]
        await self.hold(witness)
        if asyncio.get_running_loop().time() - self._since < SETTLE:
            return False
        row = await connection.fetchrow(_LOOK, owner_key(owner), owner_key(witness))
        return row is not None and row["is_free"] == 1 and row["is_lost"] == 0

    async def close(self) -> None:
        """Release every name."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*ERRORS):
                async with asyncio.timeout(_CLOSING):
                    await connection.close()

    def _is_held(self, owner: str) -> bool:
        return owner in self._held and self._connection is not None and not self._connection.is_closed()

    async def _restore(self) -> None:
        """Hold every wanted name on a working connection."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._held.clear()
                self._connection = await self._connect()
                self._since = asyncio.get_running_loop().time()
                self._lock = "pg_advisory_lock"
                if self._is_pooled():
                    # A pooler lends its connection for one transaction, so this one stays open. It holds no snapshot.
                    await self._connection.execute("begin; set local idle_in_transaction_session_timeout = 0")
                    self._lock = "pg_advisory_xact_lock"
            for owner in self._wanted:
                if owner not in self._held:
                    # a parameter would leave a portal open, and with it a snapshot
                    await self._connection.execute(f"select {self._lock}({owner_key(owner)})")
                    self._held.add(owner)
        except BaseException:
            if self._connection is not None:
                self._connection.terminate()
            raise

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            with suppress(*ERRORS):
                async with self._turn:
                    await self._look()

    async def _look(self) -> None:
        """Detect a stopped server and move to its successor."""
        if self._connection is not None and not self._connection.is_closed():
            try:
                await self._connection.execute("select 1")
            except ERRORS:
                self._connection.terminate()
        await self._restore()

"""Whether a connection pooler before PostgreSQL keeps its clients' prepared statements separate.

In transaction mode each transaction may run on another server connection. If the pooler passes the names of prepared
statements through, one process runs the statement that another prepared under the same name, so the vault refuses to
start behind it. PgBouncer renames them (`max_prepared_statements`, since 1.21).
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

import asyncpg

from vault.refusals import StorageUnavailable
from vault.storage.postgres_hosts import DriverConnection

MIXED_UP = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
MIXES_UP = (
    "the connection pooler at database.url mixes up prepared statements: set max_prepared_statements = 200 in "
    "pgbouncer.ini (PgBouncer 1.21 or newer; the default since 1.24), or pool_mode = session"
)

_ROUNDS = 8  # checks of which client gets a server connection; others use the pooler too


async def check_pooler(connect: Callable[[], Awaitable[DriverConnection]]) -> None:
    """Refuse a pooler that mixes up prepared statements; `connect` makes connections without a statement cache.

    Raises StorageUnavailable with the line to change, and the driver's errors.
    """
    first, second = await connect(), await connect()
    try:
        if await _passes_names(first) and await _share(first, second):
            raise StorageUnavailable(MIXES_UP)
    finally:
        first.terminate()
        second.terminate()


async def _passes_names(connection: DriverConnection) -> bool:
    name = f"token_vault_{secrets.token_hex(8)}"
    async with connection.transaction(isolation="read_committed"):
        kept = await connection.prepare("select 1", name=name)  # closed with its last reference
        count = await connection.fetchval("select count(*) from pg_prepared_statements where name = $1", name)
        del kept
    return bool(count)


async def _share(first: DriverConnection, second: DriverConnection) -> bool:
    """Whether a server connection that served one of them goes to the other: never in session mode."""
    for _ in range(_ROUNDS):
        async with first.transaction(isolation="read_committed"):
            mine = await _server(first)
        async with second.transaction(isolation="read_committed"):
            if await _server(second) == mine:
                return True
    return False


async def _server(connection: DriverConnection) -> int | None:
    return await connection.fetchval("select pg_backend_pid()")

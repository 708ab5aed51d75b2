"""Upgrade the schema of a PostgreSQL database while older programs keep serving it.

Tables and columns change in one transaction that waits for locks only briefly and retries, because otherwise everyone
would queue behind it. Indexes of tables in use are built concurrently, outside any transaction. Processes that start
together take turns through a transaction's advisory lock, which also works through a pooler in transaction mode. They
poll for it: a process that waits inside a statement holds a snapshot, and a concurrent build waits for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import asyncpg

from vault.refusals import StorageUnavailable
from vault.storage import schema_shape
from vault.storage.database import check_version, schema_files
from vault.storage.postgres_hosts import ERRORS, DriverConnection
from vault.storage.schema_shape import Shape

PATIENT_TIMEOUT = 600.0  # seconds for one statement, and for our turn
BRIEF_LOCK = "500ms"
BRIEF_TRIES = 60
PAUSE = 0.25  # seconds
SCHEMA_LOCK = 0x746F6B656E5661  # "tokenVa"

_STORES = """(
    select relnamespace, cast('' as text) as prefix from pg_class where oid = to_regclass('schema_versions')
    union all select oid, 'keys.' from pg_namespace where nspname = 'keys'
) s"""
_COLUMNS = f"""
    select s.prefix || c.relname as named, a.attname as name, format_type(a.atttypid, null) as kind,
        cast(a.attnotnull as int) as required, cast(a.atthasdef as int) as has_default
    from {_STORES} join pg_class c on c.relnamespace = s.relnamespace and c.relkind in ('r', 'p')
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
"""  # noqa: S608 -- constants
_INDEXES = f"""
    select s.prefix || c.relname as named, i.relname as name, cast(x.indisunique as int) as is_unique,
        cast(x.indisprimary as int) as is_primary, cast(x.indpred is not null as int) as is_partial,
        array_to_string(array(
            select a.attname from unnest(x.indkey) with ordinality k(number, place)
            join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number order by k.place
        ), ' ') as columns
    from {_STORES} join pg_class c on c.relnamespace = s.relnamespace and c.relkind in ('r', 'p')
    join pg_index x on x.indrelid = c.oid and x.indisvalid join pg_class i on i.oid = x.indexrelid
"""  # noqa: S608 -- constants
_BROKEN = (
    "select count(*) from pg_index x join pg_class i on i.oid = x.indexrelid "
    "where i.relname = $1 and not x.indisvalid and i.relnamespace = "
    "(select relnamespace from pg_class where oid = to_regclass('schema_versions'))"
)


async def upgrade(
    working: DriverConnection, borrow: Callable[[], AbstractAsyncContextManager[DriverConnection]], *, is_pooled: bool
) -> Shape:
    """Upgrade the schema; returns its shape afterward. A second connection, borrowed if needed, holds the lock.

    `is_pooled`: a pooler is in between, which sets no session limits and keeps none.

    Raises StorageUnavailable for a schema that this program cannot use, and asyncpg's errors.
    """
    applied, found = await _examine(working)
    if applied >= len(schema_files()) and not _missing_indexes(found) and not schema_shape.dropped_indexes(found):
        return found  # nothing is written or locked
    async with borrow() as locking, _turn(locking):
        applied, found = await _examine(working)  # another process may have been first
        if applied < len(schema_files()):
            await _apply_patiently(working, applied=applied)
            _, found = await _examine(working)
        for statement in _missing_indexes(found):
            await _build(working, statement, is_pooled=is_pooled)
        for name in schema_shape.dropped_indexes(found):
            await _change(working, f"drop index concurrently if exists {name}", is_pooled=is_pooled)
        _, found = await _examine(working)
    return found


async def _examine(connection: DriverConnection) -> tuple[int, Shape]:
    """The last applied file and the database's content. Raises StorageUnavailable when they contradict each other."""
    compatible_from = await _highest(connection, "schema_versions")
    applied = await _highest(connection, "schema_migrations") or compatible_from
    check_version(compatible_from)
    found = await _shape(connection)
    schema_shape.check_shape(found, _expected_shape(min(applied, len(schema_files()))))
    return applied, found


async def _highest(connection: DriverConnection, table: str) -> int:
    there = await connection.fetchval("select cast(to_regclass($1) is not null as int)", table)
    highest = await connection.fetchval(f"select max(number) from {table}") if there else None  # noqa: S608 -- constants
    return highest or 0


def _expected_shape(number: int) -> Shape:
    return schema_shape.expected_shape(number, keys=False) | schema_shape.expected_shape(number, keys=True)


def _missing_indexes(found: Shape) -> tuple[str, ...]:
    return schema_shape.missing_indexes(found, _expected_shape(len(schema_files())))


async def _shape(connection: DriverConnection) -> Shape:
    lines: set[str] = set()
    for row in await connection.fetch(_COLUMNS):
        table = str(row["named"])
        lines.add(f"table {table}")
        lines.add(
            schema_shape.column_line(
                table,
                str(row["name"]),
                str(row["kind"]),
                is_required=bool(row["required"]),
                has_default=bool(row["has_default"]),
            )
        )
    for row in await connection.fetch(_INDEXES):
        table, columns = str(row["named"]), str(row["columns"]).split(" ")
        if row["is_primary"]:
            lines.add(schema_shape.key_line(table, columns))
        else:
            lines.add(
                schema_shape.index_line(
                    table,
                    str(row["name"]),
                    columns,
                    is_unique=bool(row["is_unique"]),
                    is_partial=bool(row["is_partial"]),
                )
            )
    return frozenset(lines)


@asynccontextmanager
async def _turn(connection: DriverConnection) -> AsyncGenerator[None]:
    """Hold the upgrade lock. Raises StorageUnavailable when another process holds it for ten minutes."""
    for _ in range(int(PATIENT_TIMEOUT / PAUSE)):
        await connection.execute("begin")
        try:
            if await connection.fetchval("select cast(pg_try_advisory_xact_lock($1) as int)", SCHEMA_LOCK):
                # By the simple protocol: it closes the portal of the previous statement, whose snapshot a concurrent
                # build would wait for.
                await connection.execute("set local idle_in_transaction_session_timeout = 0")
                yield
                return
        finally:
            await _end(connection, "rollback")
        await asyncio.sleep(PAUSE)
    raise StorageUnavailable("another process has been upgrading the schema for ten minutes: restart when it's done")


async def _apply_patiently(connection: DriverConnection, *, applied: int) -> None:
    for tries_left in reversed(range(BRIEF_TRIES)):
        await connection.execute("begin")
        try:
            await connection.execute(f"set local lock_timeout = '{BRIEF_LOCK}'")
            await _apply(connection, applied=applied)
        except BaseException as error:
            await _end(connection, "rollback")
            if not isinstance(error, asyncpg.LockNotAvailableError) or not tries_left:
                raise
        else:
            await connection.execute("commit")
            return
        await asyncio.sleep(PAUSE)


async def _apply(connection: DriverConnection, *, applied: int) -> None:
    await connection.execute("create schema if not exists keys")
    for statement in schema_shape.BOOKKEEPING:
        await connection.execute(statement.format(prefix=""))
    for file, statements in schema_shape.pending_files(applied, lambda file: (*file.keys, *file.vault)):
        for statement in statements:
            await connection.execute(statement, timeout=PATIENT_TIMEOUT)
        await connection.execute(
            "insert into schema_migrations (number, compatible_from, applied_at) "
            "values ($1, $2, cast(extract(epoch from now()) as bigint))",
            file.number,
            file.compatible_from,
        )
        await connection.execute(
            "insert into schema_versions (number, applied_at) "
            "values ($1, cast(extract(epoch from now()) as bigint)) on conflict do nothing",
            file.compatible_from,
        )


async def _build(connection: DriverConnection, statement: str, *, is_pooled: bool) -> None:
    name = schema_shape.index_name(statement)
    if await connection.fetchval(_BROKEN, name):  # of an interrupted build
        await connection.execute(f"drop index concurrently if exists {name}", timeout=PATIENT_TIMEOUT)
    await _change(connection, statement.replace("index ", "index concurrently ", 1), is_pooled=is_pooled)


async def _change(connection: DriverConnection, statement: str, *, is_pooled: bool) -> None:
    """Build or drop concurrently: waits for running transactions while others write."""
    if not is_pooled:
        await connection.execute("set lock_timeout = 0")
    try:
        await connection.execute(statement, timeout=PATIENT_TIMEOUT)
    finally:
        if not is_pooled:
            await _end(connection, "reset lock_timeout")


async def _end(connection: DriverConnection, statement: str) -> None:
    with suppress(*ERRORS):  # a broken connection has already ended, and its first error counts
        await connection.execute(statement)

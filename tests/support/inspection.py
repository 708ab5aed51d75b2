"""Functions that only tests need, to inspect a vault, to speed it up, or to make it fail."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from server.deployment import Deployment
from tests.support.person import Person, session_token
from vault.audit.audit import Activity, list_events
from vault.audit.proof import ChainBroken, prove
from vault.grants import grant_from
from vault.records import HOUR, TENANT, Event, Grant, Session
from vault.sign_in import sessions
from vault.storage.database import Database, Reader, Transaction, integer


async def get_grant(reader: Reader, grant_id: str) -> Grant | None:
    """The grant with this id, live or revoked."""
    row = await reader.fetch_one(
        "select id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason"
        " from grants where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": grant_id},
    )
    return None if row is None else grant_from(row)


async def read_events(
    deployment: Deployment, *, user_id: str | None = None, limit: int = 10_000, newest_first: bool = False
) -> Sequence[Event]:
    """The recorded events, oldest first, including those that are written after their answer."""
    await deployment.activity.settle()
    return await list_events(deployment.database, user_id=user_id, limit=limit, newest_first=newest_first)


async def verify_activity(database: Database) -> int:
    """Recompute the whole chain up to the current head; the number of its last event. Raises ChainBroken.

    Treats events without the vault's key after its first use as forged.
    """
    report = await prove(database)
    if report.unkeyed:
        raise ChainBroken(report.unkeyed[0][0], "it wasn't written with the vault's key")
    return report.last


async def session_of(deployment: Deployment, person: Person) -> Session:
    """The live session of this browser."""
    token, now = session_token(person.http), deployment.now()
    found = await sessions.find_session(deployment.database, token, now=now, idle_lifetime=HOUR)
    assert found is not None
    return found[0]


def note_repeats(activity: Activity) -> None:
    """Write counted refusals now, before their minute is over."""
    for event in activity._repeats.due(None):
        activity.note(event)


async def count_waiting(transaction: Transaction) -> int:
    """How many sessions wait for this transaction on PostgreSQL, or for one that waits for it."""
    row = await transaction.fetch_one(
        "with recursive held(pid) as materialized (select distinct pid from pg_locks where not granted),"
        " waiting(pid) as ("
        "select pid from held where pg_backend_pid() = any(pg_blocking_pids(pid)) union"
        " select h.pid from held h join waiting w on w.pid = any(pg_blocking_pids(h.pid))"
        ") select count(*) as n from waiting"
    )
    assert row is not None
    return integer(row, "n")


async def lock_row(transaction: Transaction, table: str, identity: str, *, is_sqlite: bool) -> None:
    """Lock a row without writing it, so that those who wait for it get it in their order; on SQLite, nothing is needed.

    PostgreSQL lets those who wait for a row that was written compete for its new version.
    """
    if not is_sqlite:
        await transaction.fetch_one(f"select 1 as one from {table} where id = :id for update", {"id": identity})


async def until_waiting(
    transaction: Transaction, *, number: int, is_sqlite: bool, unless: asyncio.Task[object] | None = None
) -> None:
    """Wait until this many sessions wait for the transaction; on SQLite, until as many callers wait for the writer."""
    async with asyncio.timeout(60):
        while unless is None or not unless.done():
            if (_count_queued() if is_sqlite else await count_waiting(transaction)) >= number:
                return
            await asyncio.sleep(0.01)


def _count_queued() -> int:
    """How many callers wait for the writers of this process's SQLite databases, besides those that append events."""
    running = [one.get_coro() for one in asyncio.all_tasks() if one.get_name() == "sqlite-writer"]
    writers = [one.cr_frame.f_locals["self"] for one in running if inspect.iscoroutine(one) and one.cr_frame]
    turns = [turn for writer in writers for turn in writer._queue]
    return sum(turn.work is None or turn.work.program is not None for turn in turns)


@asynccontextmanager
async def unstorable(
    database: Database, table: str, column: str, value: str, *, is_sqlite: bool
) -> AsyncGenerator[None]:
    """While the block runs, no row of the table with this value can be written."""
    add = [f"alter table {table} add constraint fault check ({column} <> $${value}$$) not valid"]
    drop = [f"alter table {table} drop constraint fault"]
    if is_sqlite:
        writes = ("insert", "update")
        refusal = f"when new.{column} = '{value}' begin select raise(abort, 'fault'); end"
        add = [f"create trigger vault.fault_{one} before {one} on {table} {refusal}" for one in writes]
        drop = [f"drop trigger vault.fault_{one}" for one in writes]
    await _execute(database, add)
    try:
        yield
    finally:
        await _execute(database, drop)


async def _execute(database: Database, statements: list[str]) -> None:
    async with database.transaction() as transaction:
        for one in statements:
            await transaction.execute(one)

"""The one task that writes to SQLite: callers share its commits, and no caller's fate is another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

import vault.storage.sqlite
import vault.storage.sqlite_files
from tests.conftest import Store
from tests.support.inspection import unstorable, verify_activity
from tests.vault.storage.test_database import add, hold_write_lock, names
from vault.refusals import StorageBusy, StorageUnavailable
from vault.storage.database import Conflict, Database, Program, Statement
from vault.storage.event_chain import Batch, ChainEntry
from vault.storage.sqlite import BATCH_LIMIT, BUSY_STEP_MS, SqliteDatabase
from vault.storage.sqlite_events import SqliteProgram


@pytest.fixture
async def database(sqlite_store: Store) -> AsyncGenerator[Database]:
    opened = await sqlite_store.open()
    try:
        yield opened
    finally:
        await opened.close()


async def keep(database: Database, name: str) -> None:
    async with database.transaction() as transaction:
        await add(transaction, name)


async def fail(database: Database, name: str) -> None:
    async with database.transaction() as transaction:
        await add(transaction, name)
        raise KeyError(name)


async def settle(tasks: int = 20) -> None:
    """Let what was started run until it waits for the writer."""
    for _ in range(tasks):
        await asyncio.sleep(0)


@pytest.mark.parametrize("failing", [0, 1])
async def test_each_second_of_many_fails_and_takes_no_other_with_it(database: Database, failing: int) -> None:
    """Also where one commit ends and the next begins."""
    numbers = range(2 * BATCH_LIMIT + 3)
    outcomes = await asyncio.gather(
        *((fail if one % 2 == failing else keep)(database, f"{one:03}") for one in numbers), return_exceptions=True
    )
    assert [one is None for one in outcomes] == [one % 2 != failing for one in numbers]
    assert await names(database) == [f"{one:03}" for one in numbers if one % 2 != failing]


async def test_a_caller_waits_for_another_process_longer_than_sqlite_itself_would(
    sqlite_store: Store, database: Database
) -> None:
    async with hold_write_lock(sqlite_store) as other:
        waiting = asyncio.create_task(keep(database, "a"))
        done, _ = await asyncio.wait({waiting}, timeout=3 * BUSY_STEP_MS / 1000)
        assert not done
        other.execute("rollback")
        async with asyncio.timeout(30):
            await waiting
    assert await names(database) == ["a"]


async def test_a_caller_that_waited_in_vain_is_told_to_come_back_in_a_second(
    sqlite_store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.sqlite, "BUSY_WAIT", 0.1)
    async with hold_write_lock(sqlite_store):
        with pytest.raises(StorageBusy) as refused:
            await keep(database, "a")
        assert refused.value.retry_after == 1
        with pytest.raises(StorageBusy) as refused:
            await database.append_events(batch_of("a"))
        assert refused.value.retry_after == 1
    await keep(database, "a")
    await database.append_events(batch_of("b"))
    assert await names(database) == ["a"]
    assert await kinds(database) == ["b"]


def batch_of(*kinds: str, at: int = 5) -> Batch:
    return Batch(at=at, entries=[ChainEntry(one, "", None, None, None, "{}") for one in kinds])


async def kinds(database: Database) -> list[object]:
    return [row["kind"] for row in await database.fetch("select kind from events order by sequence")]


async def test_what_was_given_up_while_it_waited_writes_nothing(sqlite_store: Store, database: Database) -> None:
    """The first caller waits for the lock, others for the first."""
    async with hold_write_lock(sqlite_store) as other:
        first = asyncio.create_task(keep(database, "first"))
        await settle()
        given_up = [
            first,
            asyncio.ensure_future(database.append_events(batch_of("given up"))),
            asyncio.create_task(keep(database, "given up")),
        ]
        kept = [
            asyncio.ensure_future(database.append_events(batch_of("kept"))),
            asyncio.create_task(keep(database, "kept")),
        ]
        await settle()
        for one in given_up:
            one.cancel()
        await settle()
        other.execute("rollback")
        async with asyncio.timeout(30):
            await asyncio.gather(*kept)
    assert all(one.cancelled() for one in given_up)
    assert await names(database) == ["kept"]
    assert await kinds(database) == ["kept"]


async def test_events_and_transactions_that_wait_for_one_another_are_all_written(database: Database) -> None:
    begun, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "0")
            begun.set()
            await leave.wait()

    first = asyncio.create_task(hold())
    await begun.wait()
    waiting = [
        one
        for number in range(1, 4)
        for one in (
            asyncio.ensure_future(database.append_events(batch_of(f"{number}"))),
            asyncio.create_task(keep(database, f"{number}")),
        )
    ]
    await settle()
    leave.set()
    async with asyncio.timeout(30):
        await asyncio.gather(first, *waiting)
    assert await names(database) == ["0", "1", "2", "3"]
    assert await kinds(database) == ["1", "2", "3"]


async def test_a_program_that_is_refused_leaves_nothing_and_no_open_transaction(database: Database) -> None:
    assert isinstance(database, SqliteDatabase)

    def program(last: str) -> SqliteProgram[str]:
        yield Statement(
            "insert into seen (purpose, value_hash, expires_at) values (:purpose, :hash, :at)",
            {"purpose": last, "hash": b"1", "at": 1},
        )
        yield Statement(f"select purpose from {last}", {})
        return last

    with pytest.raises(StorageUnavailable):
        await database.perform(program("nowhere"))
    assert await database.perform(program("seen")) == "seen"
    await keep(database, "a")
    assert [row["purpose"] for row in await database.fetch("select purpose from seen")] == ["seen"]


@pytest.mark.parametrize("failing", [0, 1])
async def test_each_second_of_many_programs_fails_and_takes_no_other_with_it(
    sqlite_store: Store, database: Database, failing: int
) -> None:
    """Those that wait share commits, also with events."""

    def program(number: int) -> Program[int]:
        yield Statement("insert into apis (tenant, resource, name, created_at) values (:t, :r, :r, 1)", row(number))
        if number % 2 == failing:
            yield Statement("insert into apis (tenant, resource, name, created_at) values (:t, :r, :r, 1)", row(number))
        return number

    def row(number: int) -> dict[str, str]:
        return {"t": "default", "r": f"{number:03}"}

    numbers = range(2 * BATCH_LIMIT + 3)
    async with hold_write_lock(sqlite_store) as other:
        performing = [asyncio.ensure_future(database.perform(program(one))) for one in numbers]
        appending = [asyncio.ensure_future(database.append_events(batch_of(str(one)))) for one in range(3)]
        await settle()
        given_up = performing.pop()
        given_up.cancel()
        await settle()
        other.execute("rollback")
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*performing, return_exceptions=True)
            await asyncio.gather(*appending)
    kept = [one for one in numbers if one % 2 != failing and one != numbers[-1]]
    assert [one for one in outcomes if not isinstance(one, Conflict)] == kept
    assert await names(database) == [f"{one:03}" for one in kept]
    assert await kinds(database) == ["0", "1", "2"]


def addition(name: str, *, is_kept: bool = True) -> Program[bool]:
    """A program that adds a name, or that has nothing to add."""
    if is_kept:
        yield Statement(
            "insert into apis (tenant, resource, name, created_at) values (:t, :r, :r, 1)", {"t": "default", "r": name}
        )
    return is_kept


async def test_events_that_wait_for_one_commit_are_one_batch_of_the_chain(
    sqlite_store: Store, database: Database
) -> None:
    """Those of the same second; the events of a program without a result, or of a refused one, aren't kept."""
    await database.perform(addition("taken"))
    async with hold_write_lock(sqlite_store) as other:
        waiting = [
            asyncio.ensure_future(database.perform(addition("a"), events=batch_of("a", "b"))),
            asyncio.ensure_future(database.perform(addition("", is_kept=False), events=batch_of("not done"))),
            asyncio.ensure_future(database.perform(addition("taken"), events=batch_of("refused"))),
            asyncio.ensure_future(database.append_events(batch_of("c"))),
            asyncio.ensure_future(database.append_events(batch_of("d", at=6))),
            asyncio.ensure_future(database.perform(addition("e"), events=batch_of("e", at=6))),
        ]
        await settle()
        other.execute("rollback")
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [one for one in outcomes if not isinstance(one, Conflict)] == [True, False, None, None, True]
    assert await names(database) == ["a", "e", "taken"]
    assert await kinds(database) == ["a", "b", "c", "d", "e"]
    batches = await database.fetch("select at, last_sequence from event_batches order by height")
    assert [dict(one) for one in batches] == [{"at": 5, "last_sequence": 3}, {"at": 6, "last_sequence": 5}]
    assert await verify_activity(database) == 5


@pytest.mark.parametrize("other", ["work", "transaction", "time"])
async def test_works_wait_briefly_for_as_many_as_came_before(
    database: Database, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """They then share a commit, and so a batch; for something else or after a while they wait no more."""
    monkeypatch.setattr(vault.storage.sqlite, "COMPANY_WAIT", 0.05 if other == "time" else 600.0)
    async with asyncio.timeout(30):
        await asyncio.gather(*(database.perform(addition(one), events=batch_of(one)) for one in "abc"))
        waiting = asyncio.ensure_future(database.perform(addition("d"), events=batch_of("d")))
        await settle()
        if other == "work":
            assert not waiting.done()
            await asyncio.gather(*(database.perform(addition(one), events=batch_of(one)) for one in "ef"))
        elif other == "transaction":
            await keep(database, "e")
        await waiting
    assert await names(database) == [*"abcd", *("ef" if other == "work" else "e" if other == "transaction" else "")]
    batches = await database.fetch("select last_sequence from event_batches order by height")
    assert [one["last_sequence"] for one in batches][-2:] == [3, 6 if other == "work" else 4]


async def test_events_that_cannot_be_stored_end_the_whole_commit(sqlite_store: Store, database: Database) -> None:
    for kind in ("refused", "stored"):
        async with (
            unstorable(database, "events", "kind", "refused", is_sqlite=True),
            hold_write_lock(sqlite_store) as other,
        ):
            waiting = [
                asyncio.ensure_future(database.perform(addition(kind), events=batch_of(kind))),
                asyncio.ensure_future(database.append_events(batch_of(f"with {kind}"))),
            ]
            await settle()
            other.execute("rollback")
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(one, StorageUnavailable) for one in outcomes] == [kind == "refused"] * 2
    assert await names(database) == ["stored"]
    assert await kinds(database) == ["stored", "with stored"]


@pytest.mark.parametrize("others", [(), ("small",)])
async def test_programs_that_the_full_disk_ends_say_that_it_is_full(sqlite_store: Store, others: Sequence[str]) -> None:
    """SQLite rolls back by itself, also the programs that share the commit."""
    database = await sqlite_store.open()
    assert isinstance(database, SqliteDatabase)

    def program(resource: str) -> Program[None]:
        yield Statement(
            "insert into apis (tenant, resource, name, created_at) values (:t, :r, :r, 1)",
            {"t": "default", "r": resource},
        )

    try:
        limited = await database._writing.execute_fetchall("pragma vault.page_count")
        await database._writing.execute(f"pragma vault.max_page_count = {next(iter(limited))[0] + 2}")
        async with hold_write_lock(sqlite_store) as other:
            waiting = [asyncio.ensure_future(database.perform(program(one))) for one in (*others, "x" * 100_000)]
            await settle()
            other.execute("rollback")
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        for one in outcomes:
            assert isinstance(one, StorageUnavailable)
            assert "disk is full" in str(one.detail)
        await database._writing.execute("pragma vault.max_page_count = 100000")
        await database.perform(program("b"))
        assert await names(database) == ["b"]
    finally:
        await database.close()


async def test_a_vault_that_is_closing_takes_no_new_work_and_finishes_what_it_has(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.sqlite, "BUSY_WAIT", 600.0)  # closing doesn't give up
    begun, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "under way")
            begun.set()
            await leave.wait()

    assert isinstance(database, SqliteDatabase)
    running = asyncio.create_task(hold())
    await begun.wait()
    waiting = asyncio.create_task(keep(database, "waiting"))
    await settle()
    closing = asyncio.create_task(database.close())
    await settle()
    for late in (keep(database, "late"), database.append_events(batch_of("late")), database.wipe()):
        with pytest.raises(StorageUnavailable, match="is closed"):
            async with asyncio.timeout(30):
                await late
    leave.set()
    async with asyncio.timeout(30):
        await asyncio.gather(running, waiting, closing)


async def test_a_caller_that_is_done_after_the_end_learns_that_nothing_was_kept(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.sqlite, "BUSY_WAIT", 0.05)
    database = await sqlite_store.open()
    begun, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "a")
            begun.set()
            await leave.wait()

    running = asyncio.create_task(hold())
    await begun.wait()
    await database.close()
    leave.set()
    with pytest.raises(StorageUnavailable, match="closed before the commit"):
        async with asyncio.timeout(30):
            await running
    reopened = await sqlite_store.open()
    assert await names(reopened) == []
    await reopened.close()


async def test_a_vault_that_is_up_to_date_starts_while_another_process_writes(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.sqlite_files, "BUSY_WAIT", 0.1)
    await (await sqlite_store.open()).close()
    async with hold_write_lock(sqlite_store):
        database = await sqlite_store.open()
        assert await names(database) == []
        await database.close()


async def test_the_first_of_several_rows_is_fetched(database: Database) -> None:
    for name in ("a", "b"):
        await keep(database, name)
    sql = "select resource from apis order by resource"
    assert await database.fetch_one(sql) == {"resource": "a"}
    async with database.transaction() as transaction:
        assert await transaction.fetch_one(sql) == {"resource": "a"}

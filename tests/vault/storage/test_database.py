"""Transactions, group commit and failures, on both databases."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

import vault.storage.postgres
import vault.storage.schema_shape
import vault.storage.sqlite
import vault.storage.sqlite_files
from tests.conftest import PostgresCluster, Store
from vault.refusals import StorageBusy, StorageUnavailable, TemporarilyUnavailable, VaultError
from vault.storage.database import (
    Conflict,
    Database,
    Row,
    Transaction,
    binary,
    binary_or_none,
    integer,
    integer_or_none,
    schema_files,
    text,
    text_or_none,
)
from vault.storage.database_url import open_database
from vault.storage.postgres import translate
from vault.storage.sqlite import SqliteDatabase

INSERT = "insert into apis (tenant, resource, name, created_at) values (:tenant, :resource, :name, :created_at)"


async def add(transaction: Transaction, resource: str) -> int:
    return await transaction.execute(
        INSERT, {"tenant": "default", "resource": resource, "name": "an API", "created_at": 5}
    )


async def names(database: Database) -> list[str]:
    return [text(row, "resource") for row in await database.fetch("select resource from apis order by resource")]


async def test_a_transaction_is_visible_when_it_returns(database: Database) -> None:
    async with database.transaction() as transaction:
        assert await add(transaction, "a") == 1
        assert await transaction.fetch_one("select name from apis where resource = :r", {"r": "a"})
        assert await transaction.fetch_one("select name from apis where resource = :r", {"r": "b"}) is None
    assert await names(database) == ["a"]
    assert await database.fetch_one("select name from apis where resource = :r", {"r": "b"}) is None


async def test_an_exception_rolls_back_its_own_transaction_only(database: Database) -> None:
    async def add_and_fail() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "refused")
            raise KeyError("no")

    async def add_row(name: str) -> None:
        async with database.transaction() as transaction:
            await add(transaction, name)

    outcomes = await asyncio.gather(
        add_row("a"), add_and_fail(), add_row("b"), add_and_fail(), add_row("c"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), KeyError, type(None), KeyError, type(None)]
    assert await names(database) == ["a", "b", "c"]


@pytest.mark.parametrize("error", [TimeoutError("mine"), OSError("mine"), asyncpg.InterfaceError("mine")])
async def test_a_callers_own_error_arrives_as_it_is(database: Database, error: Exception) -> None:
    """Even if the database could have raised it; the caller may know better what it means."""
    with pytest.raises(type(error), match="mine"):
        async with database.transaction() as transaction:
            await add(transaction, "a")
            raise error
    assert await names(database) == []


async def test_a_database_that_does_not_exist_is_refused_with_the_servers_reason(postgres_store: Store) -> None:
    url = urlsplit(postgres_store.url)
    with pytest.raises(StorageUnavailable, match='"no_such_vault" does not exist') as refused:
        await open_database(urlunsplit(url._replace(path="/no_such_vault")), data=postgres_store.data)
    assert "\n" not in str(refused.value)


async def test_a_taken_key_is_a_conflict_and_a_free_one_is_not(database: Database) -> None:
    async with database.transaction() as transaction:
        await add(transaction, "a")
    with pytest.raises(Conflict) as refused:
        async with database.transaction() as transaction:
            await add(transaction, "a")
    async with database.transaction() as transaction:
        await add(transaction, "b")
    assert await names(database) == ["a", "b"]
    assert "unique" in refused.value.detail.casefold(), "the log has the server's reason"
    assert "default" not in refused.value.detail, "but not the values that it names"


async def test_a_missing_value_is_not_a_conflict(database: Database) -> None:
    with pytest.raises(StorageUnavailable):
        async with database.transaction() as transaction:
            await transaction.execute(
                "insert into apis (tenant, resource) values (:tenant, :r)", {"tenant": "t", "r": "x"}
            )


async def test_a_refusal_that_is_passed_over_keeps_nothing(database: Database) -> None:
    async with database.transaction() as transaction:
        await add(transaction, "a")
    with pytest.raises(StorageUnavailable):
        async with database.transaction() as transaction:
            await add(transaction, "b")
            with pytest.raises(Conflict):
                await add(transaction, "a")
    with pytest.raises(StorageUnavailable):
        async with database.transaction() as transaction:
            with pytest.raises(Conflict):
                await add(transaction, "a")
            await add(transaction, "c")
    assert await names(database) == ["a"]


async def test_only_one_of_many_contenders_takes_what_exists_once(database: Database) -> None:
    async with database.transaction() as transaction:
        await add(transaction, "prize")

    async def take(number: int) -> Row | None:
        async with database.transaction() as transaction:
            return await transaction.fetch_one(
                "update apis set name = :name where resource = :r and name = :old returning name",
                {"name": f"taken by {number}", "old": "an API", "r": "prize"},
            )

    winners = [row for row in await asyncio.gather(*(take(number) for number in range(40))) if row is not None]
    assert len(winners) == 1
    stored = await database.fetch_one("select name from apis where resource = :r", {"r": "prize"})
    assert stored == winners[0]


async def test_a_cancelled_caller_does_not_harm_the_others(database: Database) -> None:
    entered = asyncio.Event()

    async def stuck() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "stuck")
            entered.set()
            await asyncio.Event().wait()

    async def add_row(name: str) -> None:
        async with database.transaction() as transaction:
            await add(transaction, name)

    first = asyncio.create_task(add_row("a"))
    cancelled = asyncio.create_task(stuck())
    others = [asyncio.create_task(add_row(name)) for name in ("b", "c")]
    waiting = asyncio.create_task(add_row("never"))
    async with asyncio.timeout(30):
        await entered.wait()
        if isinstance(database, SqliteDatabase):
            waiting.cancel()  # it is still waiting for its turn
        else:
            await waiting
        cancelled.cancel()
        await asyncio.wait({first, cancelled, waiting, *others})
    assert cancelled.cancelled()
    assert set(await names(database)) - {"never"} == {"a", "b", "c"}


async def test_many_waiting_transactions_share_a_commit(sqlite_store: Store) -> None:
    database = await sqlite_store.open()

    async def add_row(name: str) -> None:
        async with database.transaction() as transaction:
            await add(transaction, name)

    try:
        await asyncio.gather(*(add_row(f"{number:03}") for number in range(200)))
        assert len(await names(database)) == 200
        # each commit writes the changed table page again, so this is far less than one commit for each row would write
        wal = Path(f"{sqlite_store.data / 'vault.sqlite'}-wal").stat().st_size
        assert wal < 200 * 4096
    finally:
        await database.close()


async def test_a_transaction_inside_a_transaction_of_the_same_task_is_refused(sqlite_store: Store) -> None:
    database = await sqlite_store.open()
    try:
        async with database.transaction() as transaction:
            await add(transaction, "a")
            with pytest.raises(RuntimeError):
                async with database.transaction():
                    pass
        assert await names(database) == ["a"]
    finally:
        await database.close()


async def test_a_finished_transaction_and_a_closed_database_refuse(store: Store) -> None:
    database = await store.open()
    async with database.transaction() as transaction:
        await add(transaction, "a")
    with pytest.raises(StorageUnavailable):
        await add(transaction, "b")
    await database.close()
    await database.close()
    with pytest.raises((StorageUnavailable, TemporarilyUnavailable)):
        await names(database)
    with pytest.raises((StorageUnavailable, TemporarilyUnavailable)):
        async with database.transaction():
            pass
    reopened = await store.open()
    assert await names(reopened) == ["a"]
    await reopened.close()


async def test_columns_come_back_as_text_integers_bytes_and_none(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.execute_many(
            "insert into sessions (tenant, token_hash, user_id, created_at, seen_at, expires_at, ended_at) "
            "values (:tenant, :hash, :user, :now, :now, :later, :ended)",
            [
                {"tenant": "default", "hash": b"\x00\xff", "user": "u", "now": 2**40, "later": 1, "ended": None},
                {"tenant": "default", "hash": b"", "user": "ü\n", "now": -1, "later": 1, "ended": 7},
            ],
        )
    first, second = await database.fetch("select * from sessions order by created_at desc")
    assert (binary(first, "token_hash"), integer(first, "created_at")) == (b"\x00\xff", 2**40)
    assert text(second, "user_id") == "ü\n"
    assert (integer_or_none(first, "ended_at"), integer_or_none(second, "ended_at")) == (None, 7)
    assert (text_or_none(first, "user_id"), binary_or_none(first, "token_hash")) == ("u", b"\x00\xff")
    for reader in (text, integer, binary):
        with pytest.raises(StorageUnavailable):
            reader(first, "ended_at")


async def test_now_is_the_time_of_the_database_and_moves_with_the_offset(database: Database) -> None:
    before = database.now()
    database.clock_offset += 3600
    assert 3600 <= database.now() - before <= 3602


@pytest.mark.moving_clock
async def test_a_vault_tells_the_time_that_it_is(store: Store) -> None:
    """Of the server on PostgreSQL, which here is this machine, too."""
    database = await store.open()
    try:
        assert database.clock_offset == 0
        for offset in (0, 3600, -3600):
            database.clock_offset = offset
            assert database.now() == pytest.approx(time.time() + offset, abs=2)
    finally:
        await database.close()


async def test_the_clock_of_the_server_is_read_again_and_again(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.postgres, "CALIBRATE_EVERY", 0.05)
    database = await postgres_store.open()
    assert isinstance(database, vault.storage.postgres.PostgresDatabase)
    try:
        right = database._clock_difference
        for wrong in (3600, -3600):
            database._clock_difference += wrong
            async with asyncio.timeout(30):
                while abs(database._clock_difference - right) > 60:
                    await asyncio.sleep(0.02)
    finally:
        await database.close()


async def test_statements_of_a_transaction_see_the_key_store_too(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(
            "insert into keys.connection_keys (tenant, connection_id, salt, created_at) values (:t, :c, :s, :n)",
            {"t": "default", "c": "c1", "s": b"salt", "n": 1},
        )
    row = await database.fetch_one("select salt from keys.connection_keys where connection_id = :c", {"c": "c1"})
    assert row == {"salt": b"salt"}


def test_parameters_are_numbered_in_order_of_first_use() -> None:
    assert translate("select :b, :a, :b") == ("select $1, $2, $1", ("b", "a"))
    for foreign in ("select 'x'", "select :a::text", 'select "a"'):
        with pytest.raises(ValueError, match="shared SQL"):
            translate(foreign)


async def test_opening_a_vault_twice_in_one_process_leaves_the_locks_that_other_processes_respect(
    sqlite_store: Store,
) -> None:
    """Without them, the other process would believe that it is the last one and remove the write-ahead log."""
    first = await sqlite_store.open()
    second = await sqlite_store.open()
    path = sqlite_store.data / "vault.sqlite"
    command = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(*c.execute('select name from apis')); c.close()"
    )

    async def elsewhere() -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", command, str(path), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            return (await process.communicate())[0].decode().strip()

    try:
        async with first.transaction() as transaction:
            await add(transaction, "a")
        assert "an API" in await elsewhere()
        async with second.transaction() as transaction:
            await add(transaction, "b")
        assert (await elsewhere()).count("an API") == 2
    finally:
        await second.close()
        await first.close()


@asynccontextmanager
async def hold_write_lock(store: Store) -> AsyncGenerator[sqlite3.Connection]:
    """Another process holds the write lock."""
    with closing(sqlite3.connect(store.data / "vault.sqlite", isolation_level=None)) as other:
        other.execute("begin immediate")
        yield other


async def test_a_database_that_another_process_holds_is_busy_for_a_bounded_time(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.sqlite, "BUSY_WAIT", 0.2)
    database = await sqlite_store.open()
    try:
        async with hold_write_lock(sqlite_store):
            async with asyncio.timeout(30):
                attempts = [_attempt(database, f"{number}") for number in range(3)]
                outcomes = await asyncio.gather(*attempts, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StorageBusy}
            assert await names(database) == []  # reading still works
        await _attempt(database, "a")
        assert await names(database) == ["a"]
    finally:
        await database.close()


async def test_a_writer_waits_for_another_process_to_finish(sqlite_store: Store) -> None:
    database = await sqlite_store.open()
    try:
        async with hold_write_lock(sqlite_store) as other:
            waiting = asyncio.create_task(_attempt(database, "a"))
            assert await names(database) == []
            assert not waiting.done()
            other.execute("rollback")
            async with asyncio.timeout(30):
                await waiting
        assert await names(database) == ["a"]
    finally:
        await database.close()


async def test_a_full_disk_refuses_the_write_and_keeps_what_was_committed(sqlite_store: Store) -> None:
    database = await sqlite_store.open()
    assert isinstance(database, SqliteDatabase)
    try:
        await _attempt(database, "a")
        limited = await database._writing.execute_fetchall("pragma vault.page_count")
        await database._writing.execute(f"pragma vault.max_page_count = {next(iter(limited))[0] + 2}")
        large = ["x" * 100_000, "small"]
        outcomes = await asyncio.gather(*(_attempt(database, name) for name in large), return_exceptions=True)
        assert isinstance(outcomes[0], StorageUnavailable)
        await database._writing.execute("pragma vault.max_page_count = 100000")
        await _attempt(database, "b")
        assert set(await names(database)) - {"small"} == {"a", "b"}
        assert ("small" in await names(database)) == (outcomes[1] is None)
    finally:
        await database.close()


async def _attempt(database: Database, resource: str) -> None:
    async with database.transaction() as transaction:
        await add(transaction, resource)


async def test_a_lost_connection_is_temporary(postgres_store: Store, postgres: PostgresCluster) -> None:
    database = await postgres_store.open()
    try:
        with pytest.raises(TemporarilyUnavailable):
            async with database.transaction() as transaction:
                await add(transaction, "lost")
                row = await transaction.fetch_one("select pg_backend_pid() as pid")
                assert row is not None
                await postgres._execute(f"select pg_terminate_backend({integer(row, 'pid')})")
                await add(transaction, "after")
        await _attempt(database, "a")
        assert await names(database) == ["a"]
    finally:
        await database.close()


async def test_an_upgrade_that_fails_leaves_the_version_it_found(
    empty_sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    *earlier, last = schema_files()
    broken = replace(last, vault=(*last.vault, "create nonsense"))
    monkeypatch.setattr(vault.storage.schema_shape, "schema_files", lambda: (*earlier, broken))
    with pytest.raises(StorageUnavailable):
        await empty_sqlite_store.open()
    monkeypatch.undo()
    database = await empty_sqlite_store.open()
    assert await names(database) == []
    await database.close()


async def test_closing_waits_for_transactions_that_are_under_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault.storage.sqlite, "BUSY_WAIT", 600.0)  # closing doesn't give up
    monkeypatch.setattr(vault.storage.postgres, "WAIT", 600.0)
    database = await store.open()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "slow")
            entered.set()
            await leave.wait()

    running = asyncio.create_task(slow())
    await entered.wait()
    closing_now = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    leave.set()
    async with asyncio.timeout(30):
        await asyncio.gather(running, closing_now)
    reopened = await store.open()
    assert await names(reopened) == ["slow"]
    await reopened.close()


async def test_a_transaction_that_never_ends_is_given_up_at_closing(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.sqlite, "BUSY_WAIT", 0.05)
    database = await sqlite_store.open()
    entered = asyncio.Event()

    async def endless() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "endless")
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(endless())
    await entered.wait()
    waiting = asyncio.create_task(_attempt(database, "waiting"))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await database.close()
        with pytest.raises(StorageUnavailable):
            await waiting
        running.cancel()
        await asyncio.wait({running})
    reopened = await sqlite_store.open()
    assert await names(reopened) == []
    await reopened.close()


async def test_sessions_of_other_processes_are_counted_until_they_end(postgres_store: Store) -> None:
    """A restore must not run beside them."""
    database = await postgres_store.open()
    try:
        assert await database.count_others() == 0
        other = await postgres_store.open()
        assert await database.count_others() == 1
        await other.close()
        async with asyncio.timeout(30):
            while await database.count_others():
                await asyncio.sleep(0.02)
    finally:
        await database.close()


async def test_a_busy_pool_is_temporary(postgres_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault.storage.postgres, "POOL_SIZE", 1)
    database = await postgres_store.open()
    try:
        async with database.transaction():
            with monkeypatch.context() as short, pytest.raises(TemporarilyUnavailable):
                short.setattr(vault.storage.postgres, "WAIT", 0.5)
                await names(database)
        assert await names(database) == []
    finally:
        await database.close()


async def test_statements_that_the_database_does_not_understand_are_refused(database: Database) -> None:
    with pytest.raises(StorageUnavailable):
        await database.fetch("select nothing from nowhere")
    with pytest.raises(StorageUnavailable):
        await database.fetch_one("select nothing from nowhere")
    for statement in ("fetch", "fetch_one", "execute"):
        with pytest.raises(StorageUnavailable):
            async with database.transaction() as transaction:
                await getattr(transaction, statement)("select nothing from nowhere")
    with pytest.raises(StorageUnavailable):
        async with database.transaction() as transaction:
            await transaction.execute_many("insert into nowhere (a) values (:a)", [{"a": 1}])
    assert await names(database) == []


@pytest.mark.parametrize("value", ["\ud800", 2**64])
async def test_a_value_that_no_column_can_hold_is_refused_without_telling_it(
    database: Database, value: str | int
) -> None:
    column = "name" if isinstance(value, str) else "created_at"
    with pytest.raises(StorageUnavailable) as refused:
        async with database.transaction() as transaction:
            await transaction.execute(f"update apis set {column} = :value", {"value": value})
    assert str(value).encode(errors="replace") not in (str(refused.value) + refused.value.detail).encode()
    with pytest.raises(StorageUnavailable):
        await database.fetch(f"select * from apis where {column} = :value", {"value": value})
    assert await names(database) == []


async def test_a_read_on_the_loop_sees_what_is_committed_and_refuses_as_any_other(store: Store) -> None:
    database = await open_database(store.url, data=store.data)
    async with database.transaction() as transaction:
        await transaction.execute(
            "insert into seen (purpose, value_hash, expires_at) values (:purpose, :hash, :at)",
            {"purpose": "look", "hash": b"1", "at": 1},
        )
        mine = await transaction.look_up("select expires_at from seen where purpose = :purpose", {"purpose": "look"})
        assert [integer(row, "expires_at") for row in mine] == [1]
    found = await database.look_up("select expires_at from seen where purpose = :purpose", {"purpose": "look"})
    assert [integer(row, "expires_at") for row in found] == [1]
    assert list(await database.look_up("select expires_at from seen where purpose = :purpose", {"purpose": "no"})) == []
    with pytest.raises(StorageUnavailable):
        await database.look_up("select nothing from seen where purpose = :purpose", {"purpose": "look"})
    await database.close()
    with pytest.raises(VaultError):
        await database.look_up("select expires_at from seen where purpose = :purpose", {"purpose": "look"})


async def test_the_mark_stays_while_nobody_commits_and_moves_with_every_commit(store: Store) -> None:
    mine, other = await store.open(), await store.open()
    try:
        first = mine.mark()
        assert (first is None) is not store.is_sqlite
        await mine.look_up("select resource from apis")
        assert mine.mark() == first
        seen = [first]
        for database, resource in ((mine, "a"), (other, "b")):
            async with database.transaction() as transaction:
                await add(transaction, resource)
            seen.append(mine.mark())
        async with mine.transaction() as transaction:
            await transaction.execute(
                "insert into keys.connection_keys (tenant, connection_id, salt, created_at) values (:t, :t, :s, :now)",
                {"t": "a", "s": b"salt", "now": 5},
            )
        seen.append(mine.mark())
        if store.is_sqlite:
            assert all(one not in seen[:place] for place, one in enumerate(seen))
            assert mine.mark() == seen[-1]
        else:
            assert seen == [None] * 4
    finally:
        await mine.close()
        await other.close()
    assert mine.mark() is None

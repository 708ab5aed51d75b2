"""PostgreSQL connections between two uses are kept outside the pool.

Only while nobody waits and the server is available.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextlib import AsyncExitStack
from typing import Any

import pytest

import vault.storage.postgres
from tests.conftest import PostgresCluster, Store
from vault.storage.database import Database, integer
from vault.storage.postgres import PostgresDatabase, _is_usable

BOUND = 10.0  # seconds


async def server_process(database: Database) -> int:
    row = await database.fetch_one("select pg_backend_pid() as pid")
    assert row is not None
    return integer(row, "pid")


async def test_who_waits_gets_a_connection_before_it_rests(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.postgres, "POOL_SIZE", 1)
    database = await postgres_store.open()
    try:
        async with database.transaction() as transaction:
            await transaction.fetch("select 1 as one")
            waiting = [asyncio.create_task(server_process(database)) for _ in range(3)]
            await asyncio.sleep(0)
        async with asyncio.timeout(BOUND):
            assert len(set(await asyncio.gather(*waiting))) == 1
        assert isinstance(database, PostgresDatabase)
        assert len(database._resting) == 1, "nobody waits anymore"
    finally:
        await database.close()


async def test_a_connection_that_ended_while_it_rested_is_replaced(
    postgres_store: Store, postgres: PostgresCluster
) -> None:
    database = await postgres_store.open()
    try:
        assert isinstance(database, PostgresDatabase)
        before = await server_process(database)
        (resting,) = database._resting
        await postgres._execute(f"select pg_terminate_backend({before})")
        async with asyncio.timeout(BOUND):
            while _is_usable(resting):
                await asyncio.sleep(0.01)
        assert await server_process(database) != before
    finally:
        await database.close()


async def test_connections_that_nobody_needs_go_back_to_the_pool(postgres_store: Store) -> None:
    database = await postgres_store.open()
    try:
        assert isinstance(database, PostgresDatabase)
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(database.transaction())
        assert len(database._resting) == 3
        last = await server_process(database)
        await database._give_back()
        assert database._resting == []
        assert await server_process(database) == last
    finally:
        await database.close()


@types.coroutine
def _break_off(work: Coroutine[Any, Any, object]) -> Generator[object, object]:
    """Raise at the first wait of this work, which the driver can't notice; then let it end."""
    work.send(None)._asyncio_future_blocking = False
    waited = work.throw(RuntimeError("broke off"))
    while True:
        waited = work.send((yield waited))


async def test_a_connection_whose_statement_broke_off_is_not_used_again(postgres_store: Store) -> None:
    database = await postgres_store.open()
    try:
        await database.fetch_one("select 1 as n")  # a connection rests
        with pytest.raises(RuntimeError, match="broke off"):
            await _break_off(database.fetch("select 1 as n from pg_sleep(1)"))
        assert await database.fetch_one("select 2 as n") == {"n": 2}
    finally:
        await database.close()


async def test_a_transaction_that_fails_gives_its_connection_back_without_an_open_transaction(
    postgres_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The driver would report one that is still open."""
    database = await postgres_store.open()
    try:
        with pytest.raises(KeyError):
            async with database.transaction() as transaction:
                await transaction.fetch("select 1 as one")
                raise KeyError("no")
        assert await database.fetch_one("select 2 as n") == {"n": 2}
        assert [one.getMessage() for one in caplog.records] == []
    finally:
        await database.close()


async def test_the_clock_of_a_server_that_was_out_of_reach_is_read_again(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vault.storage.postgres, "CALIBRATE_EVERY", 0.05)
    monkeypatch.setattr(vault.storage.postgres, "POOL_SIZE", 1)
    database = await postgres_store.open()
    assert isinstance(database, PostgresDatabase)
    try:
        right = database._clock_difference
        async with asyncio.timeout(BOUND):
            with monkeypatch.context() as short:
                short.setattr(vault.storage.postgres, "WAIT", 0.05)
                async with database.transaction():  # on the only connection
                    while "the database's clock couldn't be read" not in caplog.messages:
                        await asyncio.sleep(0.01)
            database._clock_difference += 3600
            while abs(database._clock_difference - right) > 60:
                await asyncio.sleep(0.01)
    finally:
        await database.close()


async def test_a_transaction_that_never_ends_is_given_up_when_the_vault_closes(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, other = await postgres_store.open(), await postgres_store.open()
    insert = "insert into apis (tenant, resource, name, created_at) values (:a, :a, :a, 1)"
    entered = asyncio.Event()

    async def endless() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(insert, {"a": "a"})
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(endless())
    try:
        async with asyncio.timeout(BOUND):
            await entered.wait()
            with monkeypatch.context() as short:
                short.setattr(vault.storage.postgres, "WAIT", 0.05)
                await database.close()
            async with other.transaction() as transaction:  # the server has rolled back, so that the key is free
                assert await transaction.execute(insert, {"a": "a"}) == 1
    finally:
        running.cancel()
        await asyncio.wait({running})
        await other.close()

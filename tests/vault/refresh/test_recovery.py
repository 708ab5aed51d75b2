"""Refreshes that nobody finished are resumed without a caller, as far as the provider's class allows."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from server.app import open_deployment
from server.deployment import Deployment
from server.lifecycle import maintenance
from server.settings import load_settings
from tests.conftest import Store
from tests.support.doubles.upstream_double import LOST_ANSWER, LOST_REQUEST
from tests.support.rooms.vault_room import Room, open_room, second_process
from vault.records import Connection, ConnectionState
from vault.refresh import leases
from vault.refresh.journal_recovery import adopt_all
from vault.refresh.recovery import take_up
from vault.refresh.refresh_request import open_refresh_token
from vault.refresh.rules import PAUSE
from vault.refusals import TemporarilyUnavailable
from vault.storage.database import Database
from vault.upstream import RotationMode


@asynccontextmanager
async def interrupted_refresh(room: Room, connection: Connection, *, sends: bool) -> AsyncGenerator[None]:
    """A process that has claimed a refresh, and perhaps spent the token; it dies at the end of the block."""
    async with second_process(room) as dying:
        await dying.database.hold_liveness(dying.vault.owner)
        facts = await dying.row(connection)
        async with dying.database.transaction() as transaction:
            assert await leases.claim(transaction, facts, owner=dying.vault.owner, now=room.now)
        if sends:
            await room.slack.refresh(open_refresh_token(facts.key(dying.vault.keys), facts))
        yield


@pytest.mark.parametrize(
    ("rotation", "sent", "survives"),
    [
        (RotationMode.GRACE, True, True),
        (RotationMode.STRICT, True, False),
        (RotationMode.REVOKES, True, False),
        (RotationMode.NONE, True, True),
        (RotationMode.STRICT, False, True),
        (RotationMode.REVOKES, False, True),
    ],
)
async def test_what_a_dead_process_left_is_settled_without_a_caller(
    store: Store, rotation: RotationMode, *, sent: bool, survives: bool
) -> None:
    async with open_room(store, rotation=rotation) as room:
        room.slack.has_grace = rotation is RotationMode.GRACE
        connection = await room.connect()
        room.pass_time(3600)
        async with interrupted_refresh(room, connection, sends=sent):
            pass
        assert await take_up(room.vault) == 1
        facts = await room.row(connection)
        assert facts.state is (ConnectionState.ACTIVE if survives else ConnectionState.NEEDS_REAUTH)
        assert facts.generation == (2 if survives else 1)
        assert len(room.slack.sends) == 1 + sent
        assert await take_up(room.vault) == 0


@pytest.mark.parametrize("uptime", [60, 7 * 86400])
async def test_all_that_a_process_left_is_taken_up_however_long_it_had_been_running(store: Store, uptime: int) -> None:
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        room.slack.has_grace = True
        held = [await room.connect(account=name) for name in ("one", "two", "three")]
        room.pass_time(3600)
        async with second_process(room) as dying:
            await dying.database.hold_liveness(dying.vault.owner)
            for connection in held:
                facts = await dying.row(connection)
                async with dying.database.transaction() as transaction:
                    assert await leases.claim(transaction, facts, owner=dying.vault.owner, now=room.now)
        for path in (store.data / "owners").iterdir():
            started = path.stat().st_mtime - uptime
            os.utime(path, (started, started))
        assert await room.exchange(account="one")
        assert await take_up(room.vault) == 2
        assert [(await room.row(connection)).generation for connection in held] == [2, 2, 2]


class CountingDatabase:
    """A database that counts its queries."""

    def __init__(self, real: Database) -> None:
        self._real = real
        self.asked = 0

    def __getattr__(self, name: str) -> object:
        self.asked += name in {"fetch", "fetch_one", "look_up", "transaction", "is_dead"}
        return getattr(self._real, name)


async def test_a_round_asks_as_little_of_many_unfinished_refreshes_as_of_one(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.REVOKES) as room:
        held = [await room.connect(account=f"account-{number}") for number in range(12)]
        room.pass_time(3000)
        async with second_process(room) as dying:
            await dying.database.hold_liveness(dying.vault.owner)
            asked: list[int] = []
            for connection in held:
                async with dying.database.transaction() as transaction:
                    facts = await dying.row(connection)
                    assert await leases.claim(transaction, facts, owner=dying.vault.owner, now=room.now)
                if connection in (held[0], held[-1]):
                    counted = CountingDatabase(room.database)
                    vault = replace(room.vault, database=counted)  # pyright: ignore[reportArgumentType] -- forwards
                    assert await take_up(vault) == 0  # its process is alive
                    asked.append(counted.asked)
        assert asked[1] <= asked[0] + len(held) - 1  # for each lease, one file shows whether its holder is gone
        room.pass_time(90)
        counted = CountingDatabase(room.database)
        vault = replace(room.vault, database=counted)  # pyright: ignore[reportArgumentType] -- as above
        assert await take_up(vault) == 0  # the old access tokens are used up first
        assert counted.asked <= 8


async def test_a_start_reads_only_the_rows_that_the_journal_is_ahead_of(store: Store) -> None:
    async with open_room(store) as room:
        held = [await room.connect(account=name) for name in ("one", "two", "three")]
        room.pass_time(3600)
        for connection in held:
            await room.exchange(account=connection.id)
        counted = CountingDatabase(room.database)
        assert await adopt_all(replace(room.vault, database=counted)) == 0
        assert counted.asked == 1  # one query for the generations of all


async def test_nothing_is_sent_while_the_process_that_sent_first_lives(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        connection = await room.connect()
        room.pass_time(3600)
        async with interrupted_refresh(room, connection, sends=True):
            assert await take_up(room.vault) == 0
            assert len(room.slack.sends) == 1


async def test_where_re_use_revokes_the_old_access_token_is_used_up_first(sqlite_store: Store) -> None:
    async with open_room(sqlite_store, rotation=RotationMode.REVOKES) as room:
        connection = await room.connect()
        async with interrupted_refresh(room, connection, sends=True):
            pass
        assert await take_up(room.vault) == 0
        assert await room.exchange()
        room.pass_time(3600)
        assert await take_up(room.vault) == 1
        assert (await room.row(connection)).state is ConnectionState.NEEDS_REAUTH


async def test_a_silence_is_followed_by_one_attempt_at_once_and_then_by_a_pause(sqlite_store: Store) -> None:
    async with open_room(sqlite_store, rotation=RotationMode.STRICT) as room:
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.faults += [LOST_REQUEST, LOST_REQUEST]
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        assert await take_up(room.vault) == 1
        assert await take_up(room.vault) == 0
        assert len(room.slack.sends) == 2
        room.pass_time(PAUSE[0])
        assert await room.exchange()
        assert (await room.row(connection)).generation == 2


async def test_a_second_attempt_that_died_with_its_process_is_taken_up_as_well(sqlite_store: Store) -> None:
    async with open_room(sqlite_store, rotation=RotationMode.STRICT) as room:
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.faults.append(LOST_REQUEST)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        async with interrupted_refresh(room, connection, sends=False):
            pass
        assert await take_up(room.vault) == 1
        assert (await room.row(connection)).generation == 2


async def test_a_lost_answer_comes_again_within_the_grace(sqlite_store: Store) -> None:
    async with open_room(sqlite_store, rotation=RotationMode.GRACE) as room:
        room.slack.has_grace = True
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.faults.append(LOST_ANSWER)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        assert await take_up(room.vault) == 1
        assert (await room.row(connection)).generation == 2
        assert (await room.row(connection)).sent_at is None


@asynccontextmanager
async def left_by_a_dead_process(store: Store) -> AsyncGenerator[tuple[Room, Deployment, Connection]]:
    """A vault that starts after a process died while it held the answer to its refresh."""
    settings = load_settings(overrides={"database": {"url": store.url}})
    async with (
        open_room(store, rotation=RotationMode.STRICT) as room,
        open_deployment(settings, data=store.data) as opened,
    ):
        connection = await room.connect()
        room.pass_time(3600)
        async with interrupted_refresh(room, connection, sends=True):
            pass
        yield room, replace(opened, vault=room.vault), connection


async def test_a_start_settles_what_a_dead_process_left_before_it_loads_what_it_needs_to_listen(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "HEAD_START", 30.0)
    async with left_by_a_dead_process(store) as (room, deployment, connection), maintenance.upkeep(deployment):
        assert (await room.row(connection)).state is ConnectionState.NEEDS_REAUTH


def test_what_opens_a_vault_loads_no_web_server() -> None:
    heavy = (
        "mcp",
        "mcp_types",
        "uvicorn",
        "jinja2",
        "starlette.applications",
        "server.mcp.transports",
        "server.portal",
        "server.lifecycle.periodic_steps",
        "server.oauth.backchannel.notifications",
    )
    opening = "server.app, server.oauth.backchannel.notification_step, server.lifecycle.maintenance"
    look = f"import sys, {opening}; print([name for name in {heavy} if name in sys.modules])"
    twin = "import server.stdio, server.mcp.transports; print('mcp' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", f"{look}; {twin}"], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\nTrue\n"


async def test_a_provider_that_hangs_keeps_no_start_from_listening(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "HEAD_START", 0.05)
    async with left_by_a_dead_process(store) as (room, deployment, connection):
        room.slack.gate = asyncio.Event()
        async with maintenance.upkeep(deployment):
            assert (await room.row(connection)).state is ConnectionState.ACTIVE
            room.slack.gate.set()
            async with asyncio.timeout(30):
                while (await room.row(connection)).state is ConnectionState.ACTIVE:
                    await asyncio.sleep(0.01)

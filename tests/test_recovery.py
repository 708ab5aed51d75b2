"""Refreshes that nobody finished are taken up without a caller, as the provider's class allows it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.conftest import Store
from tests.exchanging import Room, open_room, second_process
from tests.upstream_double import LOST_ANSWER, LOST_REQUEST
from vault import leases
from vault.records import Connection, ConnectionState
from vault.recovery import take_up
from vault.refusals import TemporarilyUnavailable
from vault.spending import open_refresh_token
from vault.upstream import Rotation


@asynccontextmanager
async def refreshing(room: Room, connection: Connection, *, sends: bool) -> AsyncGenerator[None]:
    """A process that has claimed a refresh, and perhaps spent the token; it dies with the block."""
    async with second_process(room) as dying:
        await dying.database.hold_liveness(dying.vault.owner)
        facts = await dying.row(connection)
        async with dying.database.transaction() as transaction:
            assert await leases.claim(transaction, facts, owner=dying.vault.owner, now=room.now)
        if sends:
            await room.slack.refresh(open_refresh_token(await facts.key(dying.vault.keys), facts))
        yield


@pytest.mark.parametrize(
    ("rotation", "sent", "survives"),
    [
        (Rotation.GRACE, True, True),
        (Rotation.STRICT, True, False),
        (Rotation.REVOKES, True, False),
        (Rotation.NONE, True, True),
        (Rotation.STRICT, False, True),
        (Rotation.REVOKES, False, True),
    ],
)
async def test_what_a_dead_process_left_is_settled_without_a_caller(
    store: Store, rotation: Rotation, *, sent: bool, survives: bool
) -> None:
    async with open_room(store, rotation=rotation) as room:
        room.slack.has_grace = rotation is Rotation.GRACE
        connection = await room.connect()
        room.pass_time(3600)
        async with refreshing(room, connection, sends=sent):
            pass
        assert await take_up(room.vault) == 1
        facts = await room.row(connection)
        assert facts.state is (ConnectionState.ACTIVE if survives else ConnectionState.NEEDS_REAUTH)
        assert facts.generation == (2 if survives else 1)
        assert len(room.slack.sends) == 1 + sent
        assert await take_up(room.vault) == 0


async def test_nothing_is_sent_while_the_process_that_sent_first_lives(store: Store) -> None:
    async with open_room(store, rotation=Rotation.GRACE) as room:
        connection = await room.connect()
        room.pass_time(3600)
        async with refreshing(room, connection, sends=True):
            assert await take_up(room.vault) == 0
            assert len(room.slack.sends) == 1


async def test_where_re_use_revokes_the_old_access_token_is_used_up_first(sqlite_store: Store) -> None:
    async with open_room(sqlite_store, rotation=Rotation.REVOKES) as room:
        connection = await room.connect()
        async with refreshing(room, connection, sends=True):
            pass
        assert await take_up(room.vault) == 0
        assert await room.exchange()
        room.pass_time(3600)
        assert await take_up(room.vault) == 1
        assert (await room.row(connection)).state is ConnectionState.NEEDS_REAUTH


async def test_a_silence_is_followed_by_one_attempt_and_then_left_to_callers(sqlite_store: Store) -> None:
    async with open_room(sqlite_store, rotation=Rotation.STRICT) as room:
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.faults += [LOST_REQUEST, LOST_REQUEST]
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        assert await take_up(room.vault) == 1
        assert await take_up(room.vault) == 0
        assert len(room.slack.sends) == 2
        assert await room.exchange()
        assert (await room.row(connection)).generation == 2


async def test_a_lost_answer_comes_again_within_the_grace(sqlite_store: Store) -> None:
    async with open_room(sqlite_store, rotation=Rotation.GRACE) as room:
        room.slack.has_grace = True
        connection = await room.connect()
        room.pass_time(3600)
        room.slack.faults.append(LOST_ANSWER)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        assert await take_up(room.vault) == 1
        assert (await room.row(connection)).generation == 2
        assert (await room.row(connection)).sent_at is None

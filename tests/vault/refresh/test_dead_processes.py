"""Whose lease may be taken over, and when."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.conftest import Store
from tests.support.doubles.upstream_double import LOST_ANSWER
from tests.support.rooms.vault_room import Room, connection_status, open_room, second_process
from vault.records import Connection
from vault.refresh import leases, takeover
from vault.refresh.rotation import refresh
from vault.refusals import ConnectionRequired, TemporarilyUnavailable
from vault.storage import postgres_owners
from vault.storage.liveness import OwnerLocks
from vault.upstream import RotationMode


async def left_behind(room: Room, owner: str) -> Connection:
    """A connection that `owner` claimed at its expiry without ever releasing it."""
    connection = await room.connect()
    room.pass_time(3600)
    facts = await room.row(connection)
    async with room.database.transaction() as transaction:
        assert await leases.claim(transaction, facts, owner=owner, now=room.now)
    return connection


@pytest.mark.parametrize("rotation", list(RotationMode))
async def test_the_lease_of_a_dead_process_is_taken_over_at_once(sqlite_store: Store, rotation: RotationMode) -> None:
    async with open_room(sqlite_store, rotation=rotation) as room:
        died = OwnerLocks(sqlite_store.data)
        died.hold("died")
        died.close()
        connection = await left_behind(room, "died")
        assert room.slack.issued[(await room.exchange()).value]
        assert len(room.slack.sends) == 1
        assert await connection_status(room, connection) == "active"


@pytest.mark.long
async def test_a_process_that_other_hosts_cannot_see_is_dead_when_its_lease_is_over(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_owners, "SETTLE", 0.0)
    async with open_room(postgres_store) as room:
        connection = await left_behind(room, "of another host")
        with pytest.raises(TemporarilyUnavailable):
            await refresh(room.vault, connection.id, if_generation=1)
        assert room.slack.sends == []
        room.pass_time(61)
        assert await room.exchange()
        assert len(room.slack.sends) == 1


async def test_free_locks_of_another_hosts_process_end_no_claim_early_and_settle_no_send(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken connection to the database frees them, too, while the process may still get its answer."""
    monkeypatch.setattr(postgres_owners, "SETTLE", 0.0)
    async with open_room(postgres_store) as room:
        connection = await left_behind(room, "of another host")
        assert await room.database.is_dead("of another host")
        assert not await takeover.is_free(room.vault, await room.row(connection), now=room.now)
        await takeover.settle_gone(room.vault)
        assert await leases.unsettled_owners(room.database) == ("of another host",)
        room.pass_time(61)
        assert await takeover.is_free(room.vault, await room.row(connection), now=room.now)


@pytest.mark.parametrize("rotation", [RotationMode.STRICT, RotationMode.REVOKES])
async def test_a_silent_process_that_lives_may_still_bring_the_answer(store: Store, rotation: RotationMode) -> None:
    async with open_room(store, rotation=rotation) as room, second_process(room) as other:
        await other.database.hold_liveness("paused")
        connection = await left_behind(room, "paused")
        room.pass_time(61)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        room.pass_time(60)
        for _ in range(2):
            with pytest.raises(ConnectionRequired) as refused:
                await room.exchange()
            assert refused.value.reason == "ambiguous"
        assert room.slack.sends == []
        assert await connection_status(room, connection) == "ambiguous"


@pytest.mark.parametrize("minutes", [5, -5])
@pytest.mark.parametrize("rotation", [RotationMode.GRACE, RotationMode.STRICT, RotationMode.REVOKES])
async def test_a_process_whose_clock_is_off_waits_for_the_answer_of_another(
    sqlite_store: Store, rotation: RotationMode, minutes: int
) -> None:
    """On SQLite, each process reads its own clock."""
    async with open_room(sqlite_store, rotation=rotation) as room, second_process(room) as other:
        await room.connect()
        room.pass_time(4000)
        other.database.clock_offset = room.database.clock_offset + 60 * minutes
        await room.vault.database.hold_liveness(room.vault.owner)
        async with room.held_refresh() as slow:
            theirs = asyncio.create_task(other.exchange())
            if minutes > 0:  # by its clock, the lease has expired
                with pytest.raises(TemporarilyUnavailable):
                    await theirs
            room.slack.gate.set()
            assert room.slack.issued[(await slow).value]
            assert room.slack.issued[(await (theirs if minutes < 0 else other.exchange())).value]
        assert len({send.refresh_token for send in room.slack.sends}) == len(room.slack.sends)
        assert room.slack.families[0].is_alive


@pytest.mark.parametrize(("behind", "sends"), [(0, 2), (300, 1)])
async def test_a_clock_that_is_behind_prolongs_no_grace(sqlite_store: Store, behind: int, sends: int) -> None:
    async with open_room(sqlite_store, rotation=RotationMode.GRACE) as room, second_process(room) as other:
        room.slack.has_grace = True
        connection = await room.connect()
        room.pass_time(3600)
        other.database.clock_offset = room.database.clock_offset - behind
        room.slack.faults.append(LOST_ANSWER)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange()
        with suppress(TemporarilyUnavailable):
            await refresh(other.vault, connection.id, if_generation=1)
        assert len(room.slack.sends) == sends


async def test_a_later_answer_replaces_an_earlier_one_that_came_in_under_its_lease(store: Store) -> None:
    """With grace that issues siblings, the later requested of two answers to one token is the live one."""
    async with open_room(store, rotation=RotationMode.GRACE) as room:
        connection = await room.connect()
        room.pass_time(3600)
        async with room.held_refresh() as slow:
            async with room.database.transaction() as transaction:  # another process's earlier answer arrives first
                await transaction.execute(
                    "update connections set generation = generation + 1, refresh_sealed = access_sealed where id = :id",
                    {"id": connection.id},
                )
            room.slack.gate.set()
            assert room.slack.issued[(await slow).value]
        assert (await room.row(connection)).generation == 3
        room.pass_time(3600)
        assert room.slack.issued[(await room.exchange()).value]


async def test_a_refusal_ends_nothing_while_another_process_may_hold_a_newer_token(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.GRACE) as room, second_process(room) as other:
        await other.database.hold_liveness("paused")
        connection = await left_behind(room, "paused")
        async with room.database.transaction() as transaction:
            await transaction.execute("update connections set lease_until = :now", {"now": room.now})
        room.slack.families[0].is_alive = False
        with pytest.raises(TemporarilyUnavailable) as refused:
            await room.exchange()
        assert refused.value.retry_after == 5
        assert len(room.slack.sends) == 1
        assert (await room.row(connection)).state.value == "active"

"""Concurrent callers share one refresh; and when a refresh happens."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.doubles.upstream_double import UNREACHABLE
from tests.support.rooms.vault_room import READ, WAIT, Room, herd, open_room, second_process
from vault.refresh import leases
from vault.refresh.accounts import AccountQuery, read_accounts
from vault.refresh.concurrency import RefreshTasks, UpstreamTokenRequest
from vault.refresh.rotation import keep_fresh, refresh
from vault.upstream import RotationMode

# One refresh for everyone


@pytest.mark.parametrize("rotation", list(RotationMode))
async def test_fifty_exchanges_at_expiry_cost_one_refresh(store: Store, rotation: RotationMode) -> None:
    async with open_room(store, rotation=rotation) as room:
        await room.connect()
        room.pass_time(3600)
        answers = await herd(room, each=50)
        assert len({answer.value for answer in answers}) == 1
        assert [send.outcome for send in room.slack.sends] == ["Rotation"]
        assert len(await room.events("token.exchanged")) == 50


async def test_two_processes_at_expiry_cost_one_refresh(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    async with second_process(room) as other:
        answers = await herd(room, other, each=20)
    assert len({answer.value for answer in answers}) == 1
    assert [send.outcome for send in room.slack.sends] == ["Rotation"]


async def test_a_process_that_watches_takes_the_answer_of_the_one_that_sends(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    room.slack.gate = asyncio.Event()
    async with second_process(room) as other, asyncio.timeout(WAIT):
        sending = asyncio.create_task(room.exchange())
        await room.slack.arrived.wait()
        watching = asyncio.create_task(other.exchange())
        for _ in range(3):
            await leases.read(other.database, "nothing")
        assert not watching.done()
        room.slack.gate.set()
        assert (await sending).value == (await watching).value
    assert len(room.slack.sends) == 1


async def test_different_scope_sets_of_one_account_are_sent_one_after_the_other(room: Room) -> None:
    connection = await room.connect("google")
    scopes = (READ, "calendar.events", "drive")
    async with asyncio.timeout(WAIT):
        answers = await asyncio.gather(*(room.exchange("google", scope) for scope in scopes for _ in range(5)))
    assert len({answer.value for answer in answers}) == 3
    assert len(room.google.sends) == 3
    assert (await room.row(connection)).generation == 4


async def test_callers_of_one_token_share_one_task_and_one_account_takes_turns() -> None:
    tasks, order = RefreshTasks(), list[str]()

    async def fly(name: str) -> int:
        async def work() -> int:
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")
            return 1

        return await tasks.take_turn("connection", work)

    narrow = UpstreamTokenRequest("connection", 1, scopes=frozenset({READ}))
    one = tasks.join(UpstreamTokenRequest("connection", 1), lambda: fly("full"))
    assert tasks.join(UpstreamTokenRequest("connection", 1), lambda: fly("full")) is one
    other = tasks.join(narrow, lambda: fly("narrow"))
    assert other is not one
    async with asyncio.timeout(WAIT):
        await asyncio.gather(one, other)
    assert order == ["full begins", "full ends", "narrow begins", "narrow ends"]


# When a refresh happens


async def test_nobody_refreshes_before_the_last_minute(room: Room) -> None:
    await room.connect()
    room.pass_time(3600 - 75)
    await room.exchange()
    await room.settle()
    assert room.slack.sends == []


async def test_in_the_last_minute_callers_keep_the_good_token_while_one_refresh_runs(room: Room) -> None:
    await room.connect()
    before = await room.exchange()
    room.pass_time(3600 - 45)
    room.slack.gate = asyncio.Event()
    async with asyncio.timeout(WAIT):
        assert {token.value for token in await herd(room, each=10)} == {before.value}
        await room.slack.arrived.wait()
        room.slack.gate.set()
        await room.settle()
    assert len(room.slack.sends) == 1
    assert (await room.exchange()).value != before.value


async def test_a_token_in_use_is_refreshed_ahead_although_nobody_calls_in_its_last_moments(room: Room) -> None:
    room.slack.lifetime = 20  # a token is due for refresh after 18 s
    await room.connect()
    room.pass_time(17)
    before = await room.exchange()
    assert len(room.vault.tasks.timers) == 1
    async with asyncio.timeout(WAIT):
        await room.slack.arrived.wait()
    await room.settle()
    assert len(room.slack.sends) == 1
    assert (await room.exchange()).value != before.value
    assert room.vault.tasks.waits == 0


async def test_a_token_that_nobody_uses_is_not_refreshed_ahead(room: Room) -> None:
    await room.connect()
    assert len(room.vault.tasks.timers) == 0
    await room.exchange()
    await room.exchange()
    assert len(room.vault.tasks.timers) == 1


async def test_tokens_that_were_issued_together_are_refreshed_over_a_quarter_of_their_last_minute(room: Room) -> None:
    await room.connect()
    wanted = AccountQuery(room.request().principal, "slack", "")
    (held,) = await read_accounts(room.database, wanted)
    assert held.full is not None
    for number in range(300):
        request = UpstreamTokenRequest(f"connection {number}", held.full.generation)
        keep_fresh(room.vault, replace(held, id=request.connection_id), held.full, request=request, now=room.now)
    now, made = asyncio.get_running_loop().time(), room.vault.tasks.timers._made  # pyright: ignore[reportPrivateUsage]
    left = sorted(timer.when() - now for _, timer in made.values())
    first = 3600 - 60
    assert first - 2 < left[0] < first + 3
    assert first + 12 < left[-1] < first + 15
    assert first + 4 < left[150] < first + 11


async def test_a_narrow_token_is_refreshed_ahead_in_the_last_tenth_of_its_own_life(room: Room) -> None:
    await room.connect("google")
    room.google.lifetime = 50
    narrow = await room.exchange("google", READ)
    room.pass_time(40)
    assert (await room.exchange("google", READ)).value == narrow.value
    await room.settle()
    assert len(room.google.sends) == 1
    room.pass_time(6)
    assert (await room.exchange("google", READ)).value == narrow.value
    await room.settle()
    assert len(room.google.sends) == 2


@pytest.mark.parametrize("kills", [True, False])
async def test_a_full_token_replaces_narrow_ones_only_where_it_ends_them(room: Room, *, kills: bool) -> None:
    policy = replace(room.vault.policies["google"], refresh_ends_access_token=kills)
    room.vault = replace(room.vault, policies={**room.vault.policies, "google": policy})
    connection = await room.connect("google")
    narrow = await room.exchange("google", READ)
    facts = await room.row(connection)
    await refresh(room.vault, connection.id, if_generation=facts.access_generation)
    assert len(room.google.sends) == 2
    assert ((await room.exchange("google", READ)).value == narrow.value) is not kills
    assert len(room.google.sends) == 2 + kills


async def test_where_a_refresh_kills_the_old_token_it_serves_to_its_end(room: Room) -> None:
    killing = replace(room.vault.policies["slack"], refresh_ends_access_token=True)
    twin, room.vault = room.vault, replace(room.vault, policies={**room.vault.policies, "slack": killing})
    await room.connect()
    before = await room.exchange()
    assert len(room.vault.tasks.timers) == 0
    room.pass_time(3600 - 45)
    assert (await room.exchange()).value == before.value
    await room.settle()
    assert room.slack.sends == []
    room.vault = twin
    assert (await room.exchange()).value == before.value
    await room.settle()
    assert len(room.slack.sends) == 1


async def test_a_failed_refresh_ahead_disturbs_nobody(room: Room) -> None:
    await room.connect()
    before = await room.exchange()
    room.pass_time(3600 - 45)
    room.slack.faults.append(UNREACHABLE)
    assert (await room.exchange()).value == before.value
    await room.settle()
    assert (await room.exchange()).value == before.value


async def test_a_lease_lasts_for_a_minute(room: Room) -> None:
    connection, now = await room.connect(), room.now
    for passed, is_free in ((0, True), (59, False), (60, True)):
        facts = await leases.read(room.database, connection.id)
        assert facts is not None
        async with room.database.transaction() as transaction:
            claimed = await leases.claim(transaction, facts, owner=f"process {passed}", now=now + passed)
        assert (claimed is not None) is is_free


@pytest.mark.parametrize(("left", "generation"), [(1, 1), (0, 2)])
async def test_a_newer_token_that_has_expired_by_now_is_refreshed(
    sqlite_store: Store, left: int, generation: int
) -> None:
    """An answer that was adopted late may have expired."""
    async with open_room(sqlite_store) as room:
        connection = await room.connect()
        ends = (await room.row(connection)).access_expires_at
        assert ends is not None
        with stopped_clock(room.database, at=ends - left):
            assert await refresh(room.vault, connection.id, if_generation=0) == generation

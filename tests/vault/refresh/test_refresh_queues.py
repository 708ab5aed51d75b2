"""Places for refreshes at one provider: excess work waits, callers find room, providers don't share places."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import WAIT, open_room, second_process
from vault.refresh.accounts import HeldToken, skew_of
from vault.refresh.concurrency import RefreshQueues, Watches
from vault.refusals import TemporarilyUnavailable


async def test_what_nobody_waits_for_takes_its_turn_and_is_done_once() -> None:
    queues, started, over = RefreshQueues(places=4, ahead=2), list[int](), asyncio.Event()

    def start(number: int) -> asyncio.Task[object]:
        started.append(number)
        return asyncio.create_task(over.wait())

    for number in (1, 2, 3, 3):
        queues.queue("slack", number, lambda number=number: start(number))
    queues.queue("google", 9, lambda: start(9))
    assert started == [1, 2, 9]
    over.set()
    async with asyncio.timeout(WAIT):
        while len(started) < 4:
            await asyncio.sleep(0)
    assert started == [1, 2, 9, 3]


async def test_a_place_is_had_at_once_or_waited_for_and_every_provider_has_its_own() -> None:
    queues = RefreshQueues(places=1, ahead=1)
    assert await queues.enter("slack", patience=0)
    assert await queues.enter("google", patience=0)
    with pytest.raises(TimeoutError):
        await queues.enter("slack", patience=0.01)
    waiting = asyncio.create_task(queues.enter("slack", patience=WAIT))
    await asyncio.sleep(0)
    queues.leave("slack")
    assert await waiting is False  # rows that were read before may be outdated


async def test_96_refreshes_run_at_once_24_of_them_ahead_of_time() -> None:
    queues, started, over = RefreshQueues(), list[int](), asyncio.Event()

    def start(number: int) -> asyncio.Task[object]:
        started.append(number)
        return asyncio.create_task(over.wait())

    for number in range(30):
        queues.queue("slack", number, lambda number=number: start(number))
    assert len(started) == 24
    assert all([await queues.enter("slack", patience=0) for _ in range(96)])
    with pytest.raises(TimeoutError):
        await queues.enter("slack", patience=0.01)
    over.set()
    await asyncio.sleep(0)


def test_of_10000_things_that_are_watched_the_oldest_makes_room() -> None:
    watches = Watches()
    for number in range(10_000):
        watches.seconds(str(number), "same", now=1)
    assert watches.seconds("0", "same", now=5) == 4
    watches.seconds("10000", "same", now=1)
    assert watches.seconds("0", "same", now=6) == 0


def test_a_token_is_refreshed_a_minute_before_its_end_and_counts_as_expired_5_seconds_before() -> None:
    assert [skew_of(0, life) for life in (3600, 600, 599, 50)] == [60, 60, 59, 5]
    assert [HeldToken(b"", 1, 1000, skew).good_until for skew in (60, 10, 8)] == [995, 995, 996]


async def test_more_accounts_than_places_are_all_refreshed_once(store: Store) -> None:
    async with open_room(store) as room:
        room.vault.tasks.queues = RefreshQueues(places=2, ahead=1)
        accounts = [f"account{number}" for number in range(8)]
        for account in accounts:
            await room.connect(account=account)
        room.pass_time(3600)
        async with asyncio.timeout(WAIT):
            tokens = await asyncio.gather(*(room.exchange(account=account) for account in accounts for _ in range(3)))
        assert len({token.value for token in tokens}) == len(accounts)
        assert len(room.slack.sends) == len(accounts)


class WatchedQueues(RefreshQueues):
    """`arrived` is set when a refresh asks for its place."""

    def __init__(self) -> None:
        super().__init__(places=1, ahead=1)
        self.arrived = asyncio.Event()

    async def enter(self, provider: str, *, patience: float) -> bool:
        self.arrived.set()
        return await super().enter(provider, patience=patience)


@pytest.mark.parametrize("meanwhile", ["nothing", "refreshed", "being refreshed"])
async def test_a_caller_that_waited_for_its_place_reads_again_and_keeps_the_place(
    sqlite_store: Store, meanwhile: str
) -> None:
    async with open_room(sqlite_store) as room, second_process(room) as other, asyncio.timeout(WAIT):
        queues = room.vault.tasks.queues = WatchedQueues()
        await room.connect()
        for process in (room, other):
            process.pass_time(3600)
        assert await RefreshQueues.enter(queues, "slack", patience=0)
        waiting = asyncio.create_task(room.exchange())
        await queues.arrived.wait()
        match meanwhile:
            case "refreshed":
                theirs = await other.exchange()
                queues.leave("slack")
                assert (await waiting).value == theirs.value
            case "being refreshed":
                async with other.held_refresh() as slow:
                    queues.leave("slack")
                    await asyncio.wait([waiting], timeout=0.1)
                    room.slack.gate.set()
                    assert (await waiting).value == (await slow).value
            case _:
                behind = asyncio.create_task(RefreshQueues.enter(queues, "slack", patience=WAIT))
                await asyncio.sleep(0)
                queues.leave("slack")
                assert (await waiting).value in room.slack.issued
                assert await behind is False
        assert len(room.slack.sends) == 1


async def test_a_caller_who_finds_no_place_in_time_is_told_when_to_come_again(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_room(sqlite_store) as room:
        room.vault.tasks.queues = RefreshQueues(places=1, ahead=1)
        await room.connect()
        room.pass_time(3600)
        assert await room.vault.tasks.queues.enter("slack", patience=0)
        with monkeypatch.context() as short, pytest.raises(TemporarilyUnavailable, match="Many accounts") as refused:
            short.setattr("vault.refresh.rotation.PATIENCE", 1.2)
            await room.exchange()
        assert refused.value.retry_after == 5
        assert room.slack.sends == []
        room.vault.tasks.queues.leave("slack")
        assert await room.exchange()

"""The refreshes of one process: joined, in turns, paused, watched, timed, and stopped."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from itertools import islice

import pytest

from vault.refresh.concurrency import (
    RefreshQueues,
    RefreshTasks,
    RefreshTimers,
    UpstreamTokenRequest,
    Watches,
    growing_waits,
)
from vault.refusals import StorageUnavailable

NOW = 1000
REQUEST = UpstreamTokenRequest("c", 3)
NARROW = replace(REQUEST, scopes=frozenset({"read"}))


async def test_a_pause_ends_at_its_time_or_with_a_newer_token() -> None:
    tasks = RefreshTasks()
    assert tasks.seconds_paused(REQUEST, now=NOW) == 0
    tasks.pause(REQUEST, until=NOW + 10, generation=3, why="Wait.")
    assert tasks.seconds_paused(REQUEST, now=NOW) == tasks.seconds_paused(REQUEST, now=NOW, generation=3) == 10
    assert tasks.why_paused(REQUEST) == "Wait."
    assert tasks.seconds_paused(NARROW, now=NOW) == 0
    assert tasks.seconds_paused(REQUEST, now=NOW + 9) == 1
    assert tasks.seconds_paused(REQUEST, now=NOW + 10) == 0
    assert tasks.seconds_paused(REQUEST, now=NOW) == 0  # it was forgotten
    tasks.pause(REQUEST, until=NOW + 10, generation=3)
    assert tasks.seconds_paused(REQUEST, now=NOW, generation=4) == 0


async def test_a_narrowing_is_refused_until_its_time() -> None:
    tasks = RefreshTasks()
    assert not tasks.refuses_narrowing("c", NARROW.scope_key, now=NOW)
    tasks.refuse_narrowing(NARROW, until=NOW + 10)
    assert tasks.refuses_narrowing("c", NARROW.scope_key, now=NOW + 9)
    assert not tasks.refuses_narrowing("c", "", now=NOW)
    assert not tasks.refuses_narrowing("c", NARROW.scope_key, now=NOW + 10)
    assert not tasks.refuses_narrowing("c", NARROW.scope_key, now=NOW)  # it was forgotten


async def test_callers_join_the_task_that_runs_and_the_next_starts_another() -> None:
    tasks, started = RefreshTasks(), list[int]()

    async def fly() -> int:
        started.append(len(started))
        await asyncio.sleep(0.01)
        return len(started)

    first = tasks.join(REQUEST, fly)
    assert tasks.join(replace(REQUEST, generation=4), fly) is first
    other = tasks.join(NARROW, fly)
    assert (await first, await other, len(started)) == (2, 2, 2)
    await asyncio.sleep(0)
    assert await tasks.join(REQUEST, fly) == 3


@pytest.mark.parametrize("ends", ["with a token", "broken", "cancelled"])
async def test_a_refresh_that_broke_is_logged_with_its_account(ends: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    tasks = RefreshTasks()

    async def fly() -> int:
        await asyncio.sleep(0)
        if ends == "broken":
            raise RuntimeError(ends)
        return 1

    task = tasks.join(REQUEST, fly)
    if ends == "cancelled":
        task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    logged = [(one.message, vars(one).get("connection")) for one in caplog.records]
    assert logged == ([("refresh broke", "c")] if ends == "broken" else [])
    again = tasks.join(REQUEST, fly)
    assert again is not task
    again.cancel()
    await asyncio.wait([again])


@pytest.mark.parametrize("error", [None, RuntimeError("broken"), StorageUnavailable("away")])
async def test_work_that_broke_is_logged_and_a_refusal_is_not(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    tasks = RefreshTasks()

    async def work() -> int:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return 1

    task = tasks.finish("name", work())
    assert tasks.is_finishing("name")
    assert not tasks.is_finishing("other")
    await tasks.wait_until_finished("name", patience=5)
    assert task.done()
    await asyncio.sleep(0)
    assert not tasks.is_finishing("name")
    await tasks.wait_until_finished("name", patience=5)
    assert [one.message for one in caplog.records] == (
        ["background work broke"] if isinstance(error, RuntimeError) else []
    )
    cancelled = tasks.finish("name", asyncio.sleep(60))
    still = tasks.finish("name", asyncio.sleep(60))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    await asyncio.sleep(0)
    assert tasks.is_finishing("name")
    await tasks.wait_until_finished("name", patience=0.01)
    assert not still.done()
    still.cancel()


def test_each_wait_is_twice_the_one_before_up_to_the_longest() -> None:
    assert list(islice(growing_waits(3, 20), 6)) == [3, 6, 12, 20, 20, 20]


async def test_refreshes_of_one_connection_take_turns() -> None:
    tasks, seen = RefreshTasks(), list[str]()

    async def work(name: str) -> str:
        seen.append(f"begin {name}")
        await asyncio.sleep(0.01)
        seen.append(f"end {name}")
        return name

    async def turn(connection_id: str, name: str) -> str:
        return await tasks.take_turn(connection_id, lambda: work(name))

    assert await asyncio.gather(turn("c", "1"), turn("c", "2"), turn("d", "3")) == ["1", "2", "3"]
    assert [one for one in seen if "3" not in one] == ["begin 1", "end 1", "begin 2", "end 2"]
    assert seen.index("begin 3") < seen.index("end 1")
    assert tasks._turns == {}  # nothing grows


async def test_closing_waits_for_answers_and_drops_what_nobody_waits_for() -> None:
    tasks, done = RefreshTasks(), list[str]()

    async def answer() -> int:
        await asyncio.sleep(0.05)
        done.append("answer")
        return 1

    async def finish() -> None:
        await asyncio.sleep(0.05)
        done.append("finish")

    tasks.timers.make(REQUEST, after=0.01, keep=lambda: done.append("timer"))
    tasks.join(REQUEST, answer)
    tasks.finish("name", finish())
    late = tasks.tidy(asyncio.sleep(60))
    soon = tasks.tidy(asyncio.sleep(0.01))
    await tasks.close()
    assert sorted(done) == ["answer", "finish"]
    await asyncio.wait([late])
    assert late.cancelled()
    assert not soon.cancelled()
    hanging = tasks.join(REQUEST, lambda: _hang())
    await tasks.close(patience=0.01)
    assert not hanging.done()
    hanging.cancel()


async def _hang() -> int:
    await asyncio.sleep(60)
    return 0


async def test_a_token_has_one_timer_and_a_newer_one_replaces_it() -> None:
    timers, kept = RefreshTimers(), list[int]()
    timers.make(REQUEST, after=60, keep=lambda: kept.append(3))
    for generation, is_made in ((2, True), (3, True), (4, False)):
        assert timers.is_made("c", "", generation=generation) is is_made
    assert not timers.is_made("d", "", generation=3)
    timers.make(replace(REQUEST, generation=4), after=0, keep=lambda: kept.append(4))
    assert len(timers) == 1
    await asyncio.sleep(0.05)
    assert (kept, len(timers)) == ([4], 0)
    timers.make(REQUEST, after=0.01, keep=lambda: kept.append(3))
    timers.cancel()
    await asyncio.sleep(0.05)
    assert (kept, len(timers)) == ([4], 0)


async def test_a_cleared_queue_starts_nothing_more() -> None:
    queues, started = RefreshQueues(places=2, ahead=1), list[int]()

    def start(number: int) -> asyncio.Task[object]:
        started.append(number)
        return asyncio.get_running_loop().create_task(asyncio.sleep(0.01))

    for number in range(3):
        queues.queue("slack", number, lambda number=number: start(number))
    queues.clear()
    await asyncio.sleep(0.05)
    assert started == [0]
    queues.queue("slack", 1, lambda: start(1))  # it can be queued again
    assert started == [0, 1]


def test_what_is_watched_has_a_time_since_it_changed() -> None:
    watches = Watches()
    assert watches.seconds("name", "one", now=NOW) == 0
    assert watches.seconds("name", "one", now=NOW + 5) == 5
    assert watches.seconds("name", "two", now=NOW + 5) == 0
    assert watches.seconds("name", "two", now=NOW + 6) == 1
    assert watches.seconds("name", "two", now=NOW) == 0  # the clock went back
    assert watches.seconds("name", "two", now=NOW + 1) == 1
    watches.forget("name")
    watches.forget("name")
    assert watches.seconds("name", "two", now=NOW + 9) == 0

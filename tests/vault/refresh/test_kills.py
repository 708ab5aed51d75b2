"""Real processes that are killed or stopped during a refresh, or read the wrong time; `make chaos` does more."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from tests.chaos.crashes.interruptions import InterruptedCommand, KillTally, kill_backups, kill_restores
from tests.chaos.crashes.kills import CLASSES, kill_at
from tests.chaos.crashes.random_kills import KilledVault
from tests.chaos.crashes.stopped_process import stop_one
from tests.chaos.estate import open_estate
from tests.chaos.figures import Scale
from tests.chaos.processes.nursery import Nursery, open_nursery
from tests.chaos.replicas.clocks import OFF, rounds
from tests.chaos.world import open_world, strict_provider
from tests.conftest import Store

STAYS, RESENDS, SIBLING, STRICT, REVOKES = CLASSES
WITHIN = 6.0  # seconds for a call on a busy machine; waiting for the dead process would take SLOWEST


@pytest.fixture(scope="module")
async def nursery() -> AsyncGenerator[Nursery]:
    async with open_nursery() as opened:
        yield opened


KILLS = (("sqlite", "claimed"), ("postgres", "arrived"), ("sqlite", "journalled"))
OTHER_KILLS = (("postgres", "claimed"), ("sqlite", "arrived"), ("postgres", "journalled"))


@pytest.mark.parametrize(
    ("store", "step"),
    [*KILLS, *(pytest.param(*one, marks=pytest.mark.long) for one in OTHER_KILLS)],
    indirect=["store"],
)
async def test_outside_the_gap_a_killed_process_loses_nothing_at_the_strictest_provider(
    store: Store, nursery: Nursery, step: str
) -> None:
    async with strict_provider(**REVOKES.simulator) as provider, open_world(store, provider) as world:
        assert await kill_at(world, nursery, REVOKES, step, within=WITHIN) == []


async def test_in_the_gap_a_grace_brings_the_answer_back(sqlite_store: Store, nursery: Nursery) -> None:
    async with strict_provider(**SIBLING.simulator) as provider, open_world(sqlite_store, provider) as world:
        assert await kill_at(world, nursery, SIBLING, "answered", within=WITHIN) == []
        assert await kill_at(world, nursery, SIBLING, "handled", within=WITHIN) == []


async def test_in_the_gap_of_a_provider_without_grace_the_next_caller_is_told_at_once(
    sqlite_store: Store, nursery: Nursery
) -> None:
    async with strict_provider(**STRICT.simulator) as provider, open_world(sqlite_store, provider) as world:
        assert await kill_at(world, nursery, STRICT, "answered", within=WITHIN) == []


@pytest.mark.long
async def test_kills_at_random_moments_lose_nothing_outside_the_gap_and_spend_nothing_twice(
    sqlite_store: Store, nursery: Nursery
) -> None:
    async with open_estate(sqlite_store, (SIBLING, REVOKES), users=2) as estate:
        killing = KilledVault(estate, nursery, random.Random(0))
        await killing.run(4)
        tally = await killing.judge()
    assert (tally.doubled, tally.needless, tally.undecided) == ([], [], [])
    assert tally.recovered["sibling"] == tally.hit["sibling"]


@pytest.mark.long
async def test_the_answer_of_a_process_that_was_stopped_is_kept_and_its_token_not_sent_again(
    sqlite_store: Store, nursery: Nursery
) -> None:
    async with open_estate(sqlite_store, (SIBLING, REVOKES), users=1) as estate:
        figure = await stop_one(estate, nursery, scale=Scale.SMALL)
    assert figure.holds, figure.measured


@pytest.mark.parametrize("off", [OFF, -OFF])
@pytest.mark.long
async def test_a_process_whose_clock_is_off_sends_nothing_twice_and_asks_nobody(
    sqlite_store: Store, nursery: Nursery, off: int
) -> None:
    async with open_estate(sqlite_store, (SIBLING, REVOKES), users=1) as estate:
        figure = await rounds(estate, nursery, off=off, count=1)
    assert figure.holds, figure.measured


@pytest.mark.parametrize("work", [kill_backups, kill_restores])
async def test_a_backup_or_restore_that_is_killed_changes_all_or_nothing(
    store: Store, nursery: Nursery, work: Callable[..., Awaitable[KillTally]]
) -> None:
    seen = await work(store, InterruptedCommand(nursery, random.Random(1)), kills=3)
    assert seen.wrong == []
    assert seen.before + seen.after == 3

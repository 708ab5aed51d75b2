"""SIGKILL in the middle of a refresh, with real processes; `make chaos` does every step and class, and at random."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator

import pytest

from tests.chaos.estate import open_estate
from tests.chaos.kills import CLASSES, kill_at
from tests.chaos.nursery import Nursery, open_nursery
from tests.chaos.random_kills import Killing
from tests.chaos.world import open_world, strict_provider
from tests.conftest import Store

STAYS, RESENDS, SIBLING, STRICT, REVOKES = CLASSES


@pytest.fixture(scope="module")
async def nursery() -> AsyncGenerator[Nursery]:
    async with open_nursery() as opened:
        yield opened


@pytest.mark.parametrize("step", ["claimed", "arrived", "journalled"])
async def test_outside_the_gap_a_killed_process_loses_nothing_at_the_strictest_provider(
    store: Store, nursery: Nursery, step: str
) -> None:
    async with strict_provider(**REVOKES.simulator) as provider, open_world(store, provider) as world:
        assert await kill_at(world, nursery, REVOKES, step) == []


async def test_in_the_gap_a_grace_brings_the_answer_back(sqlite_store: Store, nursery: Nursery) -> None:
    async with strict_provider(**SIBLING.simulator) as provider, open_world(sqlite_store, provider) as world:
        assert await kill_at(world, nursery, SIBLING, "answered") == []
        assert await kill_at(world, nursery, SIBLING, "handled") == []


async def test_in_the_gap_of_a_provider_without_grace_the_next_caller_is_told_at_once(
    sqlite_store: Store, nursery: Nursery
) -> None:
    async with strict_provider(**STRICT.simulator) as provider, open_world(sqlite_store, provider) as world:
        assert await kill_at(world, nursery, STRICT, "answered") == []


async def test_kills_at_random_moments_lose_nothing_outside_the_gap_and_spend_nothing_twice(
    sqlite_store: Store, nursery: Nursery
) -> None:
    async with open_estate(sqlite_store, (SIBLING, REVOKES), users=2) as estate:
        killing = Killing(estate, nursery, random.Random(0))
        await killing.run(4)
        tally = await killing.judge()
    assert (tally.doubled, tally.needless, tally.undecided) == ([], [], [])
    assert tally.recovered["sibling"] == tally.hit["sibling"]

"""SIGKILL in the middle of a refresh, with real processes; `make chaos` does every step and class."""

from __future__ import annotations

import pytest

from tests.chaos.kills import CLASSES, kill_at
from tests.chaos.world import open_world, strict_provider
from tests.conftest import Store

STAYS, RESENDS, SIBLING, STRICT, REVOKES = CLASSES


@pytest.mark.parametrize("step", ["claimed", "journalled"])
async def test_outside_the_gap_a_killed_process_loses_nothing_at_the_strictest_provider(
    store: Store, step: str
) -> None:
    async with strict_provider(**REVOKES.simulator) as provider, open_world(store, provider) as world:
        assert await kill_at(world, REVOKES, step) == []


async def test_in_the_gap_a_grace_brings_the_answer_back(sqlite_store: Store) -> None:
    async with strict_provider(**SIBLING.simulator) as provider, open_world(sqlite_store, provider) as world:
        assert await kill_at(world, SIBLING, "answered") == []


async def test_in_the_gap_of_a_provider_without_grace_the_next_caller_is_told_at_once(sqlite_store: Store) -> None:
    async with strict_provider(**STRICT.simulator) as provider, open_world(sqlite_store, provider) as world:
        assert await kill_at(world, STRICT, "answered") == []

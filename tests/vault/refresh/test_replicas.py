"""Several real processes of one vault at the moment of expiry; `make chaos` does the same with 500 calls."""

from __future__ import annotations

import pytest

from tests.chaos.herd import herd
from tests.chaos.replicas.rolling_restart import restart_in_turn
from tests.chaos.world import open_world, strict_provider
from tests.conftest import Store


@pytest.mark.parametrize("store", [pytest.param("sqlite", marks=pytest.mark.long), "postgres"], indirect=True)
async def test_calls_at_expiry_on_several_processes_are_one_refresh_and_all_succeed(store: Store) -> None:
    async with strict_provider() as provider, open_world(store, provider) as world:
        figure = await herd(world, processes=2, calls=100)
        row = await world.row()
    assert "1 refresh, 100 of 100 succeed" in figure.measured
    assert (row["state"], row["generation"]) == ("active", 2)


@pytest.mark.long
async def test_a_rolling_restart_under_load_fails_no_call(postgres_store: Store) -> None:
    async with strict_provider() as provider, open_world(postgres_store, provider) as world:
        figure = await restart_in_turn(world, restarts=2, rate=10.0)
    assert figure.holds, figure.measured

"""Token exchange over plain HTTP against the simulator: one vault for a file, a new person for each test."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.rooms.exchange_room import ExchangeRoom, exchange_room
from vault import users


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    async with exchange_room(tmp_path_factory.mktemp("exchange") / "data") as opened:
        yield opened


@pytest.fixture
async def person(place: ExchangeRoom) -> str:
    """A person for this test only."""
    place_of = f"person-{len(await users.list_users(place.deployment.database))}"
    await place.user(place_of)
    return place_of

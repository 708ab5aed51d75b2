"""Token exchange over plain HTTP against the simulator: one vault for a file, a new person for a test."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import pytest

from tests.support.rooms.exchange_room import ExchangeRoom
from tests.support.rooms.mcp_room import room
from vault import users


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    async with (
        room(tmp_path_factory.mktemp("exchange") / "data") as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=20, trust_env=False) as http,
    ):
        yield ExchangeRoom(opened, http)


@pytest.fixture
async def person(place: ExchangeRoom) -> str:
    """A person of this test's own."""
    place_of = f"person-{len(await users.list_users(place.deployment.database))}"
    await place.user(place_of)
    return place_of

"""Token exchange over plain HTTP against the simulator: one vault for a file, a new person for a test."""

from __future__ import annotations

import pytest

from tests.support.rooms.exchange_room import ExchangeRoom
from vault import users


@pytest.fixture
async def person(place: ExchangeRoom) -> str:
    """A person of this test's own."""
    place_of = f"person-{len(await users.list_users(place.deployment.database))}"
    await place.user(place_of)
    return place_of

"""A separate person for each test."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.foreign.foreign import Somebody, newcomer
from tests.support.rooms.mcp_room import Room


@pytest.fixture
async def somebody(place: Room) -> AsyncGenerator[Somebody]:
    async with newcomer(place.vault) as opened:
        yield opened

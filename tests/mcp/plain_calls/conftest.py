"""A vault with an agent whose Slack account is connected."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.rooms.mcp_room import SLACK, Agent, Room, room


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Room]:
    async with room(tmp_path) as opened:
        yield opened


@pytest.fixture
async def agent(place: Room) -> Agent:
    found = await place.agent()
    await place.connect(found, "slack", scopes=SLACK)
    return found

"""A vault with Slack and Google at the simulator, for each file."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.rooms.mcp_room import Room, room


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("mcp") / "data") as opened:
        yield opened

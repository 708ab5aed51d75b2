"""One vault per file, whose people enter keys."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.support.rooms.key_room import KeyRoom, running_key_room


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[KeyRoom]:
    async with running_key_room(tmp_path_factory.mktemp("keys")) as opened:
        yield opened

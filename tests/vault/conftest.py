"""A vault with one account of a rotating provider, on each database."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import Room, open_room


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    async with open_room(store) as opened:
        yield opened

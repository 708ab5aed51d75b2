"""A vault with token exchange over plain HTTP, for each file."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.rooms.exchange_room import ExchangeRoom, exchange_room


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    async with exchange_room(tmp_path_factory.mktemp("exchange") / "data") as opened:
        yield opened

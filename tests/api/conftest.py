"""One vault per file, with the Admin API and token exchange."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.rooms.admin_room import AdminRoom, running_admin_room
from tests.support.rooms.exchange_room import ExchangeRoom, exchange_room


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AdminRoom]:
    async with running_admin_room(tmp_path_factory.mktemp("admin") / "vault") as opened:
        yield opened


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    async with exchange_room(tmp_path_factory.mktemp("clients") / "data") as opened:
        yield opened

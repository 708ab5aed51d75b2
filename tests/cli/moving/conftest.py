"""A running vault with Slack and Google, for the tests of one module; the commands run beside it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import pytest

from tests.cli.moving.moving import ConfiguredVault
from tests.journeys.foreign.test_foreign_inspector import settings_file
from tests.support.rooms.exchange_room import ExchangeRoom
from tests.support.rooms.mcp_room import room


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ConfiguredVault]:
    data = tmp_path_factory.mktemp("moving") / "data"
    async with (
        room(data) as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=20, trust_env=False) as http,
    ):
        settings = settings_file(opened)
        (data / "config.toml").write_text(settings)
        yield ConfiguredVault(ExchangeRoom(opened, http), settings)

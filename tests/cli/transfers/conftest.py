"""A running vault with Slack and Google, for the tests of one module; the commands run next to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.cli.transfers.configured_vault import ConfiguredVault
from tests.journeys.foreign.test_foreign_inspector import settings_file
from tests.support.rooms.exchange_room import exchange_room


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ConfiguredVault]:
    data = tmp_path_factory.mktemp("moving") / "data"
    async with exchange_room(data) as opened:
        settings = settings_file(opened.room)
        (data / "config.toml").write_text(settings)
        yield ConfiguredVault(opened, settings)

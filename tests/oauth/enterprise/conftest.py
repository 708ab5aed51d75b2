"""A company whose identity provider the vault trusts, one for each file."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.rooms.enterprise_room import Company, running_company


@pytest.fixture(scope="module")
async def shared_company(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Company]:
    async with running_company(tmp_path_factory.mktemp("company") / "data") as opened:
        yield opened

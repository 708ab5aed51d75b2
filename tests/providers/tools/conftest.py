"""A provider of the simulator, and its tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.tool_bench import Bench, open_bench


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    async with open_bench() as opened:
        yield opened

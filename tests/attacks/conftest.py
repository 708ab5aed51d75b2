"""One vault for all attacks; whatever they do to it, it must still work for the next one."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.attacks.target import Target, running_target


@pytest.fixture(scope="session")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Target]:
    """The running vault."""
    async with running_target(tmp_path_factory.mktemp("attacked")) as running:
        yield running

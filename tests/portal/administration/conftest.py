"""A vault for each test, with its pages and its Admin API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.rooms.admin_room import AdminRoom, running_admin_room
from tests.support.rooms.portal_room import Room, running_room


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[Room]:
    async with running_room(tmp_path / "vault") as opened:
        yield opened


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncGenerator[AdminRoom]:
    async with running_admin_room(tmp_path / "vault") as opened:
        yield opened

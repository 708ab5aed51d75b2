"""A vault with Auth0's interface turned on, sandbox providers, and an application that was written for Auth0."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import pytest

from tests.auth0.application import Application
from tests.support.rooms.portal_room import Room, running_room


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    overrides = {"auth0": {"enabled": True}, "server": {"issuer_slash": True}}
    async with running_room(tmp_path_factory.mktemp("auth0") / "data", overrides=overrides) as opened:
        yield opened


@pytest.fixture
async def application(room: Room) -> AsyncGenerator[Application]:
    """An application with its own person, who signed in to it."""
    async with httpx2.AsyncClient(base_url=room.url, timeout=20, trust_env=False) as http:
        made = await Application.register(room, http)
        await made.sign_in()
        yield made

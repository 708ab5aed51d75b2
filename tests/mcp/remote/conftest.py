"""One vault with third-party servers for all of these tests, and one server that only changes what it answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.mcp.remote.remote_room import RemoteRoom, remote_room
from tests.support.doubles.mcp_double import RemoteDouble
from tests.support.rooms.mcp_room import Agent

SUM = {"a": 2, "b": 3}
Known = tuple[str, RemoteDouble, Agent]


@pytest.fixture(scope="package")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[RemoteRoom]:
    data: Path = tmp_path_factory.mktemp("remote") / "vault"
    async with remote_room(data) as opened:
        yield opened


@pytest.fixture(scope="package")
async def used_server(place: RemoteRoom) -> Known:
    """One server, connected and allowed."""
    name, double, agent = await place.ready()
    for tool, arguments in (("add", SUM), ("note", {"text": "x"})):
        async with place.room.client(agent) as client:
            assert not (await place.call(client, f"{name}_{tool}", arguments)).is_error
    return name, double, agent


@pytest.fixture
def known_server(used_server: Known) -> Known:
    """A connected and allowed server for a test that only changes what it answers."""
    _, double, _ = used_server
    double.answer, double.results = None, {}
    double.calls.clear()
    return used_server

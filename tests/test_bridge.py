"""`stdio --url`: a client that knows stdio only reaches a vault elsewhere; its person signs in once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp_types import CallToolResult, TextContent

from tests.bridging import Machine, connect, in_the_browser
from tests.mcp_room import Room, room
from tests.person import Person

POST = {"channel": "#general", "text": "hello"}


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("bridge")) as opened:
        yield opened


@pytest.fixture
async def person(place: Room) -> AsyncGenerator[Person]:
    async with Person(place.url) as opened:
        yield opened


@pytest.fixture
def machine(place: Room, tmp_path: Path) -> Machine:
    return Machine(place.url, tmp_path / "data")


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_person_signs_in_once_and_later_runs_ask_nothing(
    place: Room, person: Person, machine: Machine, mode: str
) -> None:
    signing_in = asyncio.create_task(in_the_browser(machine, person))
    async with machine.client(mode=mode) as client:
        assert "Signed in" in await signing_in
        listed = {tool.name for tool in (await client.list_tools()).tools}
        async with place.client(await place.agent()) as direct:
            assert listed == {tool.name for tool in (await direct.list_tools()).tools}
        told = await client.call_tool("slack_post", POST)
        assert told.is_error
        await connect(person, (told.meta or {})["io.github.mcp-token-vault/connect"]["url"])
        assert not (await client.call_tool("slack_post", POST)).is_error
    async with machine.client(mode=mode) as client:
        assert not (await client.call_tool("slack_post", POST)).is_error
    assert not machine.opened.exists()

"""mcp-remote between a stdio host and our HTTP transports: registers, opens a browser, keeps tokens, and proxies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, ElicitRequestURLParams, ElicitResult, TextContent

from server.mcp.elicitation import META_KEY
from tests.support.foreign.foreign import MODULES, Screen, Somebody, environment, node, open_screen
from tests.support.rooms.mcp_room import Room, room

pytestmark = pytest.mark.group("node")

POST = {"channel": "#general", "text": "hello through mcp-remote"}


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    node()
    async with room(tmp_path_factory.mktemp("remote")) as opened:
        yield opened


@asynccontextmanager
async def client_of_proxy(
    url: str, *options: str, folder: Path, screen: Screen, follow: Callable[[str], Awaitable[None]] | None = None
) -> AsyncGenerator[Client]:
    """The official Python client on the proxy's standard input and output, as a desktop host starts it."""

    async def follow_link(context: object, params: object) -> ElicitResult:
        assert follow is not None and isinstance(params, ElicitRequestURLParams)
        await follow(params.url)
        return ElicitResult(action="accept")

    env = environment(folder, MCP_REMOTE_CONFIG_DIR=str(folder / "mcp-remote"), **screen.environment())
    program = StdioServerParameters(
        command=node(), args=[str(MODULES / "mcp-remote/dist/proxy.js"), url, *options], env=env, cwd=folder
    )
    with (folder / "proxy.log").open("w") as log:
        way = stdio_client(program, errlog=log)
        async with (
            Client(way, mode="legacy") if follow is None else Client(way, elicitation_callback=follow_link) as client
        ):
            yield client
    screen.check()


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


@pytest.mark.parametrize(
    ("path", "transport"),
    [
        pytest.param("/mcp", "http-only", marks=pytest.mark.client("mcp-remote", "HTTP", "words", "2025-11-25")),
        pytest.param("/sse", "sse-only", marks=pytest.mark.client("mcp-remote", "SSE", "words", "2025-11-25")),
    ],
)
async def test_a_stdio_host_behind_mcp_remote_is_asked_once_and_never_again(
    place: Room, somebody: Somebody, tmp_path: Path, path: str, transport: str
) -> None:
    url, options = place.url + path, ("--transport", transport)
    posts = len(place.simulator.books()["posts"])
    async with open_screen(tmp_path) as screen:
        screen.somebody = somebody
        async with client_of_proxy(url, *options, folder=tmp_path, screen=screen) as client:
            assert "slack_post" in {tool.name for tool in (await client.list_tools()).tools}
            told = await client.call_tool("slack_post", POST)
            assert told.is_error, text(told)
            await somebody.follow((told.meta or {})[META_KEY]["url"])
            posted = await client.call_tool("slack_post", POST)
            assert not posted.is_error, text(posted)
            await somebody.follow(((await client.call_tool("calendar_list", {})).meta or {})[META_KEY]["url"])
            assert not (await client.call_tool("calendar_list", {})).is_error
        assert (somebody.sign_ins, somebody.links) == (1, 2)
        screen.somebody = None
        async with client_of_proxy(url, *options, folder=tmp_path, screen=screen) as client:
            assert not (await client.call_tool("slack_post", POST)).is_error
            assert not (await client.call_tool("calendar_list", {})).is_error
    assert len(place.simulator.books()["posts"]) == posts + 2


@pytest.mark.client("mcp-remote", "HTTP", "input required", "2026-07-28")
async def test_a_host_of_the_newest_revision_opens_the_link_and_repeats_the_call_through_the_proxy(
    place: Room, somebody: Somebody, tmp_path: Path
) -> None:
    url, options = f"{place.url}/mcp", ("--transport", "http-only", "--protocol", "auto")
    async with open_screen(tmp_path) as screen:
        screen.somebody = somebody
        async with client_of_proxy(url, *options, folder=tmp_path, screen=screen, follow=somebody.follow) as client:
            assert client.protocol_version == "2026-07-28"
            posted = await client.call_tool("slack_post", POST)
            assert not posted.is_error, text(posted)
    assert (somebody.sign_ins, somebody.links) == (1, 1)

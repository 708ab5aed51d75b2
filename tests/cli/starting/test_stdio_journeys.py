"""stdio: the owner's local agents, their pages on one shared address, and several processes on one data directory."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import CallToolResult, ElicitRequestURLParams, ElicitResult, TextContent

from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.person import consent
from tests.support.commands import content
from tests.support.person import Person
from tests.support.processes import Place, opened_url

POST = {"channel": "#general", "text": "hello"}


@pytest.fixture
async def simulator() -> AsyncGenerator[Simulator]:
    async with running_simulator() as opened:
        yield opened


@pytest.fixture
def place(place: Place, simulator: Simulator) -> Place:
    place.configure({"providers": simulator.settings()})
    return place


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


async def follow(place: Place, link: str) -> None:
    """Open the link as the owner, in a browser that `token-vault sign-in` has signed in."""
    made = await content(place, "sign-in")
    async with Person(place.url) as owner:
        await owner.open(made["url"])
        page = await owner.open(link)
        page = await owner.submit(page, form="/connect/", button=("decision", "allow"))
        if "location" in page.headers:
            page = await owner.open(await consent(page.headers["location"]))
        assert page.status_code == 200, page.text


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("auto", marks=pytest.mark.client("python", "stdio", "words, code", "2026-07-28")),
        pytest.param("legacy", marks=pytest.mark.client("python", "stdio", "words, code", "2025-11-25")),
    ],
)
async def test_the_owner_connects_once_and_later_runs_ask_nothing(
    place: Place, simulator: Simulator, mode: str
) -> None:
    async with place.stdio("Test agent", mode=mode) as client:
        assert "slack_post" in {tool.name for tool in (await client.list_tools()).tools}
        told = await client.call_tool("slack_post", POST)
        link = (told.meta or {})["io.github.mcp-token-vault/connect"]["url"]
        assert link.startswith(f"{place.url}/connect/")
        await follow(place, link)
        assert not (await client.call_tool("slack_post", POST)).is_error
    async with place.stdio("Test agent", mode=mode) as client:
        assert not (await client.call_tool("slack_post", POST)).is_error
    async with place.stdio("Another agent", mode=mode) as client:
        other = await client.call_tool("slack_post", POST)
        assert other.is_error
        assert "isn't allowed to use it" in text(other)
    assert len(simulator.books()["posts"]) == 2


@pytest.mark.client("python", "stdio", "input required", "2026-07-28")
async def test_a_client_that_opens_links_is_asked_and_retries_by_itself(place: Place, simulator: Simulator) -> None:
    async def follow_link(context: object, params: object) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        await follow(place, params.url)
        return ElicitResult(action="accept")

    async with place.stdio("Test agent", elicitation_callback=follow_link) as client:
        assert not (await client.call_tool("slack_post", POST)).is_error
    assert len(simulator.books()["posts"]) == 1


async def test_two_clients_and_one_server_refresh_once_and_take_the_pages_over(
    place: Place, simulator: Simulator
) -> None:
    async with place.serve() as server, place.stdio("First") as first:
        vault = await place.healthy()
        async with place.stdio("Second") as second:
            for client in (first, second):
                told = await client.call_tool("slack_post", POST)
                await follow(place, (told.meta or {})["io.github.mcp-token-vault/connect"]["url"])
            before = len(simulator.books()["refreshes"])
            simulator.control("expire", face="slack")
            async with asyncio.timeout(30):
                calls = [client.call_tool("slack_post", POST) for client in (first, second) for _ in range(4)]
                results = await asyncio.gather(*calls)
            assert not [text(result) for result in results if result.is_error]
            assert len(simulator.books()["refreshes"]) == before + 1
            server.terminate()
            await asyncio.wait_for(server.wait(), 30)
            assert await place.healthy() == vault  # one of the two now serves the pages
        assert await place.healthy() == vault  # the last one still serves them, or takes over now
        told = await first.call_tool("calendar_list", {})
        await follow(place, (told.meta or {})["io.github.mcp-token-vault/connect"]["url"])
        assert not (await first.call_tool("calendar_list", {})).is_error


async def test_the_owners_browser_comes_up_signed_in_and_the_model_never_sees_the_secret(
    place: Place, simulator: Simulator
) -> None:
    opened = place.data / "opened"
    script = place.data / "browser"
    script.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}.part && mv {opened}.part {opened}\n')
    script.chmod(0o700)
    parameters = StdioServerParameters(
        command=sys.executable,
        args=place.arguments("stdio", "--client", "Test agent")[1:],
        env=place.environment() | {"BROWSER": f"{script} %s"},
    )
    async with Client(parameters) as client:
        told = await client.call_tool("slack_post", POST)
        async with asyncio.timeout(30):
            while not opened.exists():
                await asyncio.sleep(0.02)
        url = opened_url(opened.read_text())
        assert url.startswith(f"{place.url}/sign-in/local?")
        assert parse_qs(urlsplit(url).query)["ticket"][0] not in repr(told)
        async with Person(place.url) as owner:
            page = await owner.open(url)  # works once: signed in, on the page that the link leads to
            assert not list((place.data / "opening").iterdir()), "the file is gone with its use"
            assert str(page.url) in text(told)
            page = await owner.submit(page, form="/connect/", button=("decision", "allow"))
            await owner.open(await consent(page.headers["location"]))
        async with Person(place.url) as thief:
            assert (await thief.open(url)).status_code == 403
        assert not (await client.call_tool("slack_post", POST)).is_error


@pytest.mark.requirement("S-165")
async def test_standard_output_carries_json_rpc_only_and_the_command_line_no_secret(
    place: Place, simulator: Simulator
) -> None:
    process = await asyncio.create_subprocess_exec(
        *place.arguments("stdio", "--client", "Raw", "--verbose"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=place.environment(),
    )
    assert process.stdin is not None
    messages: list[object] = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "raw", "version": "1"},
            },
        },
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "slack_post", "arguments": POST}},
        {"jsonrpc": "2.0", "id": 3, "method": "no/such/method"},
        "not a message",
        {"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": {"name": "slack_post", "arguments": {"text": 1}}},
    ]
    process.stdin.write("".join(json.dumps(message) + "\n" for message in messages).encode() + b"{broken\n\n")
    await process.stdin.drain()
    assert process.stdout is not None
    lines: list[bytes] = []
    async with asyncio.timeout(30):
        while not {1, 2, 3, 4} <= {json.loads(line).get("id") for line in lines}:
            lines.append(await process.stdout.readline())
        command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
        process.stdin.close()
        rest = await process.stdout.read()
        assert await process.wait() == 0
    for line in [*lines, *rest.splitlines()]:
        assert json.loads(line)["jsonrpc"] == "2.0"
    secret = str(simulator.slack_settings()["client_secret"])
    assert secret not in command_line
    assert secret.encode() not in b"".join(lines) + rest


async def test_an_address_held_by_a_stranger_is_told_and_tools_work_all_the_same(place: Place) -> None:
    stranger = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", place.port)
    async with stranger, place.stdio("Test agent") as client:
        connected = await client.call_tool("connections", {})
        assert connected.structured_content["not_connected"] == ["google", "slack"]
        code, _, err = await place.run("serve")
        assert code == 1
        assert f"port {place.port}" in err
        assert "set another server.port" in err


async def test_a_client_name_that_could_pass_for_something_else_is_refused(place: Place) -> None:
    for name in ("../x", "x" * 80):
        code, out, err = await place.run("stdio", "--client", name)
        assert (code, out) == (1, "")
        assert "Use letters" in err

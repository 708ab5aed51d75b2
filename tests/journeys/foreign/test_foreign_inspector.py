"""The MCP Inspector's command line does the main tasks over HTTP in both protocol eras, over SSE, and over stdio."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from server.mcp.elicitation import META_KEY
from tests.support.bridge_processes import Machine, connect, in_the_browser
from tests.support.foreign.foreign import MODULES, Message, Ran, Somebody, node, open_screen, run
from tests.support.harness import free_socket
from tests.support.person import Person
from tests.support.rooms.mcp_room import Room, room

pytestmark = pytest.mark.group("node")
ran = pytest.mark.client

LAUNCHER = MODULES / "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
ROOT = Path(__file__).parents[3]
POST = {"channel": "#general", "text": "hello from the Inspector"}
AUTH_REQUIRED, TOOL_ERROR = 3, 5  # its exit codes


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    node()
    async with room(tmp_path_factory.mktemp("inspector")) as opened:
        yield opened


@dataclass
class Inspector:
    """The command line with its own store and a target's options. It isn't interactive."""

    folder: Path
    target: tuple[str, ...]
    env: Mapping[str, str]

    async def run(self, *options: str) -> Ran:
        listening = free_socket()
        callback = f"http://127.0.0.1:{listening.getsockname()[1]}/oauth/callback"
        listening.close()
        env = {
            "MCP_STORAGE_DIR": str(self.folder / "store"),
            "MCP_AUTO_OPEN_ENABLED": "true",
            "MCP_OAUTH_CALLBACK_URL": callback,
            **self.env,
        }
        command = (node(), str(LAUNCHER), "--cli", "-q", *options, "--format", "json", *self.target)
        return await run(*command, folder=self.folder, env=env)

    async def tools(self, *options: str) -> set[str]:
        listed = (await self.run("--method", "tools/list", *options)).content
        return {tool["name"] for tool in listed.get("result", listed)["tools"]}

    async def call(self, tool: str, arguments: Mapping[str, object], *options: str) -> Ran:
        return await self.run(
            "--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments), *options
        )


def result_of(ran: Ran) -> Message:
    content = json.loads(ran.out)
    return content.get("result", content)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        pytest.param("/mcp", ("--transport", "http"), marks=ran("inspector", "HTTP", "words", "2025-11-25")),
        pytest.param(
            *("/mcp", ("--transport", "http", "--protocol-era", "modern")),
            marks=ran("inspector", "HTTP", "words", "2026-07-28"),
        ),
        pytest.param(
            *("/sse", ("--transport", "sse")),
            marks=[ran("inspector", "SSE", "words", "2025-11-25"), pytest.mark.long],  # other clients use SSE, too
        ),
    ],
)
async def test_the_inspector_signs_in_once_and_then_lives_on_what_it_stored(
    place: Room, somebody: Somebody, tmp_path: Path, path: str, options: tuple[str, ...]
) -> None:
    stored = (*options, "--stored-auth-only")
    posts = len(place.simulator.books()["posts"])
    async with open_screen(tmp_path) as screen:
        screen.somebody = somebody
        inspector = Inspector(tmp_path, (place.url + path,), screen.environment())
        refused = await inspector.run("--method", "tools/list", *stored)
        assert refused.code == AUTH_REQUIRED, refused
        assert {"slack_post", "calendar_list"} <= await inspector.tools(*options)
        screen.check()
        for tool, arguments in (("slack_post", POST), ("calendar_list", {})):
            told = await inspector.call(tool, arguments, *stored)
            assert told.code == TOOL_ERROR, told
            await somebody.follow(result_of(told)["_meta"][META_KEY]["url"])
            done = await inspector.call(tool, arguments, *stored)
            assert not result_of(done).get("isError"), done
            assert done.code == 0
    assert (somebody.sign_ins, somebody.links) == (1, 2)
    assert len(place.simulator.books()["posts"]) == posts + 1


def settings_file(place: Room) -> str:
    """The settings of the running vault as an operator would write them."""
    lines = ["[server]", f"port = {place.vault.settings.server.port}", "[sandbox]", "loopback_upstreams = true"]
    for name, section in place.simulator.settings().items():
        lines.append(f"[providers.{name}]")
        for key, value in section.items():
            if isinstance(value, dict):
                lines += [f"{key}.{part} = {json.dumps(text)}" for part, text in value.items()]
            else:
                lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


@pytest.mark.long
@ran("inspector", "stdio", "words", "2025-11-25")
async def test_over_stdio_the_inspector_calls_as_the_owner_and_needs_no_sign_in(place: Room, tmp_path: Path) -> None:
    """Each call starts a `stdio` process; its links lead to the vault that serves the same data."""
    data = place.vault.deployment.data
    (data / "config.toml").write_text(settings_file(place))
    program = ("--cwd", str(ROOT), sys.executable, "--", "-m", "token_vault", "stdio", "--client", "Inspector")
    async with Person(place.url) as browser, open_screen(tmp_path) as screen:
        owner = Somebody("alice", browser)  # the only admin
        inspector = Inspector(tmp_path, (*program, "--data", str(data), "--no-browser"), screen.environment())
        assert {"slack_post", "calendar_list"} <= await inspector.tools()
        for tool, arguments in (("slack_post", POST), ("calendar_list", {})):
            told = await inspector.call(tool, arguments)
            assert told.code == TOOL_ERROR, told
            await owner.follow(result_of(told)["_meta"][META_KEY]["url"])
            done = await inspector.call(tool, arguments)
            assert done.code == 0, done
            assert result_of(done)["structuredContent"]
        screen.check()
    assert (owner.sign_ins, owner.links) == (0, 2)


@ran("inspector", "bridge", "words", "2025-11-25")
@pytest.mark.long
async def test_through_the_bridge_the_inspector_reaches_a_vault_elsewhere_over_stdio(
    place: Room, somebody: Somebody, tmp_path: Path
) -> None:
    machine = Machine(place.url, tmp_path / "machine" / "data", agent="Bridged Inspector")
    async with Person(place.url) as person, open_screen(tmp_path) as screen:
        signing_in = asyncio.create_task(in_the_browser(machine, person))
        assert (await machine.run("--sign-in"))[0] == 0
        await signing_in
        inspector = Inspector(tmp_path, tuple(machine.arguments()), {**screen.environment(), **machine.environment()})
        assert {"slack_post", "calendar_list"} <= await inspector.tools()
        told = await inspector.call("slack_post", POST)
        assert told.code == TOOL_ERROR, told
        await connect(person, result_of(told)["_meta"][META_KEY]["url"])
        assert (await inspector.call("slack_post", POST)).code == 0

"""The programs that `client-config` prints for agent SDKs, run unchanged with the SDKs themselves.

Each SDK has its own environment (`make sdks`): LangGraph's adapters need mcp 1, the others run with mcp 2.
All programs of an SDK run one after the other in one process, because an SDK takes seconds to import.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import unavailable
from tests.journeys.foreign.test_foreign_inspector import settings_file
from tests.support.foreign.foreign import run
from tests.support.rooms.mcp_room import Room, room, run_client_config

SDKS = Path(__file__).parents[3] / ".venv" / "sdks"
ENVIRONMENTS = {"langgraph": "mcp-1", "openai-agents": "mcp-2", "pydantic-ai": "mcp-2"}
POST = {"channel": "#general", "text": "Hello from an SDK"}
CALLS = {  # a call with the program's objects, in the SDK's own API
    "langgraph": "{tool.name: tool for tool in await vault.get_tools()}[name].ainvoke(arguments)",
    "openai-agents": "vault.call_tool(name, arguments)",
    "pydantic-ai": "vault.direct_call_tool(name, arguments)",
}
OPENED = {"langgraph": "contextlib.nullcontext()", "openai-agents": "vault", "pydantic-ai": "agent"}
CALLING = """
import contextlib


async def main() -> None:
    async with {opened}:
        for name, arguments in {tool_calls}:
            try:
                print(await {call})
            except Exception as error:  # what the SDK hands to its model
                print(error)


asyncio.run(main())
"""
RUNNER = """
import os
import runpy
import sys
import traceback

for name, token in {programs}:
    os.environ["ACCESS_TOKEN"] = token
    print("==", name, flush=True)
    try:
        runpy.run_path(name, run_name="__main__")
    except BaseException:
        traceback.print_exc(file=sys.stdout)
"""
PATIENCE = 120.0  # seconds; the SDKs take a while to import

pytestmark = pytest.mark.group("sdks")
ran = pytest.mark.client


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    if not all((SDKS / name / "bin" / "python").exists() for name in ENVIRONMENTS.values()):
        unavailable("the SDKs need: make sdks")
    async with room(tmp_path_factory.mktemp("sdks")) as opened:
        (opened.vault.deployment.data / "config.toml").write_text(settings_file(opened))
        yield opened


Play = Callable[[str], Awaitable[Mapping[str, str]]]


@pytest_asyncio.fixture(scope="module")
async def play(place: Room, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Run a client's programs once; return the output of each by name."""
    played: dict[str, Mapping[str, str]] = {}

    async def play(client: str) -> Mapping[str, str]:
        if client not in played:
            played[client] = await _play(place, client, tmp_path_factory.mktemp(client))
        return played[client]

    return play


async def _play(place: Room, client: str, folder: Path) -> Mapping[str, str]:
    own = await place.agent()
    await place.connect(own, "slack", scopes=frozenset({"chat:write", "channels:read"}))
    over_http = await run_client_config(place, client, "--transport", "http")
    made, end, nothing = over_http.partition("\nasyncio.run(main())\n")
    assert (bool(end), nothing) == (True, "")
    tool_calls = [("slack_post", POST), ("calendar_list", {})]
    programs = {
        "stdio": (await run_client_config(place, client), ""),
        "http": (over_http, own.token),
        "calls": (made + CALLING.format(opened=OPENED[client], call=CALLS[client], tool_calls=tool_calls), own.token),
        "ended": (over_http, "ended"),
    }
    if client == "openai-agents":
        programs["sse"] = (await run_client_config(place, client, "--transport", "sse"), own.token)
    for name, (program, _) in programs.items():
        (folder / name).write_text(program)
    tokens = [(name, token) for name, (_, token) in programs.items()]
    (folder / "runner.py").write_text(RUNNER.format(programs=tokens))
    python = SDKS / ENVIRONMENTS[client] / "bin" / "python"
    done = await run(str(python), "-W", "ignore", "runner.py", folder=folder, env={}, patience=PATIENCE)
    assert done.code == 0, done.err
    parts = [part.partition("\n") for part in done.out.split("== ")[1:]]
    return {name: said for name, _, said in parts}


@pytest.mark.parametrize(
    ("client", "transport"),
    [
        pytest.param("langgraph", "stdio", marks=ran("langgraph", "stdio", "tools listed")),
        pytest.param("openai-agents", "stdio", marks=ran("openai-agents", "stdio", "tools listed")),
        pytest.param("pydantic-ai", "stdio", marks=ran("pydantic-ai", "stdio", "tools listed")),
        ("langgraph", "http"),
        ("openai-agents", "http"),
        pytest.param("openai-agents", "sse", marks=ran("openai-agents", "SSE", "tools listed")),
        ("pydantic-ai", "http"),
    ],
)
async def test_a_program_as_printed_lists_the_tools(play: Play, client: str, transport: str) -> None:
    out = (await play(client))[transport]
    assert {"slack_post", "calendar_list"} <= set(out.split()), out


@pytest.mark.parametrize("client", ["openai-agents", "pydantic-ai"])  # mcp 1 shows the status alone
async def test_a_program_whose_token_ended_shows_how_to_sign_in_again(play: Play, client: str) -> None:
    out = (await play(client))["ended"]
    assert "Traceback" in out
    assert "Your sign-in has ended. Sign in again from the client." in out


@pytest.mark.parametrize(
    "client",
    [
        pytest.param("langgraph", marks=ran("langgraph", "HTTP", "words")),
        pytest.param("openai-agents", marks=ran("openai-agents", "HTTP", "words")),
        pytest.param("pydantic-ai", marks=ran("pydantic-ai", "HTTP", "words")),
    ],
)
async def test_calls_through_the_sdk_post_and_show_the_link_for_an_account_that_is_missing(
    place: Room, play: Play, client: str
) -> None:
    told = (await play(client))["calls"]
    posts = {str(post["ts"]) for post in place.simulator.books()["posts"] if post["text"] == POST["text"]}
    assert any(ts in told for ts in posts), told
    assert f"{place.url}/connect/" in told

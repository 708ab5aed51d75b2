"""The programs that `client-config` prints for agent SDKs, run as printed by the SDKs themselves.

Each SDK lives in an environment of its own (`make sdks`): LangGraph's adapters need mcp 1, the others run with mcp 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from server.cli import app
from tests.conftest import unavailable
from tests.journeys.foreign.test_foreign_inspector import settings_file
from tests.support.foreign.foreign import run
from tests.support.rooms.mcp_room import Agent, Room, room

SDKS = Path(__file__).parents[3] / ".venv" / "sdks"
ENVIRONMENTS = {"langgraph": "mcp-1", "openai-agents": "mcp-2", "pydantic-ai": "mcp-2"}
POST = {"channel": "#general", "text": "Hello from an SDK"}
CALLS = {  # a call with what the program made, in the SDK's own words
    "langgraph": "{tool.name: tool for tool in await vault.get_tools()}[name].ainvoke(arguments)",
    "openai-agents": "vault.call_tool(name, arguments)",
    "pydantic-ai": "vault.direct_call_tool(name, arguments)",
}
OPENED = {"langgraph": "contextlib.nullcontext()", "openai-agents": "vault", "pydantic-ai": "agent"}
CALLING = """
import contextlib


async def main() -> None:
    async with {opened}:
        for name, arguments in {wishes}:
            try:
                print(await {call})
            except Exception as error:  # what the SDK hands to its model
                print(error)


asyncio.run(main())
"""
PATIENCE = 90.0  # seconds; the SDKs take some to import

pytestmark = pytest.mark.group("sdks")
ran = pytest.mark.client


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    if not all((SDKS / name / "bin" / "python").exists() for name in ENVIRONMENTS.values()):
        unavailable("the SDKs need: make sdks")
    async with room(tmp_path_factory.mktemp("sdks")) as opened:
        (opened.vault.deployment.data / "config.toml").write_text(settings_file(opened))
        yield opened


@pytest_asyncio.fixture(scope="module")
async def agent(place: Room) -> Agent:
    return await place.agent()


async def printed(place: Room, client: str, *options: str) -> str:
    arguments = ["client-config", client, *options, "--data", str(place.vault.deployment.data)]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


async def run_program(client: str, program: str, folder: Path, **variables: str) -> str:
    python = SDKS / ENVIRONMENTS[client] / "bin" / "python"
    (folder / "program.py").write_text(program)
    done = await run(
        str(python), "-W", "ignore", str(folder / "program.py"), folder=folder, env=variables, patience=PATIENCE
    )
    assert done.code == 0, done.err
    return done.out


@pytest.mark.parametrize(
    "client",
    [
        pytest.param("langgraph", marks=ran("langgraph", "stdio", "tools listed")),
        pytest.param("openai-agents", marks=ran("openai-agents", "stdio", "tools listed")),
        pytest.param("pydantic-ai", marks=ran("pydantic-ai", "stdio", "tools listed")),
    ],
)
async def test_a_program_for_stdio_starts_the_vault_and_lists_its_tools(
    place: Room, tmp_path: Path, client: str
) -> None:
    out = await run_program(client, await printed(place, client), tmp_path)
    assert {"slack_post", "calendar_list"} <= set(out.split())


@pytest.mark.parametrize(
    ("client", "transport"),
    [
        ("langgraph", "http"),
        ("openai-agents", "http"),
        pytest.param("openai-agents", "sse", marks=ran("openai-agents", "SSE", "tools listed")),
        ("pydantic-ai", "http"),
    ],
)
async def test_a_program_for_an_address_lists_the_tools_with_the_persons_token(
    place: Room, agent: Agent, tmp_path: Path, client: str, transport: str
) -> None:
    program = await printed(place, client, "--transport", transport)
    out = await run_program(client, program, tmp_path, ACCESS_TOKEN=agent.token)
    assert {"slack_post", "calendar_list"} <= set(out.split())


@pytest.mark.parametrize("client", ["openai-agents", "pydantic-ai"])  # mcp 1 shows the status alone
async def test_a_program_whose_token_ended_shows_how_to_sign_in_again(place: Room, tmp_path: Path, client: str) -> None:
    (tmp_path / "program.py").write_text(await printed(place, client, "--transport", "http"))
    python = SDKS / ENVIRONMENTS[client] / "bin" / "python"
    done = await run(
        *(str(python), "-W", "ignore", "program.py"), folder=tmp_path, env={"ACCESS_TOKEN": "ended"}, patience=PATIENCE
    )
    assert done.code != 0
    assert "Your sign-in has ended. Sign in again from the client." in done.err


@pytest.mark.parametrize(
    "client",
    [
        pytest.param("langgraph", marks=ran("langgraph", "HTTP", "words")),
        pytest.param("openai-agents", marks=ran("openai-agents", "HTTP", "words")),
        pytest.param("pydantic-ai", marks=ran("pydantic-ai", "HTTP", "words")),
    ],
)
async def test_calls_through_the_sdk_post_and_show_the_link_for_an_account_that_is_missing(
    place: Room, tmp_path: Path, client: str
) -> None:
    own = await place.agent()
    await place.connect(own, "slack", scopes=frozenset({"chat:write", "channels:read"}))
    program, end, nothing = (await printed(place, client, "--transport", "http")).partition("\nasyncio.run(main())\n")
    assert (bool(end), nothing) == (True, "")
    calling = CALLING.format(
        opened=OPENED[client], call=CALLS[client], wishes=[("slack_post", POST), ("calendar_list", {})]
    )
    told = await run_program(client, program + calling, tmp_path, ACCESS_TOKEN=own.token)
    post = place.simulator.books()["posts"][-1]
    assert post["text"] == POST["text"]
    assert str(post["ts"]) in told
    assert f"{place.url}/connect/" in told

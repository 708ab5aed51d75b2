"""The official TypeScript SDK does the main tasks: register, sign in, connect once, call; later calls ask nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.foreign.foreign import Driver, Message, Somebody, drive_program, node
from tests.support.rooms.mcp_room import Room, room
from vault import clients

pytestmark = pytest.mark.group("node")

POST = {"channel": "#general", "text": "hello from TypeScript"}


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    node()
    async with room(tmp_path_factory.mktemp("typescript")) as opened:
        yield opened


async def call(agent: Driver, tool: str, **arguments: object) -> Message:
    answer = await agent.ask(call=tool, arguments=arguments)
    assert "result" in answer, answer
    return answer["result"]


@pytest.mark.client("typescript", "HTTP", "-32042", "2025-11-25")
async def test_over_http_the_sdk_is_handed_links_and_later_runs_ask_nothing(
    place: Room, somebody: Somebody, tmp_path: Path
) -> None:
    posts = len(place.simulator.books()["posts"])
    program = ("mcp_agent.mjs", f"{place.url}/mcp", "http", str(tmp_path / "wallet.json"), "links")
    async with drive_program(*program, folder=tmp_path, authorize=somebody.authorize) as agent:
        assert {"slack_post", "calendar_list", "connections"} <= set((await agent.answer())["tools"])
        for tool, arguments in (("slack_post", POST), ("calendar_list", {})):
            asked = await agent.ask(call=tool, arguments=arguments)
            assert asked["error"]["code"] == -32042, asked
            await somebody.follow(asked["error"]["data"]["elicitations"][0]["url"])
            answer = await call(agent, tool, **arguments)
            assert not answer.get("isError"), answer
    assert (somebody.sign_ins, somebody.links) == (1, 2)
    async with drive_program(*program, folder=tmp_path) as agent:
        await agent.answer()
        assert not (await call(agent, "slack_post", **POST)).get("isError")
        listed = await call(agent, "calendar_list")
        assert listed["structuredContent"]["events"]
    assert (somebody.sign_ins, somebody.links) == (1, 2)
    assert len(place.simulator.books()["posts"]) == posts + 2


@pytest.mark.client("typescript", "SSE", "words", "2025-11-25")
async def test_over_sse_the_sdk_is_told_in_words_and_refreshes_its_token_unseen(
    place: Room, somebody: Somebody, tmp_path: Path
) -> None:
    program = ("mcp_agent.mjs", f"{place.url}/sse", "sse", str(tmp_path / "wallet.json"))
    async with drive_program(*program, folder=tmp_path, authorize=somebody.authorize) as agent:
        await agent.answer()
        for tool, arguments in (("slack_post", POST), ("calendar_list", {})):
            told = await call(agent, tool, **arguments)
            assert told["isError"]
            link = told["_meta"]["io.github.mcp-token-vault/connect"]["url"]
            assert link in told["content"][0]["text"]
            await somebody.follow(link)
            answer = await call(agent, tool, **arguments)
            assert not answer.get("isError"), answer
    before = json.loads((tmp_path / "wallet.json").read_text())["tokens"]
    place.vault.deployment.database.clock_offset += place.vault.settings.tokens.access_lifetime + 1
    async with drive_program(*program, folder=tmp_path) as agent:
        await agent.answer()
        assert not (await call(agent, "slack_post", **POST)).get("isError")
        assert not (await call(agent, "calendar_list")).get("isError")
    after = json.loads((tmp_path / "wallet.json").read_text())["tokens"]
    assert after["refresh_token"] != before["refresh_token"]
    assert (somebody.sign_ins, somebody.links) == (1, 2)


async def cut_off(place: Room, somebody: Somebody, client_id: str) -> None:
    """Cut the agent off in the portal."""
    page = await somebody.browser.open(f"/agents/{client_id}/cut-off")
    assert (await somebody.browser.submit(page, form="/cut-off")).status_code == 200


async def remove(place: Room, somebody: Somebody, client_id: str) -> None:
    """Remove the registration, as the operator."""
    deployment = place.vault.deployment
    async with deployment.transaction() as transaction:
        await clients.remove_client(transaction, client_id, now=deployment.now())


@pytest.mark.parametrize(("end", "registers_again"), [(cut_off, False), (remove, True)])
async def test_an_agent_that_was_ended_understands_our_refusals_and_asks_anew(
    place: Room,
    somebody: Somebody,
    tmp_path: Path,
    end: Callable[[Room, Somebody, str], Awaitable[None]],
    registers_again: bool,
) -> None:
    wallet = tmp_path / "wallet.json"
    program = ("mcp_agent.mjs", f"{place.url}/mcp", "http", str(wallet))
    async with drive_program(*program, folder=tmp_path, authorize=somebody.authorize) as agent:
        await agent.answer()
    before = json.loads(wallet.read_text())["client"]["client_id"]
    await end(place, somebody, before)
    async with drive_program(*program, folder=tmp_path, authorize=somebody.authorize) as agent:
        await agent.answer()
        told = await call(agent, "connections")
        assert not told.get("isError"), told
    after = json.loads(wallet.read_text())["client"]["client_id"]
    assert (after != before) is registers_again
    assert somebody.sign_ins == 2

"""Facebook's Pages: a Page's token is used for one post and never handed out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp_types import CallToolResult

from providers.api.api import UpstreamRefused
from providers.definitions.catalog import load_catalog
from providers.tools.declarations import ToolFileRefused, read_tool_file
from providers.tools.declared_tools import data_tools
from tests.support.doubles.scripted_server import Arrival, Reply, json_reply
from tests.support.harness import running_vault
from tests.support.rooms.mcp_room import Agent, Room, text_of
from tests.support.rooms.proxy_room import ProxyHandle, issue
from tests.support.services import running_services
from tests.support.services.facebook import NOT_MINE, PAGE
from tests.support.simulator_apps import family_settings
from tests.support.tool_bench import TOOLS, open_bench

SCOPES = TOOLS["facebook_post"].scopes
QUESTION = """
provider = "facebook"

[[tool]]
name = "page_name"
title = "A Page's name"
description = "Read a Page's name."
scopes = ["pages_manage_posts"]
effect = "read"

[tool.request]
api = "main"
method = "GET"
path = "/{page}"
query = { fields = "access_token" }

[tool.arguments.page]
description = "Id of the Page"
pattern = "^[0-9]+$"

[tool.result]
line = "{token}"
fields = { token = { path = "access_token" } }
"""


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with running_services() as simulator:
        settings = {"facebook": family_settings(simulator, "api-facebook", apis=("main",))}
        async with running_vault(tmp_path_factory.mktemp("facebook"), providers=settings) as vault:
            yield Room(vault, simulator)


async def agent_with_handle(place: Room) -> tuple[Agent, ProxyHandle]:
    agent = await place.agent()
    connection = await place.connect(agent, "facebook", scopes=SCOPES)
    return agent, await issue(place, agent, connection, scopes=SCOPES)


async def post(place: Room, agent: Agent, page: str) -> CallToolResult:
    async with place.client(agent) as client:
        return await client.call_tool("facebook_post", {"page": page, "text": "Seeds are in."})


async def test_a_post_is_made_with_the_token_of_the_page_which_no_answer_shows() -> None:
    def answer(arrival: Arrival) -> Reply:
        if arrival.method == "GET":
            return json_reply({"id": PAGE, "access_token": "page-token-canary"})
        return json_reply({"id": f"{PAGE}_1"})

    async with open_bench() as bench:
        bench.server.answer = answer
        output = await bench.run("facebook_post", page=PAGE, text="Hello", link="https://example.com/a?b=c")
        question, sent = bench.server.arrivals
        assert (question.path, question.query) == (f"/main/{PAGE}", {"fields": "access_token"})
        assert question.headers["authorization"] != sent.headers["authorization"] == "Bearer page-token-canary"
        assert sent.json == {"message": "Hello", "link": "https://example.com/a?b=c"}
        assert "canary" not in output.model_dump_json() + str(output)
        bench.server.answer = lambda _: json_reply({"id": PAGE})
        with pytest.raises(UpstreamRefused, match="ask the Page's owner"):
            await bench.run("facebook_post", page=PAGE, text="Hello")
        assert bench.server.arrivals[-1].method == "GET"


async def test_a_page_on_which_the_person_may_not_post_says_so(place: Room) -> None:
    agent, _ = await agent_with_handle(place)
    refused = await post(place, agent, NOT_MINE)
    assert refused.is_error
    assert "isn't allowed to do that on this Page" in text_of(refused)
    assert not (await post(place, agent, PAGE)).is_error  # the twin


@pytest.mark.parametrize(
    "path", ["/me/accounts", "/me/accounts?fields=id,access_token", f"/{PAGE}?fields=access_token", f"/{PAGE}"]
)
async def test_the_proxy_asks_for_no_token_of_a_page(place: Room, path: str) -> None:
    agent, handle = await agent_with_handle(place)
    before = len(place.simulator.books()["api_calls"])
    refused = await handle.call("GET", path, api="main")
    assert (refused.status_code, refused.json()["code"]) == (403, "call_not_allowed")
    assert len(place.simulator.books()["api_calls"]) == before
    allowed = await handle.call("GET", "/me/accounts?fields=id,name", api="main")  # the twin
    assert [set(page) for page in allowed.json()["data"]] == [{"id", "name"}] * 2
    assert not (await post(place, agent, PAGE)).is_error  # the tool may request it


def test_no_declared_tool_asks_for_it_either(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(QUESTION)
    with pytest.raises(ToolFileRefused, match="no request rule of facebook"):
        data_tools([(path, read_tool_file(path))], load_catalog())
    telling = QUESTION.replace('query = { fields = "access_token" }\n', "").replace('"/{page}"', '"/{page}/feed"')
    path.write_text(telling.replace('"GET"', '"POST"').replace("read", "create"))
    assert data_tools([(path, read_tool_file(path))], load_catalog())  # the twin: data that contains no secret

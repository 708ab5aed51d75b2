"""A tool list that is too long is replaced by three tools that find, describe, and call the others."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import httpx2
import pytest
from mcp_types import CallToolResult, ElicitRequestURLParams, ElicitResult

from providers.tools.spec import UNTRUSTED
from server.mcp.offer.discovery import DISCOVERY
from server.mcp.tool_answers import META_KEY
from tests.support.harness import PASSWORD
from tests.support.inspection import read_events
from tests.support.person import Person
from tests.support.rooms.mcp_room import (
    SLACK,
    Agent,
    Room,
    connect_agent,
    count_posts,
    modern,
    modern_headers,
    room,
    text_of,
)
from vault import delegations, grants, tool_choices

POST = {"channel": "#general", "text": "hello"}
LIST = ["find_tools", "describe_tool", "call_tool", "connections"]


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("discovery"), tools={"list_limit": 10, "calls_per_minute": 60}) as opened:
        yield opened


async def choose(place: Room, agent: Agent, tool_set: str | None) -> None:
    who = agent.principal
    async with place.vault.deployment.transaction() as transaction:
        await tool_choices.set_tool_set(transaction, who.user_id, client_id=who.client_id, tool_set=tool_set, now=1)


async def call(
    place: Room, agent: Agent, tool: str, arguments: Mapping[str, object], *, mode: str = "auto"
) -> CallToolResult:
    async with place.client(agent, mode=mode) as client:
        return await client.call_tool(tool, dict(arguments))


async def by_name(place: Room, agent: Agent, name: str, arguments: Mapping[str, object], **more: str) -> CallToolResult:
    return await call(place, agent, "call_tool", {"name": name, "arguments": arguments}, **more)


async def tool_call_details(place: Room, agent: Agent) -> list[Mapping[str, object]]:
    events = await read_events(place.vault.deployment, user_id=agent.principal.user_id)
    return [event.details for event in events if event.kind == "tool.called"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_agent_finds_describes_and_calls_a_tool(place: Room, mode: str) -> None:
    agent = await connect_agent(place, f"finder-{mode}")
    async with place.client(agent, mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == LIST
        found = await client.call_tool("find_tools", {"query": "tell my team that lunch is ready"})
        names = [one["name"] for one in found.structured_content["tools"]]
        assert "slack_post" in names
        assert len(names) == 5
        assert "slack_post (Slack, create)" in text_of(found)
        described = (await client.call_tool("describe_tool", {"name": "slack_post"})).structured_content
        assert described["annotations"] == {
            "readOnlyHint": False, "destructiveHint": False, "idempotentHint": False, "openWorldHint": True,
        }  # fmt: skip
        assert set(described["input_schema"]["required"]) == {"channel", "text"}
        posting = await client.call_tool("call_tool", {"name": "slack_post", "arguments": POST})
    assert not posting.is_error
    assert posting.structured_content["channel"]
    assert posting.meta[META_KEY]["scopes"] == ["chat:write"]
    assert "[vault] as alice" in text_of(posting)
    assert [one["tool"] for one in await tool_call_details(place, agent)] == [
        "find_tools",
        "describe_tool",
        "slack_post",
    ]


async def test_what_is_said_of_the_three_tools_is_true_of_all_that_they_reach(place: Room) -> None:
    agent = await connect_agent(place, "hints")
    async with place.client(agent) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    hints = {name: tool.annotations.model_dump(by_alias=True, exclude={"title"}) for name, tool in tools.items()}
    reads = {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}
    assert hints["find_tools"] == hints["describe_tool"] == reads
    assert hints["call_tool"] == {
        "readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True,
    }  # fmt: skip
    assert tools["call_tool"].output_schema is None


async def test_a_tool_that_is_not_listed_for_length_answers_to_its_name(place: Room) -> None:
    agent = await connect_agent(place, "by-heart")
    before = count_posts(place)
    assert not (await call(place, agent, "slack_post", POST)).is_error
    assert count_posts(place) == before + 1


async def test_a_list_within_the_limit_is_a_list_and_has_no_other_way(tmp_path: Path) -> None:
    async with room(tmp_path) as short:
        agent = await connect_agent(short, "alice")
        async with short.client(agent) as client:
            listed = {tool.name for tool in (await client.list_tools()).tools}
            assert "slack_post" in listed
            assert not listed & {spec.name for spec in DISCOVERY}
            for name in ("find_tools", "describe_tool", "call_tool"):
                with pytest.raises(Exception, match="Unknown tool"):
                    await client.call_tool(name, {"name": "slack_post", "query": "x"})
            assert not (await client.call_tool("slack_post", POST)).is_error


async def test_a_persons_set_that_fits_is_listed_and_what_it_lacks_is_not_found(place: Room) -> None:
    agent = await connect_agent(place, "chooser")
    await choose(place, agent, "slack")
    async with place.client(agent) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert listed == {"connections", *(s.name for s in place.vault.deployment.tools if s.provider == "slack")}
        found = await client.call_tool("find_tools", {"query": "send a mail to legal", "limit": 20})
        assert not [one for one in found.structured_content["tools"] if one["service"] != "Slack"]
        for tool, arguments in (("describe_tool", {"name": "gmail_search"}), ("gmail_search", {"query": "x"})):
            assert "tool set slack" in text_of(await client.call_tool(tool, arguments))
        refused = await client.call_tool("call_tool", {"name": "gmail_search", "arguments": {"query": "x"}})
        assert refused.is_error
        assert "tool set slack" in text_of(refused)
        assert not (await client.call_tool("call_tool", {"name": "slack_post", "arguments": POST})).is_error
    await choose(place, agent, None)
    async with place.client(agent) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == LIST
        found = await client.call_tool("find_tools", {"query": "send a mail to legal"})
        assert "gmail_send" in {one["name"] for one in found.structured_content["tools"]}


async def test_a_name_that_no_tool_has_is_answered_with_the_nearest(place: Room) -> None:
    agent = await connect_agent(place, "misspeller")
    for tool in ("call_tool", "describe_tool"):
        refused = await call(place, agent, tool, {"name": "slack_pots"})
        assert refused.is_error
        assert "slack_post" in text_of(refused)
        assert "find_tools" in text_of(refused)
    nothing = await call(place, agent, "find_tools", {"query": "qqqq"})
    assert not nothing.is_error
    assert nothing.structured_content["services"] == ["Slack", "Google"]
    for name in ("call_tool", "find_tools"):  # these tools can't call themselves
        assert "no tool with that name" in text_of(await by_name(place, agent, name, {"query": "x"}))
    assert not (await by_name(place, agent, "connections", {})).is_error


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"arguments": POST}, "call_tool wasn't called, because the arguments are invalid: name: Field required"),
        ({"name": "slack_post", "channel": "#general"}, "channel: no such argument; call_tool takes arguments, name"),
        ({"name": "slack_post", "arguments": json.dumps(POST)}, "arguments: Input should be a valid dictionary"),
        ({"name": "slack_post", "arguments": {"text": "x"}}, "slack_post wasn't called"),
        ({"name": "slack_post"}, "slack_post wasn't called"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_of_the_tool_that_has_them(
    place: Room, arguments: dict[str, object], told: str
) -> None:
    agent = await connect_agent(place, "fumbler")
    before = count_posts(place)
    refused = await call(place, agent, "call_tool", arguments)
    assert refused.is_error
    assert told in text_of(refused)
    assert count_posts(place) == before
    assert not (await by_name(place, agent, "slack_post", POST)).is_error


async def test_an_approval_is_bound_to_the_named_tool_and_its_arguments(place: Room) -> None:
    await place.vault.add_user("approver")
    agent = await place.agent("approver")
    connection = await place.connect(agent, "slack", scopes=SLACK)
    who, database = agent.principal, place.vault.deployment
    async with database.transaction() as transaction:
        await delegations.set_ask(
            transaction, user_id=who.user_id, client_id=who.client_id, connection_id=connection.id,
            ask=frozenset({"tool:slack_post"}), now=database.now(),
        )  # fmt: skip
    before = count_posts(place)
    asked = await by_name(place, agent, "slack_post", POST)
    assert asked.is_error
    link = str(asked.meta["io.github.mcp-token-vault/connect"]["url"])
    assert "slack_post" in text_of(asked)
    itself = await call(place, agent, "slack_post", POST)  # the same question, asked only once
    assert str(itself.meta["io.github.mcp-token-vault/connect"]["url"]) == link
    async with Person(place.url) as browser:
        await browser.sign_in("approver", PASSWORD)
        page = await browser.open(link)
        assert "hello" in page.text
        await browser.submit(page, form="/approvals/", button=("decision", "allow"))
    other = await by_name(place, agent, "slack_post", {**POST, "text": "other"})
    assert other.is_error
    assert count_posts(place) == before
    assert not (await by_name(place, agent, "slack_post", POST)).is_error
    assert count_posts(place) == before + 1
    assert (await call(place, agent, "slack_post", POST)).is_error  # an approval counts for one call, by either name


async def test_an_account_is_asked_for_in_the_form_that_the_client_speaks(place: Room) -> None:
    agent = await place.agent("linker")
    links: list[str] = []

    async def connect_when_asked(context: object, params: object) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        links.append(params.url)
        await place.connect(agent, "slack", scopes=SLACK)
        return ElicitResult(action="accept")

    async with place.client(agent, elicitation_callback=connect_when_asked) as client:
        posting = await client.call_tool("call_tool", {"name": "slack_post", "arguments": POST})
    assert not posting.is_error
    assert len(links) == 1
    second = await place.agent("linker-2")
    assert "/connect/" in text_of(await by_name(place, second, "slack_post", POST))  # as text

    async def accept_without_connecting(context: object, params: object) -> ElicitResult:
        return ElicitResult(action="accept")

    async with place.client(
        await place.agent("linker-3"), mode="legacy", elicitation_callback=accept_without_connecting
    ) as client:
        with pytest.raises(Exception, match="slack_post") as refused:
            await client.call_tool("call_tool", {"name": "slack_post", "arguments": POST})
        assert refused.value.code == -32042


async def test_progress_of_the_named_tool_arrives(place: Room) -> None:
    agent = await connect_agent(place, "watcher")
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with place.client(agent) as client:
        result = await client.call_tool(
            "call_tool", {"name": "slack_channels", "arguments": {"limit": 1}}, progress_callback=hear
        )
    assert not result.is_error
    assert heard
    assert UNTRUSTED in text_of(result)


async def test_calls_by_either_name_use_up_the_same_budget(tmp_path: Path) -> None:
    async with room(tmp_path, tools={"list_limit": 3, "calls_per_minute": 4}) as busy:
        agent = await connect_agent(busy, "alice")
        ends = [
            await (
                call(busy, agent, "slack_channels", {}) if number % 2 else by_name(busy, agent, "slack_channels", {})
            )
            for number in range(6)
        ]
        assert not ends[0].is_error
        assert "too often" in text_of(ends[-1])
        assert "too often" in text_of(ends[-2])


@pytest.mark.parametrize("name", ["call_tool", "find_tools"])
async def test_an_ended_grant_ends_them(place: Room, name: str) -> None:
    agent = await connect_agent(place, f"ended-{name}")
    arguments = {"query": "x"} if name == "find_tools" else {"name": "slack_post", "arguments": POST}
    params = {"name": name, "arguments": arguments}

    async def ask() -> httpx2.Response:
        async with place.http(agent) as http:
            return await http.post(
                "/mcp", json=modern("tools/call", params), headers=modern_headers("tools/call", name)
            )

    assert (await ask()).status_code == 200
    deployment, before = place.vault.deployment, count_posts(place)
    async with deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=deployment.now())
    assert (await ask()).status_code == 401
    assert count_posts(place) == before


async def test_the_operator_can_choose_another_length_for_one_client(place: Room) -> None:
    agent = await connect_agent(place, "long")
    limits = place.vault.deployment.offer.list_limits
    assert isinstance(limits, dict)
    limits[agent.principal.client_id] = 0
    async with place.client(agent) as client:
        assert "slack_post" in {tool.name for tool in (await client.list_tools()).tools}
        with pytest.raises(Exception, match="Unknown tool"):
            await client.call_tool("call_tool", {"name": "slack_post", "arguments": POST})
    limits[agent.principal.client_id] = 10
    async with place.client(agent) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == LIST

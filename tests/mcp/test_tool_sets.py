"""A tool set removes tools from the list and from calls by name; the operator or the person sets it; it adds none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp_types import CallToolResult

from providers.definitions.catalog import load_catalog
from providers.tools.declarations import ToolFileRefused
from server.mcp.offer import connections_spec
from server.mcp.offer.discovery import DISCOVERY
from server.mcp.offer.registry import RESERVED, load_offer, load_tools
from server.settings import Settings, SettingsRefused, load_settings
from tests.conftest import Store
from tests.support.inspection import read_events
from tests.support.rooms.mcp_room import SLACK, Agent, Room, count_posts, room, text_of
from vault import tool_choices

POST = {"channel": "#general", "text": "hello"}
SETS = {"writers": {"title": "Writers", "enable": ["slack_*"], "disable": ["slack_react"]}}
MODES = ("auto", "legacy")


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[Room]:
    async with room(store.data, database_url=store.url, tools={"sets": SETS}) as opened:
        yield opened


async def choose(place: Room, agent: Agent, tool_set: str | None) -> None:
    """Does what the page does with the person's choice."""
    who = agent.principal
    async with place.vault.deployment.transaction() as transaction:
        await tool_choices.set_tool_set(
            transaction, who.user_id, client_id=who.client_id, tool_set=tool_set, now=place.vault.deployment.now()
        )


async def tool_names(place: Room, agent: Agent, *, mode: str = "auto") -> set[str]:
    async with place.client(agent, mode=mode) as client:
        return {tool.name for tool in (await client.list_tools()).tools}


async def post(place: Room, agent: Agent, *, mode: str = "auto", tool: str = "slack_post") -> CallToolResult:
    async with place.client(agent, mode=mode) as client:
        return await client.call_tool(tool, POST)


@pytest.mark.parametrize("mode", MODES)
async def test_a_persons_set_takes_tools_from_one_agent_at_once(place: Room, mode: str) -> None:
    agent, other = await place.agent(), await place.agent()
    connection = await place.connect(agent, "slack", scopes=SLACK)
    await place.allow(other, connection, SLACK)
    everything = await tool_names(place, agent, mode=mode)
    assert {"slack_post", "slack_history", "gmail_send", "connections"} <= everything
    assert not (await post(place, agent, mode=mode)).is_error

    await choose(place, agent, "read-only")
    left = await tool_names(place, agent, mode=mode)
    assert left < everything
    assert {"slack_history", "gmail_search", "connections"} <= left
    assert not {"slack_post", "gmail_send", "calendar_delete"} & left
    before = count_posts(place)
    refused = await post(place, agent, mode=mode)
    assert refused.is_error
    assert "read-only" in text_of(refused)
    assert "Agents page" in text_of(refused)
    assert count_posts(place) == before
    async with place.client(agent, mode=mode) as client:
        assert not (await client.call_tool("slack_channels", {})).is_error  # a tool in the set

    assert await tool_names(place, other, mode=mode) == everything  # the person's other agents keep their tools
    assert not (await post(place, other, mode=mode)).is_error

    await choose(place, agent, None)
    assert await tool_names(place, agent, mode=mode) == everything
    assert not (await post(place, agent, mode=mode)).is_error


async def test_a_refused_call_is_in_the_activity_and_took_no_token(place: Room) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    await choose(place, agent, "read-only")
    await post(place, agent)
    events = await read_events(place.vault.deployment, user_id=agent.principal.user_id)
    assert not [one for one in events if one.kind == "token.exchanged"]
    (called,) = [one for one in events if one.kind == "tool.called"]
    assert (called.outcome, called.details["tool"], called.details["code"]) == (
        "refused", "slack_post", "tool_not_offered",
    )  # fmt: skip
    await choose(place, agent, None)
    await post(place, agent)
    events = await read_events(place.vault.deployment, user_id=agent.principal.user_id)
    assert [one for one in events if one.kind == "token.exchanged"]


async def test_a_set_gives_no_permission(place: Room) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK, delegated=frozenset({"channels:read"}))
    await choose(place, agent, "slack")
    assert "slack_post" in await tool_names(place, agent)
    before = count_posts(place)
    assert "/connect/" in text_of(await post(place, agent))
    assert count_posts(place) == before
    assert "/connect/" not in text_of(await post(place, agent, tool="gmail_send"))  # no link for removed tools


async def test_the_operators_set_is_refused_with_his_setting_and_the_persons_is_within_it(place: Room) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    profiles = place.vault.deployment.offer.profiles
    assert isinstance(profiles, dict)
    profiles[agent.principal.client_id] = "writers"
    left = await tool_names(place, agent)
    assert "slack_post" in left
    assert not {"slack_react", "gmail_send"} & left
    assert not (await post(place, agent)).is_error
    refused = text_of(await post(place, agent, tool="gmail_send"))
    assert "writers" in refused
    assert "tools.profile" in refused
    await choose(place, agent, "google")  # no tool is in both
    assert await tool_names(place, agent) == {"connections"}
    assert "tool set google" in text_of(await post(place, agent))
    assert "tools.profile" in text_of(await post(place, agent, tool="gmail_send"))
    await choose(place, agent, "everything")
    assert await tool_names(place, agent) == left
    profiles.clear()
    assert "gmail_send" in await tool_names(place, agent)


async def test_a_chosen_set_that_the_operator_removed_leaves_nothing(place: Room) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    await choose(place, agent, "removed")
    assert await tool_names(place, agent) == {"connections"}
    assert "tool set removed" in text_of(await post(place, agent))
    await choose(place, agent, "writers")
    assert not (await post(place, agent)).is_error


def offer_of(tmp_path: Path, content: str) -> tuple[Settings, dict[str, frozenset[str]]]:
    path = tmp_path / "config.toml"
    path.write_text(content, encoding="utf-8")
    settings, catalog = load_settings(path), load_catalog()
    offer = load_offer(settings, load_tools(settings, catalog), catalog)
    return settings, {name: one.tools for name, one in offer.sets.items()}


def test_each_set_has_what_its_name_says(tmp_path: Path) -> None:
    settings, sets = offer_of(
        tmp_path,
        '[providers.github]\nclient_id = "x"\n[tools]\nprofile = "notes"\n[tools.sets.notes]\nenable = ["slack_*"]\n'
        'read_only = true\n[tools.clients.one]\nprofile = "everyday"\nlist_limit = 3',
    )
    specs = {spec.name: spec for spec in load_tools(settings, load_catalog())}
    assert list(sets) == ["everything", "everyday", "read-only", "slack", "google", "github", "notes"]
    assert sets["everything"] == frozenset(specs)
    assert sets["read-only"] == {name for name, spec in specs.items() if spec.read_only}
    assert sets["github"] == {name for name in specs if name.startswith("github_")}
    assert sets["notes"] == {name for name in sets["slack"] if specs[name].read_only}
    assert not [name for name in sets["everyday"] if specs[name].effect == "delete"]
    assert {"slack_post", "gmail_search", "github_issue_read"} <= sets["everyday"] < sets["everything"]


CHAT = 'enable = ["slack_*"]'
WRONG = {
    'profile = "readonly"': ("tools.profile: no tool set 'readonly'; use one of: everything", 'profile = "read-only"'),
    '[tools.clients.one]\nprofile = "x"': (
        "tools.clients.one.profile: no tool set 'x'",
        '[tools.clients.one]\nprofile = "slack"',
    ),
    f"[tools.sets.slack]\n{CHAT}": ("tools.sets.slack: there is a set", f"[tools.sets.chat]\n{CHAT}"),
    '[tools.sets.a]\nenable = ["jira_*"]': ("tools.sets.a.enable: no tool 'jira_", f"[tools.sets.a]\n{CHAT}"),
    '[tools.sets.a]\nread_only = true\nenable = ["slack_post"]': (
        "tools.sets.a.enable: no tool 'slack_post'",
        '[tools.sets.a]\nenable = ["slack_post"]',
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_set_that_cannot_be_meant_stops_the_start(tmp_path: Path, wrong: str) -> None:
    told, right = WRONG[wrong]
    with pytest.raises(SettingsRefused, match="tools") as refused:
        offer_of(tmp_path, f"[tools]\n{wrong}")
    assert told in str(refused.value)
    offer_of(tmp_path, f"[tools]\n{right}")


@pytest.mark.parametrize("name", ["call_tool", "call_tools"])
def test_an_operators_tool_cannot_have_the_name_of_one_of_ours(tmp_path: Path, name: str) -> None:
    assert {spec.name for spec in (*DISCOVERY, connections_spec.SPEC)} == RESERVED
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "own.toml").write_text(
        f'provider = "slack"\n[[tool]]\nname = "{name}"\ntitle = "Own"\ndescription = "Own."\n'
        'scopes = ["channels:read"]\neffect = "read"\n[tool.request]\napi = "web"\nmethod = "GET"\n'
        'path = "/conversations.list"\n[tool.result]\nfields = { ok = { path = "ok", type = "boolean" } }\n'
        'line = "{ok}"\n',
        encoding="utf-8",
    )
    content = f'[tools]\nfolders = ["{folder}"]'
    if name in RESERVED:
        with pytest.raises(ToolFileRefused, match="another tool already has this name"):
            offer_of(tmp_path, content)
    else:
        assert name in offer_of(tmp_path, content)[1]["everything"]

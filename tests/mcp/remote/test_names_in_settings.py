"""Settings name tools of MCP servers, but these tools are known only after a server was accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.administration.actor import Actor, ChangeRefused
from server.app import open_deployment
from server.doctor.tools import check_tool_names
from server.remote import servers
from server.runtime.late_names import LateName
from server.settings import SettingsRefused, load_settings
from tests.mcp.remote.remote_room import remote_room
from tests.support.rooms.mcp_room import Agent

NAMED: dict[str, Any] = {
    "tools": {
        "list_limit": 0,
        "disable": ["notes_note"],
        "sets": {"sums": {"enable": ["notes_a*"]}},
        "clients": {"one": {"profile": "notes"}},
    },
    "approvals": {"ask": ["notes_add"], "no_standing": ["notes_add"]},
}


async def open_with_settings(data: Path, **overrides: Any) -> tuple[set[str], list[str]]:
    """The tools of `notes` that are offered with these settings, and what the doctor reports."""
    always = {"sandbox": {"loopback_upstreams": True}, "server": {"public_url": "http://localhost:8765"}}
    settings = load_settings(overrides={**always, **overrides})
    async with open_deployment(settings, data=data) as deployment:
        names = {spec.name for spec in deployment.tools if spec.provider == "notes"}
        return names, [one.sentence for one in check_tool_names(deployment)]


async def test_names_of_a_stored_server_are_taken_and_of_no_server_refused(tmp_path: Path) -> None:
    data = tmp_path / "vault"
    async with remote_room(data) as place:
        double = place.site.add("notes")
        await servers.add(place.operator, servers.NewServer("notes", double.url))
    names, said = await open_with_settings(data, **NAMED)
    assert names == {"notes_tools"}
    assert len(said) == 4, "nobody accepted any"
    assert "tools.disable names notes_note" in said[0]
    for wrong in ({"tools": {"disable": ["notse_note"]}}, {"approvals": {"ask": ["notse_add"]}}):
        with pytest.raises(SettingsRefused, match="no tool"):
            await open_with_settings(data, **wrong)
    with pytest.raises(SettingsRefused, match="no tool set"):
        await open_with_settings(data, tools={"profile": "notse"})


async def test_they_count_once_the_tools_are_accepted_and_keep_the_server(tmp_path: Path) -> None:
    data = tmp_path / "vault"
    async with remote_room(data) as place:
        double = place.site.add("notes")
        await servers.add(place.operator, servers.NewServer("notes", double.url))
        agent: Agent = await place.room.agent()
        await place.look("notes", agent)
        await place.accept("notes", reads=["add"], unasked=["note"])
        await servers.disconnect_all(place.operator, "notes")
    names, said = await open_with_settings(data, **NAMED)
    assert (names, said) == ({"notes_tools", "notes_add"}, [])
    always = {"sandbox": {"loopback_upstreams": True}, "server": {"public_url": "http://localhost:8765"}}
    async with open_deployment(load_settings(overrides={**always, **NAMED}), data=data) as deployment:
        assert deployment.offer.sets["sums"].tools == {"notes_add"}
        assert deployment.offer.profiles == {"one": "notes"}
        assert "tool:notes_add" in {str(one) for one in deployment.vault.policies["notes"].ask}
        actor = Actor(deployment, None, "command_line")
        with pytest.raises(ChangeRefused, match="names notes_"):
            await servers.remove(actor, "notes")
    async with open_deployment(load_settings(overrides=always), data=data) as deployment:
        await servers.remove(Actor(deployment, None, "command_line"), "notes")
    with pytest.raises(SettingsRefused, match="no tool"):
        await open_with_settings(data, **NAMED)


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [
        ("linear_mcp_issues", True),
        ("linear_mcp_*", True),
        ("linear_*", True),
        ("linear-mcp", True),
        ("linear_issues", False),
        ("linear", False),
        ("slack_*", False),
    ],
)
def test_which_names_can_be_of_a_server(name: str, is_taken: bool) -> None:
    assert LateName("tools.enable", name, "no").may_be_of("linear-mcp") is is_taken

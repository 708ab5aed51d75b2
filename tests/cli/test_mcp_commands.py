"""`mcp ...` from the command line: add, list, review with differences, accept what was reviewed, remove."""

from __future__ import annotations

import json

from server.app import open_deployment
from server.remote.offered_tools import note_tools
from server.settings import load_settings
from tests.support.commands import content, run
from tests.support.doubles.mcp_double import ADD, NOTE, running_site
from tests.support.processes import Place

SANDBOX = {"sandbox": {"loopback_upstreams": True}}


async def _note_as_seen(place: Place, *tools: dict[str, object]) -> None:
    """Note the tools as seen, as an account does when it lists them."""
    async with open_deployment(load_settings(overrides=SANDBOX), data=place.data) as deployment:
        offered = {str(one["name"]): json.dumps(one, sort_keys=True) for one in tools}
        await note_tools(deployment, "notes", "k1", offered)


async def test_an_operator_adds_reviews_accepts_and_removes_a_server(place: Place) -> None:
    with (place.data / "config.toml").open("a", encoding="utf-8") as file:
        file.write("[sandbox]\nloopback_upstreams = true\n")
    async with running_site() as site:
        double = site.add("notes")
        refused = await run(place, "mcp", "add", "slack", double.url)
        assert refused.exit_code != 0
        assert "slack-mcp" in refused.output
        added = await content(place, "mcp", "add", "notes", double.url)
        assert added["connect"].endswith("/connections/connect?provider=notes")
        assert added["scopes"] == ["mcp:read"]
    assert "haven't been listed yet" in (await run(place, "mcp", "review", "notes")).output
    await _note_as_seen(place, ADD, NOTE)
    shown = (await run(place, "mcp", "review", "notes")).output
    assert "the server claims: readOnlyHint" in shown
    assert '+  "description": "Write a note.",' in shown
    digest = (await content(place, "mcp", "review", "notes"))["digest"]
    assert f"mcp accept notes {digest}" in shown
    wrong = await run(place, "mcp", "accept", "notes", "0" * 16)
    assert wrong.exit_code != 0
    accepted = await content(place, "mcp", "accept", "notes", digest, "--read", "add", "--tool", "add")
    assert accepted["accepted"] == ["add"]
    await _note_as_seen(place, {**ADD, "description": "Add, and tell others."}, NOTE)
    changed = (await run(place, "mcp", "review", "notes")).output
    assert "add: changed" in changed
    assert '-  "description": "Add two numbers.",' in changed
    (listed,) = await content(place, "mcp", "list")
    assert (listed["usable"], listed["held"]) == (0, 2)
    digest = (await content(place, "mcp", "review", "notes"))["digest"]
    left = await content(place, "mcp", "accept", "notes", digest, "--leave", "note")
    assert left["accepted"] == ["add"]
    reviewed = (await run(place, "mcp", "review", "notes")).output
    assert "note: left out; to accept it, name it with --tool" in reviewed
    assert "Nothing to review: 1 tools" in reviewed
    rule = place.data / "rules" / "one.cedar"
    rule.parent.mkdir()
    rule.write_text('@id("no-add") forbid(principal, action == Action::"notes_add", resource);', encoding="utf-8")
    with (place.data / "config.toml").open("a", encoding="utf-8") as file:
        file.write(f'[policy]\nfolder = "{rule.parent}"\n')
    refused = await run(place, "mcp", "remove", "notes")
    assert refused.exit_code != 0
    assert "The rule no-add names a tool" in refused.output
    rule.write_text("", encoding="utf-8")
    assert (await run(place, "mcp", "remove", "notes")).exit_code == 0
    assert await content(place, "mcp", "list") == []

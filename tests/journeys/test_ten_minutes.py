"""The page about a new provider, from the first command to two tools that an agent calls, without any Python."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from providers.check.trial import PLAIN
from providers.simulator.local_server import running_simulator
from tests.generating.documentation import DOCS
from tests.support.commands import run
from tests.support.doubles.scripted_server import Arrival, Reply, json_reply, scripted_server
from tests.support.harness import running_vault
from tests.support.processes import Place, free_port
from tests.support.rooms.mcp_room import Room, text_of
from tests.support.simulator_apps import family_settings

PAGE = (DOCS / "guides/add-a-provider.md").read_text(encoding="utf-8")
SCOPES = frozenset({"tickets.read", "tickets.write"})


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


async def follow_page(place: Place) -> Path:
    """Type and write what the page says, in order; return the folder with the tools."""
    commands = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    (by_addresses,) = [line for line in commands if "--userinfo-url" in line]
    made = await run(place, *shlex.split(by_addresses)[1:])
    assert made.exit_code == 0, made.output
    provider = place.data / "providers" / "tickets.toml"
    (rules,) = [block for block in blocks("toml") if "[[rules]]" in block]
    (tools,) = [block for block in blocks("toml") if block.startswith("provider = ")]
    folder = place.data / "tools"
    folder.mkdir()
    file = folder / "ticket-tools.toml"
    file.write_text(tools, encoding="utf-8")
    (check,) = [line for line in commands if "tools check" in line]
    early = await run(place, *[str(file) if word == file.name else word for word in shlex.split(check)[1:]])
    assert early.exit_code == 1 and "add a [[rules]] entry" in early.stdout
    provider.write_text(f"{provider.read_text(encoding='utf-8')}\n{rules}", encoding="utf-8")
    for line in commands:
        if line == by_addresses or "providers new" in line:
            continue
        words = shlex.split(line)[1:]
        words = [
            str(file) if word == file.name else str(provider) if word.endswith("s.toml") else word for word in words
        ]
        done = await run(place, *words)
        assert done.exit_code == 0, f"{line}: {done.output}"
    return folder


async def test_a_new_provider_with_two_tools_is_made_as_the_page_says(tmp_path: Path) -> None:
    place = Place(tmp_path / "followed", free_port())
    place.data.mkdir()
    folder = await follow_page(place)
    tickets = [{"id": "T-1", "title": "The printer"}]

    def api(arrived: Arrival) -> Reply:
        if arrived.method == "GET":
            assert arrived.query == {"state": "open", "limit": "20"}
            return json_reply({"tickets": tickets, "other": "left out"})
        tickets.append({"id": f"T-{len(tickets) + 1}", "title": str(arrived.json["title"])})
        return json_reply({"id": tickets[-1]["id"]}, status=201)

    async with scripted_server(api) as service, running_simulator() as simulator:
        section = {**family_settings(simulator, PLAIN), "apis": {"main": service.url}}
        overrides = {"provider_folders": [place.data / "providers"], "tools": {"folders": [folder]}}
        data = tmp_path / "vault"
        async with running_vault(data, providers={"tickets": section}, overrides=overrides) as vault:
            room = Room(vault, simulator)
            agent = await room.agent()
            async with room.client(agent) as client:
                asked = await client.call_tool("ticket_list", {})
                assert asked.is_error and "/connect/" in text_of(asked)
                await room.connect(agent, "tickets", scopes=SCOPES)
                opened = await client.call_tool("ticket_create", {"title": "The coffee machine"})
                assert opened.structured_content is not None and opened.structured_content["id"] == "T-2"
                listed = await client.call_tool("ticket_list", {})
                assert listed.structured_content is not None
                assert [one["title"] for one in listed.structured_content["items"]] == [
                    "The printer",
                    "The coffee machine",
                ]
                assert "left out" not in listed.model_dump_json()
            assert all(one.headers["authorization"].startswith("Bearer ") for one in service.arrivals)

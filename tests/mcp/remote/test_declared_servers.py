"""MCP servers that a declaration file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.administration import applying
from server.administration.actor import ChangeRefused
from server.administration.declaration import DeclarationRefused, parse_declaration, read_declaration
from server.remote.declared import plan
from tests.mcp.remote.remote_room import RemoteRoom


def said(changes: tuple[applying.PlannedChange, ...]) -> list[str]:
    return [f"{one.verb} {one.kind} {one.name}" for one in changes if one.name.startswith("declared")]


async def test_a_declaration_adds_disables_and_removes_servers(place: RemoteRoom) -> None:
    plain, keyed = place.site.add("declared"), place.site.add("declaredkey", key=("x-api-key", "made-up-key-1"))
    servers = {
        "declared": {"url": plain.url, "title": "Declared"},
        "declaredkey": {"url": keyed.url, "sign_in": "key", "key_header": "X-Api-Key", "disabled": True},
    }
    wanted = parse_declaration({"mcp_servers": servers})
    changes = await plan(place.operator, wanted)
    assert said(changes) == ["create mcp_server declared", "create mcp_server declaredkey"]
    await applying.apply(changes)
    assert (await place.stored("declared")).title == "Declared"
    assert (await place.stored("declaredkey")).is_disabled
    assert await plan(place.operator, wanted) == ()
    changed = parse_declaration({"mcp_servers": {"declared": {"url": plain.url, "disabled": True}}})
    changes = await plan(place.operator, changed)
    assert said(changes) == ["update mcp_server declared"]
    await applying.apply(changes)
    assert (await place.stored("declared")).is_disabled
    with pytest.raises(ChangeRefused, match="address can't change"):
        await plan(place.operator, parse_declaration({"mcp_servers": {"declared": {"url": keyed.url}}}))
    emptied = await plan(place.operator, parse_declaration({"mcp_servers": {}}), prunes=True)
    assert said(emptied) == ["remove mcp_server declared", "remove mcp_server declaredkey"]
    await applying.apply([one for one in emptied if one.name.startswith("declared")])
    assert place.deployment.catalog.get("declared") is None


async def test_pruning_providers_leaves_the_registrations_of_servers(place: RemoteRoom) -> None:
    name, _ = await place.add()
    pruned = await plan(place.operator, parse_declaration({"providers": {}}), prunes=True)
    assert name not in [one.name for one in pruned]
    everything = await plan(place.operator, parse_declaration({"mcp_servers": {}}), prunes=True)
    assert name in [one.name for one in everything]


def test_a_secret_may_be_in_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "notes.secret").write_text("made-up-secret\n")
    file = tmp_path / "vault.toml"
    text = (
        '[mcp_servers.notes]\nurl = "https://notes.example/mcp"\nclient_id = "a"\nclient_secret_file = "notes.secret"\n'
    )
    file.write_text(text)
    found = (read_declaration(file).mcp_servers or {})["notes"].client_secret
    assert found is not None
    assert found.get_secret_value() == "made-up-secret"
    file.write_text(text + 'client_secret = "two"\n')
    with pytest.raises(DeclarationRefused, match=r"mcp_servers\.notes: client_secret and client_secret_file"):
        read_declaration(file)
    file.write_text(text.replace("url", "adress"))
    with pytest.raises(DeclarationRefused, match=r"mcp_servers\.notes"):
        read_declaration(file)

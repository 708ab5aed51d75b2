"""MCP servers that a declaration file names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.administration import reconciliation
from server.administration.actor import ChangeRefused
from server.administration.declaration import Declaration, DeclarationRefused, parse_declaration, read_declaration
from server.remote import servers
from server.remote.declared_servers import plan
from tests.mcp.remote.remote_room import RemoteRoom
from tests.support.inspection import unstorable
from vault.mcp.servers import get_server
from vault.refusals import StorageUnavailable


def change_lines(changes: tuple[reconciliation.PlannedChange, ...]) -> list[str]:
    return [f"{one.verb} {one.kind} {one.name}" for one in changes if one.name.startswith("declared")]


async def test_a_declaration_adds_disables_and_removes_servers(place: RemoteRoom) -> None:
    plain, keyed = place.site.add("declared"), place.site.add("declaredkey", key=("x-api-key", "made-up-key-1"))
    servers = {
        "declared": {"url": plain.url, "title": "Declared"},
        "declaredkey": {"url": keyed.url, "sign_in": "key", "key_header": "X-Api-Key", "disabled": True},
    }
    wanted = parse_declaration({"mcp_servers": servers})
    changes = await plan(place.operator, wanted)
    assert change_lines(changes) == ["create mcp_server declared", "create mcp_server declaredkey"]
    await reconciliation.apply(changes)
    assert (await place.read_server("declared")).title == "Declared"
    assert (await place.read_server("declaredkey")).is_disabled
    assert await plan(place.operator, wanted) == ()
    changed = parse_declaration({"mcp_servers": {"declared": {"url": plain.url, "disabled": True}}})
    changes = await plan(place.operator, changed)
    assert change_lines(changes) == ["update mcp_server declared"]
    await reconciliation.apply(changes)
    assert (await place.read_server("declared")).is_disabled
    plainly = {"url": plain.url}  # whoever disabled it, only a file that says so enables it again
    assert await plan(place.operator, parse_declaration({"mcp_servers": {"declared": plainly}})) == ()
    changes = await plan(
        place.operator, parse_declaration({"mcp_servers": {"declared": plainly | {"disabled": False}}})
    )
    assert [(one.name, one.before, one.after) for one in changes[0].differences] == [("disabled", True, False)]
    with pytest.raises(ChangeRefused, match="address can't change"):
        await plan(place.operator, parse_declaration({"mcp_servers": {"declared": {"url": keyed.url}}}))
    key = {"url": keyed.url, "sign_in": "key"}
    for wrong, said_why in (
        ({**key, "key_header": "X-Other-Key"}, "sign-in can't change"),
        ({"url": keyed.url, "sign_in": "open"}, "sign-in can't change"),
        ({"url": keyed.url}, "sign-in can't change"),
        ({**key, "key_header": "X-Api-Key", "title": "Another"}, "title can't change"),
    ):
        with pytest.raises(ChangeRefused, match=said_why):
            await plan(place.operator, parse_declaration({"mcp_servers": {"declaredkey": wrong}}))
    same = {**key, "key_header": "X-Api-Key", "title": "Declaredkey", "disabled": True}
    assert await plan(place.operator, parse_declaration({"mcp_servers": {"declaredkey": same}})) == ()
    emptied = await plan(place.operator, parse_declaration({"mcp_servers": {}}), prunes=True)
    assert change_lines(emptied) == ["remove mcp_server declared", "remove mcp_server declaredkey"]
    await reconciliation.apply([one for one in emptied if one.name.startswith("declared")])
    assert place.deployment.catalog.get("declared") is None


@pytest.mark.parametrize("kind", ["mcp_server.disabled", "unrelated"])
async def test_a_disabled_server_is_added_disabled_or_not_at_all(place: RemoteRoom, kind: str) -> None:
    """A declaration that is stopped half-way lists only whole changes."""
    double = place.site.add("declaredoff")
    wanted = parse_declaration({"mcp_servers": {"declaredoff": {"url": double.url, "disabled": True}}})
    changes = await plan(place.operator, wanted)
    async with unstorable(place.deployment.database, "events", "kind", kind, is_sqlite=True):
        if kind == "unrelated":
            await reconciliation.apply(changes)
        else:
            with pytest.raises(StorageUnavailable):
                await reconciliation.apply(changes)
    assert ((await get_server(place.deployment.database, "declaredoff")) is None) is (kind != "unrelated")
    if kind == "unrelated":
        assert (await place.read_server("declaredoff")).is_disabled
        await servers.remove(place.operator, "declaredoff")


async def test_a_declared_client_is_changed_with_its_secret(place: RemoteRoom) -> None:
    double = place.site.add("rotated")

    def make_declaration(client_id: str, secret: str | None = None) -> Declaration:
        client = {"client_id": client_id} | ({} if secret is None else {"client_secret": secret})
        return parse_declaration({"mcp_servers": {"rotated": {"url": double.url, **client}}})

    await reconciliation.apply(await plan(place.operator, make_declaration("ours-1", "made-up-secret-1")))
    assert await plan(place.operator, make_declaration("ours-1", "made-up-secret-1")) == ()
    for wanted in (make_declaration("ours-1", "made-up-secret-2"), make_declaration("ours-2", "made-up-secret-3")):
        changes = await plan(place.operator, wanted)
        assert [f"{one.verb} {one.kind} {one.name}" for one in changes] == ["update mcp_server rotated"]
        assert "made-up" not in repr(changes)
        await reconciliation.apply(changes)
        assert await plan(place.operator, wanted) == ()
    entered = place.deployment.live.current.entered["rotated"]
    assert (entered.client_id, entered.client_secret) == ("ours-2", "made-up-secret-3")
    await servers.remove(place.operator, "rotated")
    await reconciliation.apply(await plan(place.operator, make_declaration("public-1")))
    with pytest.raises(ChangeRefused, match="client without a secret can't change"):
        await plan(place.operator, make_declaration("public-1", "made-up-secret-4"))
    await servers.remove(place.operator, "rotated")


async def test_pruning_providers_leaves_the_registrations_of_servers(place: RemoteRoom) -> None:
    name, _ = await place.add()
    pruned = await plan(place.operator, parse_declaration({"providers": {}}), prunes=True)
    assert name not in [one.name for one in pruned]
    facts = json.dumps((await place.read_server(name)).facts)
    for stored, is_usable in (("{}", False), (facts, True)):
        async with place.deployment.transaction() as transaction:
            await transaction.execute(
                "update mcp_servers set facts = :facts where name = :name", {"facts": stored, "name": name}
            )
        await place.deployment.live.refresh(place.deployment.database, place.deployment.keys)
        assert (place.deployment.catalog.get(name) is not None) is is_usable
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

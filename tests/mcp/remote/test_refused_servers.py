"""Reasons to refuse adding, reviewing, and removing an MCP server.

Each has a request that succeeds when only that reason is removed.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from providers.tools.imported_api import content_of
from providers.tools.openapi_import import import_document
from server.administration.actor import Actor, ChangeRefused
from server.administration.declaration import parse_declaration
from server.policy.gate import PolicyGate, load
from server.policy.schema import actions_of
from server.policy_settings import PolicySettings
from server.remote import imported_apis, servers
from server.remote.declared_servers import plan
from server.remote.servers import NewServer, ReviewDecision
from tests.mcp.remote.remote_room import RemoteRoom
from tests.portal.administration.test_imported_apis import AUDIENCE, document
from tests.support.doubles.mcp_double import NOTE
from vault.mcp.servers import add_server
from vault.registrations import EnteredRegistration, remove_registration, save_registration

UNUSABLE = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)a"}}}


@pytest.mark.parametrize(
    ("kind", "header", "is_taken"),
    [
        ("open", "", True),
        ("open", "X-Api-Key", False),
        ("oauth", " ", True),
        ("oauth", "X-Api-Key", False),
        ("key", "", True),
        ("key", "X-Api-Key", True),
        ("key", "X-Api-Key: Token", True),
        ("key", "X Api Key", False),
        ("key", "X-Api-Key: sk_live_1 2", False),
        ("key", "Host", False),
    ],
)
def test_a_header_is_named_for_a_key_only(kind: str, header: str, is_taken: bool) -> None:
    if is_taken:
        made = servers.key_of(kind, header)
        assert (made is None) == (kind == "oauth")
        return
    with pytest.raises(ChangeRefused) as refused:
        servers.key_of(kind, header)
    assert refused.value.field == "key_header"
    assert "sk_live" not in refused.value.description


async def test_a_name_that_another_process_gave_away_is_taken(place: RemoteRoom) -> None:
    name, other = f"s{secrets.token_hex(4)}", f"s{secrets.token_hex(4)}"
    double = place.site.add(name)
    async with place.deployment.transaction() as transaction:
        now = place.deployment.now()
        assert await add_server(transaction, name, url=double.url, title=name, facts={}, by="", now=now)
    with pytest.raises(ChangeRefused, match="already"):
        await servers.add(place.operator, NewServer(name, double.url))
    assert (await servers.add(place.operator, NewServer(other, double.url))).name == other


async def test_a_name_under_which_another_process_registered_is_taken(place: RemoteRoom) -> None:
    name, deployment = f"s{secrets.token_hex(4)}", place.deployment
    double = place.site.add(name)
    async with deployment.transaction() as transaction:
        known = await save_registration(
            transaction, deployment.keys, EnteredRegistration("theirs"), provider=name, by="", now=deployment.now()
        )
        assert known is not None
    with pytest.raises(ChangeRefused, match="already"):
        await servers.add(place.operator, NewServer(name, double.url))
    async with deployment.transaction() as transaction:
        assert await remove_registration(transaction, deployment.keys, known)
    assert (await servers.add(place.operator, NewServer(name, double.url))).name == name


async def test_only_tools_that_are_offered_and_usable_are_accepted_once(place: RemoteRoom) -> None:
    name, double, agent = await place.ready()
    double.tools = [*double.tools, {**NOTE, "name": "new"}, {**NOTE, "name": "odd", "inputSchema": UNUSABLE}]
    await place.look(name, agent)
    refused = [
        ({"names": ["nothing"]}, "offers no tool"),
        ({"leaves": ["nothing"]}, "offers no tool"),
        ({"leaves": ["add"]}, "is accepted already"),
        ({"names": ["new"], "reads": ["add"]}, "isn't among these tools"),
        ({"names": ["odd"]}, "can't be used"),
    ]
    for decisions, said in refused:
        with pytest.raises(ChangeRefused, match=said) as caught:
            await place.accept(name, **decisions)
        assert caught.value.field == "tools", decisions
    for one in ("new", "nothing"):  # a tool that disappeared since the review is reported as such
        with pytest.raises(ChangeRefused) as caught:
            await servers.accept(place.operator, name, ReviewDecision("another digest", names=[one]))
        assert caught.value.reason == "changed_meanwhile"
    assert await place.accept(name, names=["new"], reads=["new"]) == ("new",)


async def test_a_server_that_a_rule_names_stays(place: RemoteRoom, tmp_path: Path) -> None:
    name, _, _ = await place.ready()
    await servers.disconnect_all(place.operator, name)
    rule = f'@id("sums")\npermit (principal, action == Action::"{name}_add", resource);\n'
    for kind in ("folder", "shadow_folder"):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "rules.cedar").write_text(rule.replace("permit", "forbid"), encoding="utf-8")
        settings, deployment = PolicySettings.model_validate({kind: folder}), place.deployment
        gate = PolicyGate(settings, deployment.live, deployment.activity, admin=deployment.settings.admin)
        actor = Actor(replace(deployment, policy=gate), None, "command_line")
        with pytest.raises(ChangeRefused) as refused:
            await servers.remove(actor, name)
        assert refused.value.reason == "named_by_rule"
        other, _ = await place.add()
        await servers.remove(actor, other)
    planned = load(tmp_path / "folder", actions_of(place.deployment.tools), setting="policies")
    wanted = parse_declaration({"mcp_servers": {}})
    actor = replace(place.operator, deployment=place.deployment.with_rules([planned]))
    with pytest.raises(ChangeRefused, match="The rule sums names a tool"):
        await plan(actor, wanted, prunes=True)
    with pytest.raises(ChangeRefused, match="The rule sums names a tool"):
        await servers.remove(actor, name)
    actor = replace(place.operator, deployment=place.deployment.with_rules([]))
    assert name in [one.name for one in await plan(actor, wanted, prunes=True) if one.verb == "remove"]
    await servers.remove(actor, name)
    with pytest.raises(ChangeRefused):
        await servers.server_named(place.deployment, name)


async def test_a_name_tells_a_servers_tools_from_all_others(place: RemoteRoom) -> None:
    longer, double = f"s{secrets.token_hex(4)}-notes", place.site.add("named")
    await servers.add(place.operator, NewServer(longer, double.url))
    for wrong, said in (
        (longer, "a provider has this name"),
        ("slack", "a provider has this name"),
        ("everything", "a tool set has this name"),
        (longer.removesuffix("-notes"), "other tools begin with"),
        (f"{longer}-more", "other tools begin with"),
        ("Notes", "Notes: "),
    ):
        with pytest.raises(ChangeRefused, match=said):
            await servers.add(place.operator, NewServer(wrong, double.url))
    assert await servers.add(place.operator, NewServer(f"s{secrets.token_hex(4)}", double.url)), "the twin"


async def test_an_imported_apis_tools_are_told_from_a_servers(place: RemoteRoom) -> None:
    name, _ = await place.add()
    for api, is_taken in ((f"{name}-api", True), (f"s{secrets.token_hex(4)}-api", False)):
        content = content_of(import_document(document({}), name=api, title="", audience=AUDIENCE, server=""))
        if is_taken:
            with pytest.raises(ChangeRefused, match=f"the MCP server {name} begin with the same name"):
                await imported_apis.offer(place.operator, api, content)
        else:
            assert await imported_apis.offer(place.operator, api, content)

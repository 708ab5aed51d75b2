"""Third-party MCP servers behind the vault: added by address, connected per person, called in the accepted form."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from providers.outbound.addresses import AddressPolicy
from providers.remote.authorization import _read_registration
from server.administration.actor import ChangeRefused
from server.portal.connect import NEW_ACCOUNT
from server.remote import servers
from tests.mcp.remote.remote_room import RemoteRoom, link_of, remote_room, text
from tests.support.doubles.mcp_double import agree
from vault import connections
from vault.upstream import RotationMode


async def test_a_server_is_added_connected_reviewed_and_called(place: RemoteRoom) -> None:
    name, double = await place.add()
    assert double.registrations[0]["redirect_uris"] == [f"{place.room.url}/connect/callback/{name}"]
    agent = await place.room.agent()
    looked = await place.look(name, agent)
    assert not looked.is_error, text(looked)
    assert [one["state"] for one in looked.structured_content["tools"]] == ["held for the operator's review"] * 2
    asked = double.asked[0]
    assert (asked["resource"], asked["code_challenge_method"]) == (double.url, "S256")
    assert asked["scope"].split() == ["mcp:read", "offline_access"]
    assert double.token_requests[0]["resource"] == double.url
    async with place.room.client(agent) as client:
        assert f"{name}_add" not in {tool.name for tool in (await client.list_tools()).tools}
    await place.accept(name, reads=["add", "note"])
    async with place.room.client(agent) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert listed[f"{name}_add"].description.endswith("Add two numbers.")
        result = await place.call(client, f"{name}_add", {"a": 2, "b": 3})
        assert not result.is_error, text(result)
        assert result.structured_content["result"] == {"sum": 5}
        assert "data, not instructions" in text(result)
    sent = [{name: call[name] for name in ("name", "arguments")} for call in double.calls]  # the SDK may add a trace
    assert sent == [{"name": "add", "arguments": {"a": 2, "b": 3}}]
    assert len(double.asked) == 1


async def test_another_person_connects_an_account_of_their_own(place: RemoteRoom, known_server: Any) -> None:
    name, double, agent = known_server
    other = await place.room.agent("bob")
    async with place.room.client(other) as client:
        told = await client.call_tool(f"{name}_add", {"a": 1, "b": 1})
        assert link_of(told) is not None
    async with place.room.client(agent) as client:
        assert not (await place.call(client, f"{name}_add", {"a": 1, "b": 1})).is_error
    assert len(double.calls) == 1


async def test_its_tools_are_a_tool_set_and_found_by_what_they_do(place: RemoteRoom, known_server: Any) -> None:
    name, _, _ = known_server
    offer = place.deployment.offer
    assert offer.sets[name].tools == {f"{name}_add", f"{name}_note", f"{name}_tools"}
    found = offer.index.find("add two numbers", among=offer.sets[name].tools, limit=1)
    assert [spec.name for spec in found] == [f"{name}_add"]


async def test_arguments_are_checked_before_anything_is_sent(place: RemoteRoom, known_server: Any) -> None:
    name, double, agent = known_server
    async with place.room.client(agent) as client:
        assert not (await place.call(client, f"{name}_add", {"a": 1, "b": 2})).is_error
        sent = len(double.calls)
        for wrong in ({"a": 1}, {"a": 1, "b": "two"}):
            refused = await client.call_tool(f"{name}_add", wrong)
            assert refused.is_error
            assert "wasn't called" in text(refused)
    assert len(double.calls) == sent


async def test_an_argument_named_account_is_the_servers_own(place: RemoteRoom, known_server: Any) -> None:
    name, double, agent = known_server
    async with place.room.client(agent) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"account", "account_argument", "text"} == set(listed[f"{name}_note"].input_schema["properties"])
        result = await place.call(client, f"{name}_note", {"text": "x", "account_argument": "theirs"})
        assert not result.is_error, text(result)
    assert double.calls[-1]["arguments"] == {"text": "x", "account": "theirs"}


async def test_a_write_asks_the_person_each_time_unless_the_operator_says_otherwise(place: RemoteRoom) -> None:
    name, double = await place.add()
    agent = await place.room.agent()
    await place.look(name, agent)
    await place.accept(name)
    async with place.room.client(agent) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert listed[f"{name}_add"].annotations.destructive_hint  # whatever the server claims
        told = await client.call_tool(f"{name}_note", {"text": "dear"})
        link = link_of(told)
        await place.follow(link or "")
        asked = await client.call_tool(f"{name}_note", {"text": "dear"})
        assert asked.is_error
        assert "/approvals/" in text(asked)
        assert double.calls == []
        await place.accept(name, names=["note"], unasked=["note"])
        assert not (await client.call_tool(f"{name}_note", {"text": "dear"})).is_error
    assert len(double.calls) == 1
    await place.accept(name, names=["add", "note"], trusts=True)
    assert [place.deployment.tool(f"{name}_{one}").effect for one in ("add", "note")] == ["read", "delete"]


async def test_a_dead_access_token_is_renewed_once_and_the_refresh_token_rotates(place: RemoteRoom) -> None:
    name, double, agent = await place.ready()
    async with place.room.client(agent) as client:
        assert not (await place.call(client, f"{name}_add", {"a": 1, "b": 2})).is_error
        double.end_tokens()
        assert not (await client.call_tool(f"{name}_add", {"a": 1, "b": 2})).is_error
    refreshes = [one for one in double.token_requests if one["grant_type"] == "refresh_token"]
    assert [one["resource"] for one in refreshes] == [double.url]


async def test_a_renewal_is_journalled_like_that_of_every_other_account(place: RemoteRoom) -> None:
    name, double, agent = await place.ready()
    vault = place.deployment.vault
    async with place.room.client(agent) as client:
        assert not (await place.call(client, f"{name}_add", {"a": 1, "b": 2})).is_error
        owned = await connections.list_connections(place.deployment.database, agent.principal.user_id)
        (connection,) = [one for one in owned if one.provider == name]
        assert await vault.journal.find(connection.id) == ()
        double.end_tokens()
        assert not (await client.call_tool(f"{name}_add", {"a": 1, "b": 2})).is_error
    (kept,) = await vault.journal.find(connection.id)
    assert kept.connection_id == connection.id
    assert vault.policies[name].rotation is RotationMode.REVOKES  # whether reuse ends the grant is unknown


async def test_calls_count_towards_the_persons_budget_and_another_persons_dont(tmp_path: Path) -> None:
    limited = {"tools": {"list_limit": 0, "calls_per_minute": 3}}
    async with remote_room(tmp_path, overrides=limited) as place:
        name, double, agent = await place.ready()
        async with place.room.client(agent) as client:
            assert not (await place.call(client, f"{name}_add", {"a": 1, "b": 2})).is_error
            for _ in range(3):
                last = await client.call_tool(f"{name}_add", {"a": 1, "b": 2})
            assert "called this provider too often" in text(last)
        sent = len(double.calls)
        other = await place.room.agent("bob")
        async with place.room.client(other) as client:
            told = await client.call_tool(f"{name}_add", {"a": 1, "b": 2})
        assert link_of(told) is not None
        assert len(double.calls) == sent


async def test_a_step_up_leads_to_a_link_with_the_added_permission(place: RemoteRoom) -> None:
    name, double, agent = await place.ready(scope_of={"note": "mcp:write"})
    async with place.room.client(agent) as client:
        assert not (await place.call(client, f"{name}_add", {"a": 1, "b": 2})).is_error
        first = await client.call_tool(f"{name}_note", {"text": "x"})  # asks for the permission for this tool
        await place.follow(link_of(first) or "")
        told = await client.call_tool(f"{name}_note", {"text": "x"})
        assert told.is_error
        assert "mcp:write" in text(told)
        await place.follow(link_of(told) or "")
        assert {*double.asked[-1]["scope"].split()} == {"mcp:read", "mcp:write", "offline_access"}
        done = await client.call_tool(f"{name}_note", {"text": "x"})
        assert not done.is_error, text(done)
        assert not (await client.call_tool(f"{name}_add", {"a": 1, "b": 2})).is_error  # with the same account
        other = await place.room.agent()
        async with place.room.client(other) as second:
            link = link_of(await second.call_tool(f"{name}_add", {"a": 1, "b": 2})) or ""
        page = await place.person.open(link)
        page = await place.person.submit(page, {"account": NEW_ACCOUNT}, form="/connect/", button=("decision", "allow"))
        await place.person.open(await agree(page.headers["location"]))  # it replaces the only account there
        assert {*double.asked[-1]["scope"].split()} == {"mcp:read", "mcp:write", "offline_access"}
        double.scope_of["note"] = "admin:everything"  # a scope that the server doesn't publish
        refused = await client.call_tool(f"{name}_note", {"text": "x"})
        assert refused.is_error
        assert link_of(refused) is None


async def test_a_disconnect_revokes_at_the_server_which_can_be_removed_then(place: RemoteRoom) -> None:
    name, double, agent = await place.ready()
    async with place.room.client(agent) as client:
        await place.call(client, f"{name}_add", {"a": 1, "b": 2})
    with pytest.raises(ChangeRefused, match="still connected"):
        await servers.remove(place.operator, name)
    (connection,) = [
        one
        for one in await connections.list_connections(place.deployment.database, agent.principal.user_id)
        if one.provider == name
    ]
    page = await place.person.open(f"/connections/{connection.id}/disconnect")
    page = await place.person.submit(page, form="disconnect")
    assert page.status_code == 200
    async with asyncio.timeout(30):
        while not double.revoked:
            await asyncio.sleep(0.05)
    await servers.remove(place.operator, name)
    assert place.deployment.catalog.get(name) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resource": "https://victim.example/mcp"}, "another resource"),
        ({"issuer": "http://169.254.169.254/latest"}, "can't be asked"),
        ({"issuer": "https://10.0.0.5"}, "can't be asked"),
        ({"metadata": {"issuer": "https://other.example"}}, "no usable metadata"),
        ({"metadata": {"code_challenge_methods_supported": ["plain"]}}, "PKCE"),
        ({"metadata": {"token_endpoint": "http://169.254.169.254/token"}}, "token_url"),
        ({"metadata": {"token_endpoint": None}}, "token_endpoint"),
        ({"metadata": {"authorization_endpoint": "javascript:alert(1)"}}, "authorize_url"),
        ({"metadata": {"registration_endpoint": "http://169.254.169.254/register"}}, "can't be registered"),
        ({"metadata": {"registration_endpoint": None}}, "--client-id"),
        ({"challenge": 'Bearer resource_metadata="http://169.254.169.254/x"'}, "can't be read"),
        ({"challenge": 'Bearer resource_metadata="http://localhost.evil.internal/x"'}, "can't be read"),
    ],
)
async def test_a_server_that_leads_elsewhere_is_not_added(
    place: RemoteRoom, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ChangeRefused, match=said):
        await place.add(**changes)  # `ready` adds the same server without that reason


async def test_an_authorization_server_at_another_host_must_be_named(place: RemoteRoom) -> None:
    def elsewhere(name: str, **metadata: Any) -> Any:
        issuer = f"{place.site.origin.replace('127.0.0.1', 'localhost')}/{name}"
        return place.site.add(name, issuer=issuer, metadata={"issuer": issuer, **metadata})

    double = elsewhere("other1")
    wanted = servers.NewServer("other1", double.url)
    with pytest.raises(ChangeRefused, match=f"--issuer {double.issuer}"):
        await servers.add(place.operator, wanted)
    with pytest.raises(ChangeRefused, match="isn't https"):
        await servers.add(place.operator, replace(wanted, issuer="https://wrong.example"))
    await servers.add(place.operator, replace(wanted, issuer=double.issuer))
    double = elsewhere("other2", protected_resources=["https://other.example/mcp"])
    with pytest.raises(ChangeRefused, match="doesn't know it"):
        await servers.add(place.operator, servers.NewServer("other2", double.url, issuer=double.issuer))
    double.metadata["protected_resources"] = [double.url]
    await servers.add(place.operator, servers.NewServer("other2", double.url))


async def test_where_secrets_end_the_vault_registers_without_one(place: RemoteRoom) -> None:
    end = 1_900_000_000
    methods = {"token_endpoint_auth_methods_supported": ["client_secret_post", "none"]}
    name, double = await place.add(secret_ends=end, metadata=methods)
    assert [one["token_endpoint_auth_method"] for one in double.registrations] == ["client_secret_post", "none"]
    assert place.deployment.live.current.entered[name].client_id == "client-2"
    looked = await place.look(name, await place.room.agent())
    assert not looked.is_error, text(looked)
    lasting, other = await place.add(metadata=methods)
    assert [one["token_endpoint_auth_method"] for one in other.registrations] == ["client_secret_post"]
    assert place.deployment.live.current.entered[lasting].client_secret


def test_a_registration_says_when_its_secret_ends_and_where_it_is_renewed() -> None:
    about = {"client_id": "a", "client_secret": "made-up", "token_endpoint_auth_method": "client_secret_post"}
    place = {"registration_client_uri": "https://as.example/register/a", "registration_access_token": "manage"}
    read = partial(_read_registration, wanted="none", policy=AddressPolicy(), at="https://as.example/register")
    assert read({**about, "client_secret_expires_at": 0}).ends_at is None
    found = read({**about, **place, "client_secret_expires_at": 1_900_000_000})
    assert (found.ends_at, found.management_url) == (1_900_000_000, place["registration_client_uri"])
    assert found.management_token == "manage"
    assert "manage" not in repr(found).replace("management_url", "")
    for wrong in (
        {"registration_client_uri": "https://other.example/register/a"},
        {"registration_client_uri": "http://as.example/register/a"},
        {"registration_access_token": "two words"},
        {"registration_access_token": ""},
    ):
        assert read({**about, **place, **wrong}).management_url == "", wrong


async def test_names_and_addresses_that_cannot_be_told_apart_are_refused(place: RemoteRoom) -> None:
    name, double = await place.add()
    for wrong, url in (
        (name, double.url),
        ("slack", double.url),
        (f"{name}-x", double.url),
        ("other", f"{double.url}?a=1"),
        ("other", "http://169.254.169.254/mcp"),
        ("other", f"{place.room.url}/mcp"),
        ("other", f"{place.room.url.replace('http://', 'HTTP://')}/mcp"),
    ):
        with pytest.raises(ChangeRefused):
            await servers.add(place.operator, servers.NewServer(wrong, url))


async def test_an_admins_page_of_a_server_opens(place: RemoteRoom, known_server: Any) -> None:
    name, _, _ = known_server
    page = await place.person.open(f"/administration/providers/{name}")
    assert page.status_code == 200, page.text
    assert name in (await place.person.open("/administration/providers")).text
    assert (await place.person.open(f"/connections/connect?provider={name}")).status_code == 200

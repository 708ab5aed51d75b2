"""MCP servers without OAuth: each person enters a key, sealed and sent only in one header, or nothing at all."""

from __future__ import annotations

from typing import Any

import pytest

from server.administration.actor import ChangeRefused
from server.remote import servers
from server.remote.servers import NewServer, key_of
from tests.mcp.remote.remote_room import RemoteRoom, link_of, text
from vault import connections

KEY = "made-up-key-0123456789"


async def enter(place: RemoteRoom, link: str, answers: dict[str, Any]) -> Any:
    """Alice follows the link to the page, enters the key, and submits it."""
    page = await place.person.open(link)
    page = await place.person.submit(page, form="/connect/", button=("decision", "allow"))
    assert page.url.path.startswith("/connect/credential/"), page.url
    return await place.person.submit(page, answers, form="/connect/credential/")


@pytest.mark.parametrize(
    ("header", "sent"),
    [("", ("authorization", f"Bearer {KEY}")), ("X-Api-Key", ("x-api-key", KEY))],
)
async def test_a_key_is_entered_and_goes_to_the_server_in_its_header_only(
    place: RemoteRoom, header: str, sent: tuple[str, str]
) -> None:
    name = f"keyed{len(sent[0])}"
    double = place.site.add(name, key=sent)
    await servers.add(place.operator, NewServer(name, double.url, key=key_of("key", header)))
    agent = await place.room.agent()
    async with place.room.client(agent, mode="auto") as client:
        told = await client.call_tool(f"{name}_tools", {})
        done = await enter(place, link_of(told) or "", {"field.key": KEY, "label": "mine"})
        assert done.status_code == 200, done.text
        assert KEY not in done.text
        looked = await client.call_tool(f"{name}_tools", {})
        assert not looked.is_error, text(looked)
        await place.accept(name, reads=["add", "note"])
        result = await place.call(client, f"{name}_add", {"a": 2, "b": 3})
        assert result.structured_content["result"] == {"sum": 5}, text(result)
        double.results["add"] = {"content": [], "structuredContent": {"sum": 5, "echo": KEY}}
        assert KEY not in str(await client.call_tool(f"{name}_add", {"a": 2, "b": 3}))
    with_key = [one for one in double.seen if KEY in str(one)]
    assert with_key
    assert {name for one in with_key for name, value in one.items() if KEY in value} == {sent[0]}
    stored = await place.deployment.database.fetch("select * from connections where provider = :name", {"name": name})
    assert KEY not in str([tuple(row) for row in stored])
    page = await place.person.open(f"/administration/tools/servers/{name}")
    assert sent[0] in page.text.lower()


async def test_a_wrong_key_is_told_and_another_one_replaces_it(place: RemoteRoom) -> None:
    double = place.site.add("rekeyed", key=("x-api-key", KEY))
    await servers.add(place.operator, NewServer("rekeyed", double.url, key=key_of("key", "X-Api-Key")))
    agent = await place.room.agent()
    async with place.room.client(agent, mode="auto") as client:
        told = await client.call_tool("rekeyed_tools", {})
        await enter(place, link_of(told) or "", {"field.key": "another-made-up-key", "label": "mine"})
        refused = await client.call_tool("rekeyed_tools", {})
        assert refused.is_error
        found = await connections.list_connections(place.deployment.database, agent.principal.user_id)
        (held,) = [one for one in found if one.provider == "rekeyed"]
        path = f"/connections/{held.id}/reconnect"
        page = await place.person.submit(await place.person.open(f"/connections/{held.id}"), form=path)
        assert page.url.path.startswith("/connect/credential/"), page.text
        await place.person.submit(page, {"field.key": KEY}, form="/connect/credential/")
        again = await client.call_tool("rekeyed_tools", {})
        assert not again.is_error, text(again)


async def test_an_open_server_is_used_by_permission_and_gets_no_credential(place: RemoteRoom) -> None:
    double = place.site.add("opened", is_open=True)
    await servers.add(place.operator, NewServer("opened", double.url, key=key_of("open", "")))
    agent = await place.room.agent()
    async with place.room.client(agent, mode="auto") as client:
        told = await client.call_tool("opened_tools", {})
        page = await place.person.open(link_of(told) or "")
        page = await place.person.submit(page, form="/connect/", button=("decision", "allow"))
        assert "requires no sign-in" in page.text
        assert "field.key" not in page.text
        await place.person.submit(page, {"label": "Docs"}, form="/connect/credential/")
        looked = await client.call_tool("opened_tools", {})
        assert not looked.is_error, text(looked)
        await place.accept("opened", reads=["add", "note"])
        result = await place.call(client, "opened_add", {"a": 2, "b": 3})
        assert result.structured_content["result"] == {"sum": 5}, text(result)
        noted = await place.call(client, "opened_note", {"text": "open"})
        assert "open" in text(noted), "nothing is masked"
    assert not [one for one in double.seen if "authorization" in one or "open" in one.values()]


async def test_what_a_server_asks_for_must_fit_what_the_operator_says(place: RemoteRoom) -> None:
    keyed = place.site.add("fits", key=("x-api-key", KEY))
    with pytest.raises(ChangeRefused, match="isn't open"):
        await servers.add(place.operator, NewServer("fits", keyed.url, key=key_of("open", "")))
    opened = place.site.add("free", is_open=True)
    with pytest.raises(ChangeRefused, match="--open"):
        await servers.add(place.operator, NewServer("free", opened.url))
    with pytest.raises(ChangeRefused, match="no MCP server answers"):
        await servers.add(
            place.operator, NewServer("gone", f"{place.site.origin}/gone", key=key_of("key", "X-Api-Key"))
        )
    for wrong in ("Host", "mcp-session-id", "X Key", "X-Key: a b", "X-Key: A\r\nB", "Content-Type"):
        with pytest.raises(ChangeRefused, match="Name a header"):
            key_of("key", wrong)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "refuses to begin a session"),
        (401, "asks for a credential"),
        (403, "asks for a credential"),
        (308, "it redirects"),
        (500, r"no MCP server answers there \(status 500\)"),
    ],
)
async def test_what_an_open_server_answers_is_told_as_what_it_is(place: RemoteRoom, status: int, said: str) -> None:
    double = place.site.add("statuses", is_open=True, status=status)
    with pytest.raises(ChangeRefused, match=said):
        await servers.add(place.operator, NewServer("statuses", double.url, key=key_of("open", "")))
    double.status = 0
    await servers.add(place.operator, NewServer("statuses", double.url, key=key_of("open", "")))
    await servers.remove(place.operator, "statuses")


def test_a_key_in_place_of_a_scheme_is_neither_kept_nor_repeated() -> None:
    for wrong in ("X-Api-Key: sk_live_abc", "X-Api-Key: " + "sk" * 40, "Authorization: Bearer sk1", "sk live"):
        with pytest.raises(ChangeRefused, match="Don't enter a key") as refused:
            key_of("key", wrong)
        assert "sk" not in refused.value.description
    for right in ("Authorization: Bearer", "Authorization: Klaviyo-API-Key", "X-Api-Key", "X-Api-Key:"):
        found = key_of("key", right)
        assert found is not None
        assert right.startswith(found.header)


def test_only_a_server_that_takes_a_key_has_a_header_for_it() -> None:
    for kind in ("oauth", "open"):
        with pytest.raises(ChangeRefused, match="only for a server that takes a key"):
            key_of(kind, "X-Api-Key")
        key_of(kind, " ")
    assert key_of("oauth", "") is None


async def test_a_keyed_server_is_added_on_the_page(place: RemoteRoom) -> None:
    double = place.site.add("keypage", key=("x-api-key", KEY))
    page = await place.person.open("/administration/tools/servers")
    sent = {"url": double.url, "name": "keypage", "sign_in": "key", "key_header": "Host"}
    wrong = await place.person.submit(page, sent, form="/administration/tools/servers")
    assert wrong.status_code == 400
    assert 'value="Host"' not in wrong.text
    assert 'value="keypage"' in wrong.text
    made = await place.person.submit(page, {**sent, "key_header": "X-Api-Key"}, form="/administration/tools/servers")
    assert made.status_code == 200, made.text
    assert "X-Api-Key" in made.text
    assert (await place.person.open("/administration/providers/keypage")).status_code == 200

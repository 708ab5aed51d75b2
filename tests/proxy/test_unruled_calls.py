"""Calls that no request rule judges: off by default; if on, proxy and tools restrict them to host and method."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp_types import CallToolResult

from providers.api import rules
from providers.definitions.catalog import ProviderFileRefused, ProviderOverrides, load_catalog
from tests.support.doubles.scripted_server import Reply, json_reply
from tests.support.harness import PASSWORD
from tests.support.inspection import read_events
from tests.support.person import Person
from tests.support.rooms.mcp_room import text_of
from tests.support.rooms.proxy_room import UPSTREAM_TOKEN, ProxyHandle, ProxyRoom, post_reply, proxy_room

READ, CALL = "any:read", "any:call"
HARVEST = frozenset({"read", "write"})


@pytest.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProxyRoom]:
    """Harvest is open for any call, Freeagent too but without approvals, Gumroad only for reading; Lever isn't open."""
    async with proxy_room(
        tmp_path_factory.mktemp("unruled"),
        others={"harvest": "main", "freeagent": "main", "gumroad": "main", "lever": "main"},
        settings={
            "harvest": {"unruled_calls": "any"},
            "freeagent": {"unruled_calls": "any", "unruled_approval": False},
            "gumroad": {"unruled_calls": "read"},
            "github": {"unruled_calls": "read"},
        },
    ) as room:
        yield room


@pytest.fixture
def room(shared_room: ProxyRoom) -> ProxyRoom:
    shared_room.provider.arrivals.clear()
    shared_room.provider.answer = post_reply
    return shared_room


async def handle(room: ProxyRoom, provider: str, *scopes: str, granted: frozenset[str] = HARVEST) -> ProxyHandle:
    """A handle for exactly these scopes, of an account that granted `granted` at the provider."""
    agent = await room.agent()
    connection = await room.account(
        agent, provider=provider, name=f"{provider}-1", scopes=granted, delegated=frozenset(scopes)
    )
    return await room.handle(agent, connection, scopes=frozenset(scopes))


async def refusal(one: ProxyHandle, method: str, path: str, *, api: str = "main", **options: object) -> str:
    """The code of the vault's refusal; empty if the call passed."""
    return (await one.call(method, path, api=api, **options)).headers.get("token-vault-refusal", "")


async def test_any_read_lets_gets_through_and_nothing_else(room: ProxyRoom) -> None:
    one = await handle(room, "gumroad", READ)
    answer = await one.call("GET", "/products/a%20b?page=2&fields=x", api="main")
    assert answer.status_code == 200
    (arrival,) = room.provider.arrivals
    assert (arrival.target, arrival.headers["authorization"]) == (
        "/gumroad/products/a%20b?page=2&fields=x",
        f"Bearer {UPSTREAM_TOKEN}",
    )
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert await refusal(one, method, "/products/a") == "call_not_allowed"
    assert len(room.provider.arrivals) == 1
    (event,) = [one for one in await room.events(one) if one.outcome == "ok"]
    assert (event.details["narrowing"], event.details["path"]) == ("host_only", "/{+}")


async def test_without_the_setting_there_is_no_such_scope_and_no_call(room: ProxyRoom) -> None:
    one = await handle(room, "lever", READ, CALL, *HARVEST)
    assert await refusal(one, "GET", "/products") == "call_not_allowed"
    assert not room.provider.arrivals


async def test_any_call_reaches_every_method_only_where_the_operator_asks_for_no_approval(room: ProxyRoom) -> None:
    asked = await handle(room, "harvest", CALL)
    assert await refusal(asked, "POST", "/projects", json={"name": "x"}) == "approval_required"
    free = await handle(room, "freeagent", CALL)
    for method in ("POST", "PUT", "PATCH", "DELETE", "GET"):
        assert await refusal(free, method, "/projects/1") == ""
    assert [one.method for one in room.provider.arrivals] == ["POST", "PUT", "PATCH", "DELETE", "GET"]
    assert {one.path for one in room.provider.arrivals} == {"/freeagent/projects/1"}


@pytest.mark.parametrize(
    "path",
    [
        *("/%2e%2e/lever/x", "//evil.example/x", "/x//y", "/x;y/z", "/a%2Fb", "/a%5cb", "/a%252e"),
        *("/x/.%2e/.%2e/lever", "/%ef%bc%8e%ef%bc%8e/x", "/x%00", "/x%0d%0aA:b", "/@evil.example/%2e%2e/x"),
    ],
)
async def test_no_path_leads_out_of_the_api(room: ProxyRoom, path: str) -> None:
    one = await handle(room, "gumroad", READ)
    assert await refusal(one, "GET", path) == "ambiguous_path"
    assert not room.provider.arrivals
    assert await refusal(one, "GET", "/x/y") == ""  # the twin


@pytest.mark.parametrize("query", ["_method=DELETE", "method=DELETE", "X-HTTP-Method-Override=PUT", "verb=POST"])
async def test_a_read_does_not_become_a_write_by_a_parameter(room: ProxyRoom, query: str) -> None:
    one = await handle(room, "gumroad", READ)
    assert await refusal(one, "GET", f"/x?{query}") == "method_override"
    assert await refusal(one, "GET", "/x?state=open") == ""
    assert await refusal(one, "GET", "/x", headers={"x-http-method-override": "DELETE"}) == "method_override"
    assert len(room.provider.arrivals) == 1


async def test_a_long_name_is_read_at_once(room: ProxyRoom) -> None:
    one = await handle(room, "gumroad", READ)
    assert await refusal(one, "GET", f"/x?{'_' * 70}=1") == ""
    assert await refusal(one, "GET", f"/x?{'_' * 70}method=DELETE") == "method_override"


async def test_no_credential_is_sent_along_and_none_comes_back(room: ProxyRoom) -> None:
    one = await handle(room, "gumroad", READ)
    assert await refusal(one, "GET", "/x?access_token=another") == "credential_refused"
    room.provider.answer = lambda _: json_reply({"you": UPSTREAM_TOKEN, "name": "x"})
    answer = await one.call("GET", "/x", api="main")
    assert UPSTREAM_TOKEN not in answer.text
    assert answer.json()["name"] == "x"


async def test_a_redirect_to_another_host_is_not_handed_on(room: ProxyRoom) -> None:
    one = await handle(room, "gumroad", READ)
    for place in ("https://evil.example/x", f"{room.provider.url}/lever/x", "/gumroad/../lever/x"):
        room.provider.answer = lambda _, place=place: Reply(302, headers={"Location": place})
        assert await refusal(one, "GET", "/x") == "redirect_refused"
    room.provider.answer = lambda _: Reply(302, headers={"Location": f"{room.provider.url}/gumroad/y"})
    answer = await one.call("GET", "/x", api="main", follow_redirects=False)
    assert answer.headers["location"] == f"{one.base('main')}/y"


async def test_a_rule_of_the_file_still_decides_where_there_is_one(room: ProxyRoom) -> None:
    one = await handle(room, "github", READ, granted=frozenset({"contents:read", "issues:read"}))
    assert await refusal(one, "GET", "/repos/alice/notes/readme", api="rest") == "scope_missing"
    assert await refusal(one, "GET", "/a/path/without/a/rule", api="rest") == ""


def _open(name: str, calls: str) -> object:
    return load_catalog(overrides={name: ProviderOverrides(client_id="x", unruled_calls=calls)}).provider(name)  # pyright: ignore[reportArgumentType] -- the tests' own values


def test_what_a_file_names_as_unsafe_or_closed_stays_so() -> None:
    with pytest.raises(
        ProviderFileRefused, match=r'slack.unruled_calls: a GET of its API can change something; use "any"'
    ):
        _open("slack", "read")
    with pytest.raises(
        ProviderFileRefused, match=r"facebook.unruled_calls: its API's responses can contain credentials"
    ):
        _open("facebook", "any")
    slack, instagram = _open("slack", "any"), _open("instagram", "any")
    read, call = frozenset({READ}), frozenset({CALL})
    posting = rules.Call("web", "GET", "/chat.meMessage")
    assert not rules.allows(slack, posting, read)
    assert rules.allows(slack, posting, call)
    for path in ("/access_token", "/Access_Token", "/refresh_access_token.json"):
        assert not rules.allows(instagram, rules.Call("main", "GET", path), call)
    assert rules.allows(instagram, rules.Call("main", "GET", "/access_tokens/1"), read)


def test_the_oauth_endpoints_below_an_api_are_closed() -> None:
    zoho = next(one for one in load_catalog().all_providers() if _has_endpoint_below(one))
    opened = _open(zoho.name, "any")
    hosts, (api, base) = zoho.hosts, next(iter(zoho.apis.items()))
    below = [
        url.removeprefix(base) for url in (hosts.token_url, hosts.revoke_url) if url and url.startswith(base + "/")
    ]
    for path in below:
        found = rules.of_path(opened, api=api, method="POST", path=path)
        assert [one.tells_secrets for one in found] == [True]


def _has_endpoint_below(provider: object) -> bool:
    (base, *_) = (*provider.apis.values(), "-")  # pyright: ignore[reportAttributeAccessIssue] -- a Provider
    return provider.audience is None and "{" not in base and provider.hosts.token_url.startswith(base + "/")  # pyright: ignore


# The tools


async def tool(room: ProxyRoom, one: ProxyHandle, name: str, arguments: Mapping[str, object]) -> CallToolResult:
    async with room.client(one.agent) as client:
        return await client.call_tool(name, dict(arguments))


async def test_the_tool_reads_and_says_that_only_the_host_is_checked(room: ProxyRoom) -> None:
    one = await handle(room, "gumroad", READ)
    room.provider.answer = lambda _: json_reply([{"id": 1}])
    answer = await tool(room, one, "gumroad_api_get", {"path": "/products/a%20b", "query": {"page": 2, "live": True}})
    assert not answer.is_error, text_of(answer)
    assert answer.structured_content["answer"] == {"items": [{"id": 1}]}
    assert "host_only: no request rule applies; the vault checks only host and method" in text_of(answer)
    (arrival,) = room.provider.arrivals
    assert (arrival.method, arrival.target) == ("GET", "/gumroad/products/a%20b?page=2&live=true")
    events = await read_events(room.vault.deployment)
    exchanged = [event for event in events if event.details.get("purpose") == "gumroad_api_get"]
    assert exchanged[-1].details["narrowing"] == "host_only"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        *((path, {}) for path in ("/../lever", "//x", "/a%2Fb", "/a{}b", "/x;y", "/%2e%2e/x")),
        *(("/x", {name: "y"}) for name in ("access_token", "_method", "method")),
    ],
)
async def test_the_tool_refuses_what_the_proxy_refuses(room: ProxyRoom, path: str, query: Mapping[str, str]) -> None:
    one = await handle(room, "gumroad", READ)
    answer = await tool(room, one, "gumroad_api_get", {"path": path, "query": query})
    assert answer.is_error
    assert "othing was sent" in text_of(answer)
    assert not room.provider.arrivals
    assert not (await tool(room, one, "gumroad_api_get", {"path": "/x", "query": {"y": "z"}})).is_error


async def test_a_write_runs_once_after_the_person_approved_exactly_it(room: ProxyRoom) -> None:
    await room.vault.add_user("unruled-person")
    agent = await room.agent("unruled-person")
    connection = await room.account(agent, provider="harvest", name="h-2", scopes=HARVEST, delegated=frozenset({CALL}))
    one = await room.handle(agent, connection, scopes=frozenset({READ}))
    wanted = {"method": "PATCH", "path": "/projects/1", "body": {"name": "New"}}
    asked = await tool(room, one, "harvest_api_call", wanted)
    assert asked.is_error
    assert not room.provider.arrivals
    async with Person(room.url) as browser:
        await browser.sign_in("unruled-person", PASSWORD)
        page = await browser.open(str(asked.meta["io.github.mcp-token-vault/connect"]["url"]))
        assert "/projects/1" in page.text
        await browser.submit(page, form="/approvals/", button=("decision", "allow"))
    assert not (await tool(room, one, "harvest_api_call", wanted)).is_error
    assert (await tool(room, one, "harvest_api_call", wanted)).is_error
    (arrival,) = room.provider.arrivals
    assert (arrival.method, json.loads(arrival.body)) == ("PATCH", {"name": "New"})


async def test_the_person_sees_what_they_allow_and_the_provider_is_never_asked_for_it(room: ProxyRoom) -> None:
    await room.vault.add_user("seeing-person")
    agent = await room.agent("seeing-person")
    connection = await room.account(agent, provider="gumroad", name="g-3", scopes=HARVEST, delegated=frozenset())
    async with Person(room.url) as browser:
        await browser.sign_in("seeing-person", PASSWORD)
        page = await browser.open(f"{room.url}/agents/{agent.principal.client_id}")
        assert "Any read (checked: host and method only)" in page.text
    one = await room.handle(agent, connection, scopes=frozenset({READ}))
    missing = await tool(room, one, "gumroad_api_get", {"path": "/x"})
    async with Person(room.url) as browser:
        await browser.sign_in("seeing-person", PASSWORD)
        page = await browser.open(str(missing.meta["io.github.mcp-token-vault/connect"]["url"]))
        assert "Any read" in page.text
        await browser.submit(page, form="/connect/", button=("decision", "allow"))
    assert not (await tool(room, one, "gumroad_api_get", {"path": "/x"})).is_error


async def test_connecting_asks_the_provider_for_its_own_scopes_only(room: ProxyRoom) -> None:
    await room.vault.add_user("connecting-person")
    agent = await room.agent("connecting-person")
    async with room.client(agent) as client:
        missing = await client.call_tool("gumroad_api_get", {"path": "/x"})
    async with Person(room.url) as browser:
        await browser.sign_in("connecting-person", PASSWORD)
        page = await browser.open(str(missing.meta["io.github.mcp-token-vault/connect"]["url"]))
        answer = await browser.submit(page, form="/connect/", button=("decision", "allow"))
    asked = parse_qs(urlsplit(answer.headers["location"]).query)["scope"]
    gumroad = room.vault.deployment.catalog.provider("gumroad")
    assert frozenset(asked[0].split(gumroad.scope.separator)) >= gumroad.scope.default
    assert READ not in asked[0]

"""Parameters of calls: none changes the method, and none shows more than the caller may see."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from providers.api.rules import Call, allows, authority
from providers.definitions.catalog import SHELF, check_file, load_catalog
from tests.providers.test_providers_catalog import GOOD, written
from tests.support.proxy_room import UPSTREAM_TOKEN, Proxied, ProxyRoom, proxy_room
from tests.support.scripted import Arrival, Reply, json_reply

CATALOG = load_catalog()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProxyRoom]:
    others = {"microsoft": "graph", "box": "content", "facebook": "main", "salesforce": "main"}
    async with proxy_room(tmp_path_factory.mktemp("data"), others=others) as opened:
        opened.provider.answer = answered
        yield opened


pytestmark = pytest.mark.asyncio(loop_scope="module")


def answered(arrival: Arrival) -> Reply:
    """What the provider answers: a request for a narrower token gets one that can do everything."""
    if not arrival.path.endswith("/token"):
        return json_reply({"ok": True})
    wide = " ".join(CATALOG.provider(arrival.path.split("/")[1]).scopes)
    content = {"access_token": UPSTREAM_TOKEN, "token_type": "bearer", "expires_in": 3600, "scope": wide}
    return json_reply(content)


def calls(place: ProxyRoom) -> list[Arrival]:
    """What reached an API."""
    return [one for one in place.provider.arrivals if not one.path.endswith("/token")]


async def ready(place: ProxyRoom, provider: str, *, granted: set[str], scopes: set[str]) -> Proxied:
    agent = await place.agent()
    connection = await place.account(agent, provider=provider, scopes=frozenset(granted))
    place.provider.arrivals.clear()
    return await place.handle(agent, connection, scopes=frozenset(scopes))


# Methods


@pytest.mark.parametrize(
    ("provider", "api", "path", "scopes", "name"),
    [
        ("facebook", "main", "/me/feed", {"pages_manage_posts"}, "method"),
        ("facebook", "main", "/me/feed", {"pages_manage_posts"}, "Method"),
        ("facebook", "main", "/me/feed", {"pages_manage_posts"}, "method[]"),
        ("salesforce", "main", "/v63.0/sobjects/Task", {"api"}, "_HttpMethod"),
        ("salesforce", "main", "/v63.0/sobjects/Task", {"api"}, "_httpmethod"),
        ("slack", "web", "/chat.postMessage", {"chat:write"}, "_method"),
        ("slack", "web", "/chat.postMessage", {"chat:write"}, "X-HTTP-Method-Override"),
    ],
)
async def test_a_parameter_that_changes_the_method_is_refused_in_query_and_body(
    place: ProxyRoom, provider: str, api: str, path: str, scopes: set[str], name: str
) -> None:
    handle = await ready(place, provider, granted=scopes, scopes=scopes)
    sent = [{"params": {name: "get"}}, {"data": {name: "get"}}]
    if CATALOG.provider(provider).overrides.parameters:  # type: ignore[union-attr]
        sent.append({"json": {name: "get", "message": "x"}})
    for one in sent:
        answer = await handle.call("POST", path, api=api, **one)
        assert (answer.status_code, answer.headers.get("token-vault-refusal")) == (400, "method_override"), one
    assert calls(place) == []
    twin = await handle.call("POST", path, api=api, json={"message": "get"})
    assert "token-vault-refusal" not in twin.headers
    assert len(calls(place)) == 1


async def test_where_parameters_change_the_method_a_body_that_nobody_can_read_is_refused(place: ProxyRoom) -> None:
    scopes = {"pages_manage_posts"}
    handle = await ready(place, "facebook", granted=scopes, scopes=scopes)
    for kind in ("text/plain", "application/octet-stream", ""):
        headers = {"content-type": kind} if kind else {}
        answer = await handle.call("POST", "/me/feed", api="main", content=b"method=delete", headers=headers)
        assert (answer.status_code, answer.headers["token-vault-refusal"]) == (415, "unsupported_body")
    assert calls(place) == []


async def test_no_parameter_of_a_tool_changes_the_method() -> None:
    facebook = CATALOG.provider("facebook")
    scopes = frozenset({"pages_manage_posts"})
    assert not allows(facebook, Call("main", "POST", "/1/feed", {"message": "x", "method": "get"}), scopes)
    assert allows(facebook, Call("main", "POST", "/1/feed", {"message": "x"}), scopes)


async def test_every_file_with_rules_says_that_somebody_looked_for_overrides(tmp_path: Path) -> None:
    for path in SHELF.glob("*.toml"):
        provider = CATALOG.provider(path.stem)
        assert not provider.rules or (provider.overrides is not None and provider.overrides.sources), path.stem
    without = GOOD.replace('[overrides]\nparameters = []\nsources = ["docs"]\n', "")
    assert any("overrides: missing" in line for line in check_file(written(tmp_path, without)))
    nobody = GOOD.replace('\nsources = ["docs"]', "")
    assert any("overrides.sources: missing" in line for line in check_file(written(tmp_path, nobody)))
    assert check_file(written(tmp_path, GOOD)) == []


# Queries


@pytest.mark.parametrize(
    ("provider", "api", "path", "granted", "scopes", "refused", "passes"),
    [
        (
            *("microsoft", "graph", "/me/messages", {"Mail.Read", "Files.Read"}, {"Mail.Read"}),
            ("$expand=attachments", "expand=attachments", "%24expand=x", "$top=1;$expand=x", "$Expand=x", "x=1"),
            "$select=id,subject&$top=5",
        ),
        (
            *("microsoft", "graph", "/me", {"User.Read", "Files.Read"}, {"User.Read"}),
            ("$expand=manager", "$select=mailboxSettings", "$select=id,mailboxSettings"),
            "$select=id,mail",
        ),
        (
            *("box", "content", "/2.0/files/1", {"base_preview", "item_share"}, {"base_preview"}),
            ("fields=shared_link", "fields=name,shared_link", "fields=permissions", "extra=1"),
            "fields=name,size",
        ),
        (
            *("google", "calendar", "/calendars/primary/events"),
            {"https://www.googleapis.com/auth/calendar.events", "https://www.googleapis.com/auth/gmail.readonly"},
            {"https://www.googleapis.com/auth/calendar.events"},
            ("expand=x", "callback=x", "$.xgafv=2"),
            "timeMin=2026-01-01T00:00:00Z&fields=items(id)&alt=json",
        ),
        (
            *("slack", "web", "/users.list", {"users:read", "chat:write"}, {"users:read"}),
            ("include_secrets=1",),
            "limit=5",
        ),
    ],
)
async def test_a_parameter_that_no_rule_knows_is_refused_where_the_token_can_do_more(
    place: ProxyRoom,
    provider: str,
    api: str,
    path: str,
    granted: set[str],
    scopes: set[str],
    refused: tuple[str, ...],
    passes: str,
) -> None:
    handle = await ready(place, provider, granted=granted, scopes=scopes)
    for query in refused:
        answer = await handle.call("GET", f"{path}?{query}", api=api)
        assert answer.status_code in {400, 403}, query
        assert answer.headers["token-vault-refusal"] in {"unknown_parameter", "call_not_allowed", "ambiguous_parameter"}
    assert calls(place) == []
    assert "token-vault-refusal" not in (await handle.call("GET", f"{path}?{passes}", api=api)).headers
    assert len(calls(place)) == 1


async def test_a_token_that_can_do_no_more_may_be_asked_anything(place: ProxyRoom) -> None:
    handle = await ready(place, "microsoft", granted={"Mail.Read"}, scopes={"Mail.Read"})
    answer = await handle.call("GET", "/me/messages?$expand=attachments", api="graph")
    assert "token-vault-refusal" not in answer.headers
    assert len(calls(place)) == 1


# Permissions that belong to the app


async def test_a_workflow_needs_the_permission_that_the_host_wants_for_it(place: ProxyRoom) -> None:
    everything = {"contents:write", "workflows:write"}
    writer = await ready(place, "github", granted=everything, scopes={"contents:write"})
    both = await ready(place, "github", granted=everything, scopes=everything)
    below = "/repos/o/r/contents"
    for path in (
        *(f"{below}/.github/workflows/a.yml", f"{below}/.github/workflows/x/a.yml", f"{below}/.GitHub/Workflows/a.yml"),
        *(
            f"{below}/.github/workflow%73/a.yml",
            f"{below}/.github%2Fworkflows%2Fa.yml",
            f"{below}/.github/workflows./a",
        ),
    ):
        for method in ("PUT", "DELETE"):
            answer = await writer.call(method, path, api="rest", json={"message": "x"})
            assert answer.status_code in {400, 403}, path
            assert "token-vault-refusal" in answer.headers
    for path in ("/repos/o/r/pulls/1/merge", "/repos/o/r/releases"):  # commits may hold workflows; nobody sees which
        method = "PUT" if path.endswith("merge") else "POST"
        assert (await writer.call(method, path, api="rest", json={})).headers[
            "token-vault-refusal"
        ] == "call_not_allowed"
        assert "token-vault-refusal" not in (await both.call(method, path, api="rest", json={})).headers
    place.provider.arrivals.clear()
    for handle, path in ((both, f"{below}/.github/workflows/a.yml"), (writer, f"{below}/.github/CODEOWNERS")):
        answer = await handle.call("PUT", path, api="rest", json={"message": "x"})
        assert "token-vault-refusal" not in answer.headers, answer.text
    assert len(calls(place)) == 2


async def test_a_token_of_an_app_counts_as_holding_all_that_the_app_may_hold(place: ProxyRoom) -> None:
    granted = {"contents:write", "metadata:read"}  # what was asked for; the app may have been given more
    handle = await ready(place, "github", granted=granted, scopes=granted)
    answer = await handle.call("PUT", "/repos/o/r/pulls/1/merge", api="rest", json={})
    assert answer.headers["token-vault-refusal"] == "call_not_allowed"
    github, slack = CATALOG.provider("github"), CATALOG.provider("slack")
    some = frozenset({"contents:write"})
    assert authority(github, scopes=some, granted=some, is_narrow=False) == frozenset(github.scopes)
    assert authority(github, scopes=some, granted=some, is_narrow=True) == some  # the host itself made it narrow
    assert authority(slack, scopes=some, granted=some, is_narrow=False) == some

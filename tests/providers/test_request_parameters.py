"""Parameters of calls: none changes the method, and none shows more than the caller may see."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import unquote

import pytest
import pytest_asyncio

from providers.api.rules import (
    Call,
    Payload,
    allows,
    authority,
    changes_method,
    header_changes_method,
    of_path,
    unknown_body,
)
from providers.definitions.catalog import SHELF, check_file, load_catalog
from providers.definitions.method_overrides import Overrides
from tests.providers.test_providers_catalog import GOOD, write_file
from tests.support.doubles.scripted_server import Arrival, Reply, json_reply
from tests.support.rooms.proxy_room import UPSTREAM_TOKEN, ProxyHandle, ProxyRoom, proxy_room

CATALOG = load_catalog()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProxyRoom]:
    others = {"microsoft": "graph", "box": "content", "facebook": "main", "salesforce": "main", "dropbox": "rpc"}
    others |= {"hubspot": "main", "linear": "main", "notion": "main", "atlassian": "main", "stripe-connect": "main"}
    limits = {"read_limit": 1024 * 1024}
    async with proxy_room(tmp_path_factory.mktemp("data"), others=others, proxy=limits) as opened:
        opened.provider.answer = answer_widely
        yield opened


pytestmark = pytest.mark.asyncio(loop_scope="module")


def answer_widely(arrival: Arrival) -> Reply:
    """The provider's answer: a request for a narrower token gets one that can do everything."""
    if not arrival.path.endswith("/token"):
        return json_reply({"ok": True})
    wide = " ".join(CATALOG.provider(arrival.path.split("/")[1]).scopes)
    content = {"access_token": UPSTREAM_TOKEN, "token_type": "bearer", "expires_in": 3600, "scope": wide}
    return json_reply(content)


def calls(place: ProxyRoom) -> list[Arrival]:
    """The calls that reached an API."""
    return [one for one in place.provider.arrivals if not one.path.endswith("/token")]


async def ready(place: ProxyRoom, provider: str, *, granted: set[str], scopes: set[str]) -> ProxyHandle:
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
    if CATALOG.provider(provider).overrides.parameters:
        sent.append({"json": {name: "get", "message": "x"}})
    for one in sent:
        answer = await handle.call("POST", path, api=api, **one)
        assert (answer.status_code, answer.headers.get("token-vault-refusal")) == (400, "method_override"), one
    assert calls(place) == []
    twin = await handle.call("POST", path, api=api, json={"message": "get"})
    assert "token-vault-refusal" not in twin.headers
    assert len(calls(place)) == 1


NAMES = (
    "$method",
    "httpMethod",
    "_http_method",
    "x-http-verb",
    "_verb",
    "methodOverride",
    "x_method_override",
    "_METHOD",
)


async def test_whatever_is_named_like_a_method_override_is_refused_everywhere(place: ProxyRoom) -> None:
    handle = await ready(place, "github", granted={"issues:write"}, scopes={"issues:write"})
    path = "/repos/o/r/issues"
    for name in NAMES:
        for one in ({"params": {name: "GET"}}, {"data": {name: "GET"}}, {"json": {name: "GET", "title": "x"}}):
            answer = await handle.call("POST", path, api="rest", **one)
            assert answer.headers.get("token-vault-refusal") == "method_override", (name, one)
    for name in ("X-HTTP-Method", "X_HTTP_Method_Override", "X-HTTP-Verb", "X-RestLi-Method", "Method", "X-Override"):
        answer = await handle.call("POST", path, api="rest", json={"title": "x"}, headers={name: "DELETE"})
        assert answer.headers.get("token-vault-refusal") == "method_override", name
    assert calls(place) == []
    near = {"Access-Control-Request-Method": "GET", "X-Methodology": "a", "X-Proverb": "a"}
    for one in ({"json": {"title": "GET"}}, {"json": {"title": "x"}, "headers": near}):
        answer = await handle.call("POST", path, api="rest", **one)
        assert "token-vault-refusal" not in answer.headers, answer.text
    provider = CATALOG.provider("github")
    assert not any(
        changes_method(provider, name) for name in ("merge_method", "methods", "verbose", "method", "proverb")
    )
    assert len(calls(place)) == 2


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


async def test_a_header_that_a_file_names_changes_the_method_there_only() -> None:
    provider = CATALOG.provider("dropbox")
    tunnels = provider.model_copy(update={"overrides": Overrides(headers=frozenset({"x-tunnelled"}))})
    assert header_changes_method(tunnels, "x-tunnelled")
    assert not header_changes_method(provider, "x-tunnelled")  # the twin


async def test_every_file_with_rules_says_that_somebody_looked_for_overrides(tmp_path: Path) -> None:
    for path in SHELF.glob("*.toml"):
        provider = CATALOG.provider(path.stem)
        assert not provider.rules or (provider.overrides is not None and provider.overrides.sources), path.stem
    without = GOOD.replace('[overrides]\nparameters = []\nsources = ["docs"]\n', "")
    assert any("overrides: missing" in line for line in check_file(write_file(tmp_path, without)))
    nobody = GOOD.replace('\nsources = ["docs"]', "")
    assert any("overrides.sources: missing" in line for line in check_file(write_file(tmp_path, nobody)))
    assert check_file(write_file(tmp_path, GOOD)) == []


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


@pytest.mark.parametrize("name", ["expand", "expand[]", "expand[0]", "expand[n]", "Expand[]", "expand%5B0%5D", "x"])
async def test_a_token_that_can_do_no_more_is_asked_only_what_an_exact_rule_lists(place: ProxyRoom, name: str) -> None:
    path = f"/charges?limit=3&{name}=data.payment_intent"
    reading = await ready(place, "stripe-connect", granted={"read_only"}, scopes={"read_only"})
    answer = await reading.call("GET", path, api="main")
    assert answer.headers.get("token-vault-refusal") == "unknown_parameter"
    assert f"No request rule of Stripe Connect covers {unquote(name)} in the query" in answer.text
    assert (await reading.call("HEAD", path, api="main")).headers.get("token-vault-refusal") == "unknown_parameter"
    assert calls(place) == []
    assert "token-vault-refusal" not in (await reading.call("GET", "/charges?limit=3", api="main")).headers
    assert len(calls(place)) == 1


@pytest.mark.parametrize("more", [{"entity_id": "F1"}, {"entity_id[]": "F1"}, {"access_level": "write"}])
async def test_a_body_has_only_what_an_exact_rule_lists(place: ProxyRoom, more: dict[str, str]) -> None:
    scopes, plain = {"bookmarks:write"}, {"channel_id": "C1", "title": "x"}
    handle = await ready(place, "slack", granted=scopes, scopes=scopes)
    for sent in ({"json": {**plain, **more}}, {"data": {**plain, **more}}):
        answer = await handle.call("POST", "/bookmarks.add", api="web", **sent)
        assert answer.headers.get("token-vault-refusal") == "unknown_parameter", sent
        assert f"covers {min(more)} in the query or body" in answer.text
    array = {"content": b'["entity_id"]', "headers": {"content-type": "application/json"}}
    answer = await handle.call("POST", "/bookmarks.add", api="web", **array)
    assert answer.headers.get("token-vault-refusal") == "unknown_parameter"
    assert calls(place) == []
    for sent in ({"json": plain}, {"data": plain}):
        answer = await handle.call("POST", "/bookmarks.add", api="web", **sent)
        assert "token-vault-refusal" not in answer.headers
    assert len(calls(place)) == 2


# Bodies

_BODIES = [
    (
        *("microsoft", "graph", "POST", "/me/messages", {"Mail.ReadWrite", "Files.Read"}, {"Mail.ReadWrite"}),
        (
            {"attachments": [{"name": "a", "sourceUrl": "https://x"}]},
            {"attachments": [[{"item": {"subject": "x"}}]]},
            {"attachments": "x"},
            {"Subject": "x"},
            {"parent@odata.bind": "x"},
        ),
        {"subject": "x", "body": {"content": "y"}, "attachments": [{"name": "a", "contentBytes": "eA=="}]},
    ),
    (
        *("microsoft", "graph", "POST", "/me/sendMail", {"Mail.Send", "Files.Read"}, {"Mail.Send"}),
        ({"message": {"attachments": [{"sourceUrl": "https://x"}]}}, {"message/subject": "x"}, {"message": ["x"]}),
        {
            "message": {"subject": "x", "toRecipients": [{"emailAddress": {"address": "a@b.c"}}]},
            "saveToSentItems": True,
        },
    ),
    (
        *("microsoft", "graph", "PATCH", "/me/drive/items/1", {"Files.ReadWrite", "Sites.ReadWrite.All"}),
        {"Files.ReadWrite"},
        (
            {"parentReference": {"driveId": "d", "id": "2"}},
            {"remoteItem": {"id": "x"}},
            {"@microsoft.graph.sourceUrl": "x"},
        ),
        {"@odata.type": "#microsoft.graph.driveItem", "name": "a", "parentReference": {"id": "2"}},
    ),
    (
        *("dropbox", "rpc", "POST", "/files/list_folder", {"files.metadata.read", "sharing.read"}),
        {"files.metadata.read"},
        ({"path": "", "shared_link": {"url": "https://x"}}, {"path": "", "include_has_explicit_shared_members": True}),
        {"path": "", "recursive": True},
    ),
    (
        *("salesforce", "main", "POST", "/v63.0/parameterizedSearch", {"api", "chatter_api"}, {"api"}),
        (
            {"q": "a", "sobjects": [{"name": "Contact", "dataCategories": []}]},
            {"netIds": ["x"], "sobjects": [{"name": "Contact"}]},
        ),
        {"q": "a", "sobjects": [{"name": "Contact", "limit": 5}]},
    ),
    (
        *("linear", "main", "POST", "/graphql", {"read", "issues:create"}, {"read"}),
        (
            {"query": "TEAMS", "extensions": {"persistedQuery": {"sha256Hash": "x"}}},
            {"query": "TEAMS", "operationName": "x"},
        ),
        {"query": "TEAMS", "variables": {"first": 3}},
    ),
    (
        *("notion", "main", "POST", "/search", {"read", "write"}, {"read"}),
        ({"query": "a", "parent": {"page_id": "x"}}, {"archived": True}),
        {"query": "a", "page_size": 5},
    ),
    (
        *(
            "atlassian",
            "main",
            "POST",
            "/ex/jira/1/rest/api/2/issue/A-1/comment",
            {"write:jira-work", "write:confluence-content"},
        ),
        {"write:jira-work"},
        ({"body": "x", "jsdPublic": True}, {"body": "x", "author": {"accountId": "y"}}),
        {"body": "x"},
    ),
    (
        *(
            "hubspot",
            "main",
            "POST",
            "/crm/v3/objects/notes",
            {"crm.objects.contacts.write", "crm.objects.deals.write"},
        ),
        {"crm.objects.contacts.write"},
        ({"properties": {"hs_note_body": "x", "hs_attachment_ids": "1"}, "associations": "CONTACT"},),
        {"properties": {"hs_note_body": "x"}, "associations": "CONTACT"},
    ),
    (
        *("slack", "web", "POST", "/chat.postMessage", {"chat:write", "channels:read"}, {"chat:write"}),
        ({"channel": "C1", "text": "x", "username": "Boss"}, {"channel": "C1", "icon_url": "x"}, {"metadata": "{}"}),
        {"channel": "C1", "text": "x"},
    ),
    (
        *("slack", "web", "POST", "/reactions.get", {"reactions:read", "im:history", "channels:read"}),
        {"reactions:read", "im:history"},
        ({"channel": "D1", "file": "F1"}, {"channel": "D1", "timestamp": "1", "file_comment": "x"}),
        {"channel": "D1", "timestamp": "1", "full": "true"},
    ),
    (
        *("github", "rest", "POST", "/repos/o/r/pulls", {"pull_requests:write"}, {"pull_requests:write"}),
        ({"issue": 1, "head": "a", "base": "b"},),
        {"title": "x", "head": "a", "base": "b"},
    ),
]
_TEAMS = "query Teams($first: Int!) { teams(first: $first) { nodes { id key name } } }"
_CONTACT = [{"to": {"id": 1}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 202}]}]


def _fill_in(body: dict[str, object]) -> dict[str, object]:
    known: dict[object, object] = {"TEAMS": _TEAMS, "CONTACT": _CONTACT}
    return {name: known.get(value, value) if isinstance(value, str) else value for name, value in body.items()}


@pytest.mark.requirement("S-170")
@pytest.mark.parametrize(
    ("provider", "api", "method", "path", "granted", "scopes", "refused", "passes"),
    _BODIES,
    ids=[f"{one[0]} {one[3]}" for one in _BODIES],
)
async def test_what_no_rule_knows_of_a_body_is_refused_where_the_token_can_do_more(
    place: ProxyRoom,
    provider: str,
    api: str,
    method: str,
    path: str,
    granted: set[str],
    scopes: set[str],
    refused: tuple[dict[str, object], ...],
    passes: dict[str, object],
) -> None:
    handle = await ready(place, provider, granted=granted, scopes=scopes)
    flat = all(isinstance(value, str) for body in refused for value in body.values())
    for body in map(_fill_in, refused):
        for one in ({"json": body}, *([{"data": body}] if flat else [])):
            answer = await handle.call(method, path, api=api, **one)
            assert answer.headers.get("token-vault-refusal") == "unknown_parameter", one
    assert calls(place) == []
    for one in ({"json": _fill_in(passes)}, *([{"data": _fill_in(passes)}] if flat else [])):
        answer = await handle.call(method, path, api=api, **one)
        assert "token-vault-refusal" not in answer.headers, answer.text
    if CATALOG.provider(provider).scope.app_level and provider == "github":
        return  # a token of that app counts as having all scopes
    equal = await ready(place, provider, granted=scopes, scopes=scopes)
    answer = await equal.call(method, path, api=api, json=_fill_in(refused[0]))
    known = CATALOG.provider(provider)
    is_exact = any(rule.exact for rule in of_path(known, api=api, method=method, path=path))
    assert ("token-vault-refusal" in answer.headers) is (known.scope.app_level or is_exact), answer.text


async def test_a_body_that_nobody_reads_passes_where_it_is_content_or_the_token_can_do_no_more(
    place: ProxyRoom,
) -> None:
    both, mail = {"Files.ReadWrite", "Mail.ReadWrite"}, {"Mail.ReadWrite"}
    long = b'{"subject":"' + b"x" * (1024 * 1024) + b'"}'
    kinds = {"application/json": b'["subject"]', "text/plain": b'{"subject":"x"}', "": b'{"subject":"x"}'}
    sent = [*kinds.items(), ("application/json", long), ("application/vnd.x+json", b"{}")]
    for granted, scopes, method, path, passes in (
        (both, mail, "POST", "/me/messages", False),
        (mail, mail, "POST", "/me/messages", True),
        (both, {"Files.ReadWrite"}, "PUT", "/me/drive/items/1/content", True),
    ):
        handle = await ready(place, "microsoft", granted=granted, scopes=scopes)
        for kind, body in sent:
            headers = {"content-type": kind} if kind else {}
            answer = await handle.call(method, path, api="graph", content=body, headers=headers)
            expected = None if passes else "unknown_parameter"
            assert answer.headers.get("token-vault-refusal") == expected, (kind, answer.text)
        assert [one.body for one in calls(place)] == ([body for _, body in sent] if passes else [])


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        ("application/json; odata.metadata=minimal", True),
        ('application/json; IEEE754Compatible=true; Charset="UTF-8"', True),
        ("application/json; odata.metadata=minimal; charset=utf-16", False),
        ("application/json; charset=utf-8; charset=utf-7", False),
        ("application/json; charset = utf-7", False),
    ],
)
async def test_only_a_charset_changes_how_a_body_reads(place: ProxyRoom, kind: str, passes: bool) -> None:
    handle = await ready(place, "microsoft", granted={"Mail.ReadWrite", "Files.Read"}, scopes={"Mail.ReadWrite"})
    headers = {"content-type": kind}
    answer = await handle.call("POST", "/me/messages", api="graph", content=b'{"subject":"a"}', headers=headers)
    assert answer.headers.get("token-vault-refusal") == (None if passes else "unsupported_body")
    assert len(calls(place)) == passes


@pytest.mark.parametrize("body", [b'{"subject":"a","subject":"b"}', b'{"subject":', b'{"a":NaN}', b"\xff"])
async def test_json_that_two_servers_read_differently_is_refused(place: ProxyRoom, body: bytes) -> None:
    handle = await ready(place, "microsoft", granted={"Mail.ReadWrite"}, scopes={"Mail.ReadWrite"})
    headers = {"content-type": "application/json"}
    answer = await handle.call("POST", "/me/messages", api="graph", content=body, headers=headers)
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (400, "invalid_body")
    assert calls(place) == []
    twin = await handle.call("POST", "/me/messages", api="graph", content=b'{"subject":"a"}', headers=headers)
    assert "token-vault-refusal" not in twin.headers


@pytest.mark.parametrize(
    ("associations", "passes"),
    [
        (_CONTACT, True),
        ([{"to": {"id": 1}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": "202"}]}], True),
        ([{"to": {"id": 1}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 214}]}], False),
        ([{"to": {"id": 1}, "types": [{"associationCategory": "USER_DEFINED", "associationTypeId": 202}]}], False),
        (
            [
                *_CONTACT,
                {"to": {"id": 9}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 190}]},
            ],
            False,
        ),
        (
            [{"to": {"id": 1}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": [202, 214]}]}],
            False,
        ),
        ([{"to": {"id": 1}, "types": []}], False),
        ([], False),
        ("x", False),
    ],
)
async def test_a_member_deep_in_a_body_is_as_the_rule_wants_it_wherever_it_stands(
    place: ProxyRoom, associations: object, passes: bool
) -> None:
    scopes = {"crm.objects.contacts.write"}
    handle = await ready(place, "hubspot", granted=scopes, scopes=scopes)
    body = {"properties": {"hs_note_body": "x"}, "associations": associations}
    answer = await handle.call("POST", "/crm/v3/objects/notes", api="main", json=body)
    assert ("token-vault-refusal" not in answer.headers) is passes, answer.text
    assert len(calls(place)) == passes


async def test_contacts_are_not_searched_by_what_they_are_associated_with(place: ProxyRoom) -> None:
    handle = await ready(place, "hubspot", granted={"crm.objects.contacts.read"}, scopes={"crm.objects.contacts.read"})
    for name, passes in (("associations.deal", False), ("email", True)):
        body = {"filterGroups": [{"filters": [{"propertyName": name, "operator": "EQ", "value": "1"}]}]}
        answer = await handle.call("POST", "/crm/v3/objects/contacts/search", api="main", json=body)
        assert ("token-vault-refusal" not in answer.headers) is passes


async def test_preferences_that_may_show_more_stay_behind(place: ProxyRoom) -> None:
    handle = await ready(place, "microsoft", granted={"Files.Read"}, scopes={"Files.Read"})
    for sent, passed in (
        ("hierarchicalsharing, redeemSharingLink", None),
        ('return=minimal, include-unknown-enum-members, IdType="ImmutableId"', 'return=minimal, IdType="ImmutableId"'),
        ('x="a, return=minimal"', None),
        ('Outlook.TimeZone="Pacific Standard Time"', 'Outlook.TimeZone="Pacific Standard Time"'),
    ):
        await handle.call("GET", "/me/drive", api="graph", headers={"prefer": sent})
        assert calls(place)[-1].headers.get("prefer") == passed


async def test_no_name_with_a_slash_passes_for_a_way_into_a_body() -> None:
    hubspot = CATALOG.provider("hubspot")
    rule = next(one for one in hubspot.rules if one.path.endswith("/notes"))
    inside = {"properties": {"hs_note_body": "x"}}
    assert unknown_body(hubspot, rule, inside) == frozenset()
    assert unknown_body(hubspot, rule, {"properties/hs_note_body": "x"}) == {"properties~1hs_note_body"}
    assert unknown_body(hubspot, rule, {"properties": {"hs_note_body/x": "y"}}) == {"properties/hs_note_body~1x"}
    assert unknown_body(hubspot, rule, {"properties": {}, "associations": []}) == frozenset()
    assert unknown_body(hubspot, rule, {"properties": None}) == {"properties"}


async def test_no_tool_sends_a_body_that_no_rule_knows() -> None:
    slack = CATALOG.provider("slack")
    scopes, granted = frozenset({"chat:write"}), frozenset({"chat:write", "channels:read"})
    for body, passes in (({"channel": "C1", "text": "x"}, True), ({"channel": "C1", "username": "x"}, False)):
        call = Call("web", "POST", "/chat.postMessage", body, Payload(body=body))
        assert allows(slack, call, scopes, granted=granted) is passes
        assert allows(slack, call, scopes)


async def test_every_file_with_lists_of_parameters_says_where_they_are_from() -> None:
    for path in SHELF.glob("*.toml"):
        provider = CATALOG.provider(path.stem)
        if provider.query or any(rule.query or rule.body for rule in provider.rules):
            assert any("parameters" in key + said.name for key, said in provider.sources.items()), path.stem


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
    for path in ("/repos/o/r/pulls/1/merge", "/repos/o/r/releases"):  # commits may contain workflows, unseen here
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
    granted = {"contents:write", "metadata:read"}  # what was requested; the app may have been given more
    handle = await ready(place, "github", granted=granted, scopes=granted)
    answer = await handle.call("PUT", "/repos/o/r/pulls/1/merge", api="rest", json={})
    assert answer.headers["token-vault-refusal"] == "call_not_allowed"
    github, slack = CATALOG.provider("github"), CATALOG.provider("slack")
    some = frozenset({"contents:write"})
    assert authority(github, scopes=some, granted=some, is_narrow=False) == frozenset(github.scopes)
    assert authority(github, scopes=some, granted=some, is_narrow=True) == some  # here, the host itself narrowed it
    assert authority(slack, scopes=some, granted=some, is_narrow=False) == some

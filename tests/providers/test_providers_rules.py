"""Request rules: default deny, path and parameter matching, scopes that include others."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.api.rules import Call, Payload, allows
from providers.credentials.placement import authorize_request
from providers.definitions.catalog import load_catalog
from providers.definitions.model import Rule
from providers.outbound.messages import OutboundRequest

SLACK = load_catalog().provider("slack")
GOOGLE = load_catalog().provider("google")
AUTH = "https://www.googleapis.com/auth/"
EVERYTHING = {provider.name: frozenset(provider.scopes) for provider in (SLACK, GOOGLE)}


def test_what_no_rule_names_is_refused_even_with_every_scope() -> None:
    for call in (
        Call("web", "POST", "/admin.users.remove"),
        Call("web", "GET", "/chat.postMessage"),
        Call("web", "POST", "/chat.postmessage"),
        Call("web", "POST", "/chat.postMessage/"),
        Call("web", "POST", "chat.postMessage"),
        Call("other", "POST", "/chat.postMessage"),
        Call("web", "POST", "/chat.postMessage?x=/y"),
        Call("web", "POST", "//chat.postMessage"),
    ):
        assert not allows(SLACK, call, EVERYTHING["slack"])
    assert allows(SLACK, Call("web", "POST", "/chat.postMessage"), frozenset({"chat:write"}))


def test_a_call_needs_its_scope() -> None:
    call = Call("web", "POST", "/chat.postMessage", {"channel": "C1", "text": "x"})
    assert not allows(SLACK, call, EVERYTHING["slack"] - {"chat:write"})
    assert not allows(SLACK, call, frozenset())
    assert allows(SLACK, call, frozenset({"chat:write"}))


def test_a_wider_scope_passes_where_a_narrower_one_is_named_and_not_the_other_way() -> None:
    reading = Call("calendar", "GET", "/calendars/primary/events")
    writing = Call("calendar", "POST", "/calendars/primary/events")
    for scope in ("calendar", "calendar.readonly", "calendar.events", "calendar.events.readonly"):
        assert allows(GOOGLE, reading, frozenset({AUTH + scope}))
    for scope in ("calendar.readonly", "calendar.events.readonly", "calendar.freebusy"):
        assert not allows(GOOGLE, writing, frozenset({AUTH + scope}))
    assert allows(GOOGLE, writing, frozenset({AUTH + "calendar"}))


def test_a_parameter_can_decide_which_scope_is_needed() -> None:
    public = frozenset({"channels:read"})
    assert allows(SLACK, Call("web", "GET", "/conversations.list"), public)
    assert allows(SLACK, Call("web", "GET", "/conversations.list", {"types": "public_channel"}), public)
    for types in ("private_channel", "public_channel,private_channel", "im", ["public_channel"], True, 1):
        assert not allows(SLACK, Call("web", "GET", "/conversations.list", {"types": types}), public)
    private = Call("web", "GET", "/conversations.list", {"types": "private_channel"})
    assert allows(SLACK, private, frozenset({"groups:read"}))


def test_a_token_that_reaches_further_in_a_way_the_request_does_not_show_is_not_lent() -> None:
    """A Slack channel ID doesn't reveal whether the channel is private."""
    call = Call("web", "GET", "/conversations.history", {"channel": "C123"})
    public = frozenset({"channels:history"})
    assert allows(SLACK, call, public)
    assert allows(SLACK, call, public, granted=public | {"chat:write"})
    assert not allows(SLACK, call, public, granted=public | {"groups:history"})
    assert allows(SLACK, call, public | {"groups:history"}, granted=public | {"groups:history"})
    assert not allows(SLACK, Call("web", "GET", "/conversations.history", {"channel": "D123"}), public)


@pytest.mark.parametrize(
    "segment",
    ["..", ".", "", "%2e%2e", "%2E.", "..%2f..", "%2e%2e%5cx", "a%0d%0ab", "a/b", "a\\b", "a?b", "a#b", "%00"],
)
def test_a_path_that_a_server_could_read_otherwise_is_refused(segment: str) -> None:
    scopes = EVERYTHING["google"]
    assert not allows(GOOGLE, Call("calendar", "GET", f"/calendars/{segment}/events"), scopes)
    assert allows(GOOGLE, Call("calendar", "GET", "/calendars/a%40b/events"), scopes)


@given(st.text(min_size=1, max_size=40))
def test_a_quoted_segment_never_turns_one_call_into_another(text: str) -> None:
    path = f"/calendars/{quote(text, safe='')}/events"
    call = Call("calendar", "GET", path)
    if allows(GOOGLE, call, EVERYTHING["google"]):
        assert path.count("/") == 3
        assert "%2F.." not in path.upper()
        assert text.strip(".") != ""


@given(st.sets(st.sampled_from(sorted(EVERYTHING["google"]))), st.sets(st.sampled_from(sorted(EVERYTHING["google"]))))
def test_more_scopes_never_allow_less(some: set[str], more: set[str]) -> None:
    for method, path in (("GET", "/calendars/x/events"), ("POST", "/calendars/x/events"), ("POST", "/freeBusy")):
        call = Call("calendar", method, path)
        if allows(GOOGLE, call, frozenset(some)):
            assert allows(GOOGLE, call, frozenset(some | more))


def test_a_repository_s_address_is_none_of_the_api_below_it() -> None:
    gitlab = load_catalog().provider("gitlab")
    scopes = frozenset({"read_repository"})
    for path in ("/api/v4/projects/1/repository/files", "/API/v4/x", "/api%2Fv4/x", "/api/v4"):
        assert not allows(gitlab, Call("git", "POST", f"{path}/git-upload-pack"), scopes)
    for path in ("/octo/hello.git", "/octo/api/v4/hello.git", "/api/v40/x"):  # the twins
        assert allows(gitlab, Call("git", "POST", f"{path}/git-upload-pack"), scopes)


@pytest.mark.parametrize("name", ["gitlab", "gitea", "github", "bitbucket"])
def test_only_git_gets_the_token_as_a_password(name: str) -> None:
    provider = load_catalog().provider(name)
    assert provider.git is not None
    for api, base in provider.apis.items():
        sent = authorize_request(provider, OutboundRequest("GET", f"{base}/octo/x"), "the-token")
        assert sent.headers["Authorization"].split()[0] == ("Basic" if api == provider.git.api else "Bearer")


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ({"include": "keys"}, {}),
        ({"expand[]": "keys"}, {}),
        ({"expand[0]": "keys"}, {}),
        ({"limit[]": "5"}, {}),
        ({"limit": "5", "Expand[0][a]": "keys"}, {}),
        ({}, {"expand": ["keys"]}),
        ({}, {"expand[0]": "keys"}),  # in a form
        ({}, {"title": "x", "owner": {"name": "Ann", "keys": True}}),
        ({}, {"owner": [{"name": "Ann"}, {"keys": True}]}),
        ({}, {"owner": "Ann"}),
        ({}, {"owner/name": "Ann"}),
    ],
)
def test_an_exact_rule_refuses_what_it_does_not_list_although_the_token_can_do_no_more(
    query: dict[str, object], body: dict[str, object]
) -> None:
    rule = Rule(
        api="web",
        method=("POST",),
        path="/things",
        scopes=frozenset({"chat:write"}),
        where={"kind": "(plain)?"},
        query=frozenset({"limit"}),
        body=frozenset({"title", "owner/name"}),
    )
    scopes = frozenset({"chat:write"})
    plain, listed = {"kind": "plain"}, {"title": "x", "owner": {"name": "Ann"}}
    for is_exact in (False, True):
        provider = SLACK.model_copy(update={"rules": (rule.model_copy(update={"exact": is_exact}),)})
        for granted in (None, scopes):
            for one, other, is_listed in ((plain, listed, True), ({}, {}, True), (query, body, False)):
                call = Call("web", "POST", "/things", {**one, **other}, Payload(frozenset(one), other))
                assert allows(provider, call, scopes, granted=granted) is (is_listed or not is_exact), call
            unread = Call("web", "POST", "/things", {}, Payload(is_unread=True))
            assert allows(provider, unread, scopes, granted=granted) is not is_exact


def test_the_content_of_an_exact_rule_is_not_read_if_its_body_may_be_anything() -> None:
    whole = {"api": "web", "method": ("POST",), "path": "/things", "scopes": frozenset({"chat:write"}), "exact": True}
    provider = SLACK.model_copy(update={"rules": (Rule.model_validate({**whole, "body": "any"}),)})
    for query, is_allowed in ((frozenset[str](), True), (frozenset({"expand[]"}), False)):
        call = Call("web", "POST", "/things", dict.fromkeys(query, "x"), Payload(query, {}, is_unread=True))
        assert allows(provider, call, frozenset({"chat:write"})) is is_allowed

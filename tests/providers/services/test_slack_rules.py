"""What Slack's request rules allow with each scope, kind of conversation, and parameter."""

from __future__ import annotations

import pytest

from providers.api.rules import Call, Payload, allows, of_path
from providers.definitions.catalog import load_catalog

SLACK = load_catalog().provider("slack")


def slack_call(method: str, path: str, **parameters: object) -> Call:
    payload = Payload(frozenset(parameters)) if method == "GET" else Payload(body=parameters)
    return Call("web", method, path, parameters, payload)


@pytest.mark.parametrize("channel", ["C12", "G12"])
@pytest.mark.parametrize(("path", "kind"), [("/conversations.members", "read"), ("/conversations.setTopic", "write")])
def test_a_channel_of_slack_that_may_be_private_is_reached_with_the_scopes_of_all_kinds(
    channel: str, path: str, kind: str
) -> None:
    call = slack_call("POST", path, channel=channel)
    public, private = frozenset({f"channels:{kind}"}), frozenset({f"groups:{kind}"})
    assert allows(SLACK, call, public) == (channel == "C12")
    assert allows(SLACK, call, private)
    for scopes in (public, private):
        assert not allows(SLACK, call, scopes, granted=public | private)
    assert allows(SLACK, call, public | private, granted=public | private)


@pytest.mark.parametrize(
    ("path", "scope", "fits", "other"),
    [
        ("/conversations.create", "channels:write", {"is_private": False}, {"is_private": True}),
        ("/conversations.create", "groups:write", {"is_private": "true"}, {}),
        ("/conversations.open", "im:write", {"users": "U1"}, {"users": "U1,U2"}),
        ("/conversations.open", "mpim:write", {"users": "U1,U2"}, {"users": "U1"}),
        ("/conversations.close", "im:write", {"channel": "D1"}, {"channel": "C1"}),
        ("/conversations.history", "mpim:history", {"channel": "G1"}, {"channel": "D1"}),
        ("/users.conversations", "channels:read", {"user": "U1"}, {"user": "U1", "types": "public_channel,im"}),
        ("/conversations.info", "groups:read", {"channel": "C1"}, {"channel": "D1"}),
        ("/reminders.add", "reminders:write", {"text": "x"}, {"text": "x", "user": "U1"}),
        ("/bookmarks.add", "bookmarks:write", {"link": "https://x.example"}, {"entity_id": "F1"}),
        ("/users.profile.set", "users.profile:write", {"name": "title", "value": "x"}, {"name": "email", "value": "x"}),
        (
            "/users.profile.set",
            "users.profile:write",
            {"profile": {"title": "x"}},
            {"profile": {"email": "e@x.example"}},
        ),
        (
            "/users.profile.set",
            "users.profile:write",
            {"profile": {"status_text": "x", "fields": {"Xf1": {"value": "x"}}}},
            {"profile": {"Email": "e@x.example"}},
        ),
        (
            "/users.profile.set",
            "users.profile:write",
            {"profile": {"real_name": "x"}},
            {"profile": [{"real_name": "x"}, {"EMAIL": "e@x.example"}]},
        ),
        (  # the proxy parses JSON in a form first
            "/users.profile.set",
            "users.profile:write",
            {"profile": {"title": "x"}},
            {"profile": '{"title": "x"}'},
        ),
        ("/users.profile.set", "users.profile:write", {"value": "x"}, {"value": "x", "user": "U2"}),
    ],
)
def test_a_parameter_of_slack_reaches_what_the_scope_says(
    path: str, scope: str, fits: dict[str, object], other: dict[str, object]
) -> None:
    scopes = frozenset({scope})
    for granted in (scopes, SLACK.all_scopes - {"channels:history", "groups:history", "channels:read", "mpim:read"}):
        assert allows(SLACK, slack_call("POST", path, **fits), scopes, granted=granted)
        assert not allows(SLACK, slack_call("POST", path, **other), scopes, granted=granted)


@pytest.mark.parametrize(
    ("path", "scope", "name", "wider"),
    [
        ("/chat.postMessage", "chat:write", "markdown_text", "username"),
        ("/chat.scheduleMessage", "chat:write", "post_at", "icon_url"),
        ("/reactions.get", "reactions:read im:history", "timestamp", "file"),
        ("/usergroups.list", "usergroups:read", "include_disabled", "include_users"),
        ("/conversations.open", "im:write", "prevent_creation", "return_im"),
    ],
)
def test_a_parameter_of_slack_that_reaches_more_is_refused_with_a_token_that_can_do_more(
    path: str, scope: str, name: str, wider: str
) -> None:
    scopes = frozenset(scope.split())
    always = {"/conversations.open": {"users": "U1"}, "/reactions.get": {"channel": "D1"}}.get(path, {})
    for parameter, is_allowed in ((name, True), (wider, False)):
        call = slack_call("POST", path, **always, **{parameter: "1"})
        assert allows(SLACK, call, scopes, granted=SLACK.all_scopes) == is_allowed
        assert allows(SLACK, call, scopes, granted=scopes)


@pytest.mark.parametrize(
    ("channel", "kinds"),
    [("C1", "channels groups mpim"), ("G1", "groups mpim"), ("D1", "im"), ("", "")],
)
def test_the_reactions_to_a_message_of_slack_are_for_who_may_read_the_message(channel: str, kinds: str) -> None:
    call = slack_call("GET", "/reactions.get", channel=channel, timestamp="1.1")
    every = frozenset(f"{kind}:history" for kind in ("channels", "groups", "mpim", "im"))
    needed = frozenset(f"{kind}:history" for kind in kinds.split())
    reads = frozenset({"reactions:read"})
    for token in (reads | every, SLACK.all_scopes):
        assert allows(SLACK, call, reads | needed, granted=token) == bool(channel)
        for missing in needed:
            assert not allows(SLACK, call, reads | every - {missing}, granted=token)
    assert not allows(SLACK, call, reads, granted=reads)
    assert not allows(SLACK, call, every)


def test_who_may_post_on_slack_is_shown_to_change_and_delete_messages() -> None:
    posts = frozenset({"chat:write"})
    assert SLACK.scopes["chat:write"].title == "Post, change, and delete messages as you"
    for verb in ("update", "delete"):
        call = slack_call("POST", f"/chat.{verb}", channel="C1", ts="1.1")
        assert allows(SLACK, call, posts)
        assert not allows(SLACK, call, frozenset({"channels:write"}))


def test_an_address_of_a_person_in_slack_is_found_with_both_scopes() -> None:
    call = slack_call("GET", "/users.lookupByEmail", email="a@x.example")
    both = frozenset({"users:read.email", "users:read"})
    assert allows(SLACK, call, both)
    assert not any(allows(SLACK, call, both - {one}) for one in both)


@pytest.mark.parametrize(
    ("closed", "open_"),
    [
        ("/files.upload", "/files.info"),
        ("/files.sharedPublicURL", "/files.list"),
        ("/reactions.list", "/reactions.get"),
        ("/stars.list", "/pins.list"),
        ("/users.identity", "/users.info"),
        ("/team.accessLogs", "/team.info"),
        ("/conversations.inviteShared", "/conversations.invite"),
        ("/chat.unfurl", "/chat.update"),
        ("/auth.revoke", "/auth.test"),
    ],
)
def test_what_slack_removed_or_what_shows_and_shares_more_has_no_rule(closed: str, open_: str) -> None:
    for method in ("GET", "POST"):
        assert not of_path(SLACK, api="web", method=method, path=closed)
    assert of_path(SLACK, api="web", method="POST", path=open_)


def test_only_reads_of_slack_are_gets() -> None:
    for rule in SLACK.rules:
        reads = {scope for scope in rule.scopes if SLACK.scopes[scope].reads}
        assert ("GET" in rule.method) == bool(reads) or rule.path == "/chat.getPermalink", rule

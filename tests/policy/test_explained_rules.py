"""Explanations of rules over HTTP: what the gate would decide, for people as they are now, without recording it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from server.administration import people
from tests.conftest import Store
from tests.support.inspection import read_events
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from tests.support.rules import look_twice, put
from vault import groups
from vault.approvals.approvals import ToolCall
from vault.records import Role, User
from vault.refresh.policy_checks import PolicyQuestion

DAY = "2026-11-30T"
POST = {"channel": "#general", "text": "Hello"}
LIST: dict[str, object] = {
    "provider": "slack",
    "api": "web",
    "method": "GET",
    "path": "/conversations.list",
    "scopes": ["channels:read"],
}
REPOSITORY: dict[str, object] = {
    "provider": "github",
    "api": "rest",
    "method": "HEAD",
    "path": "/repos/{}/{}",
    "scopes": ["metadata:read"],
}
PROFILE: dict[str, object] = {
    "provider": "gmail",
    "api": "gmail",
    "method": "GET",
    "path": "/users/{}/profile",
    "scopes": ["https://mail.google.com/"],
}
SECRETS: dict[str, object] = {
    "provider": "google",
    "api": "analyticsadmin",
    "path": "/v1beta/properties/{}/dataStreams/{}/measurementProtocolSecrets",
    "scopes": ["https://www.googleapis.com/auth/analytics.readonly"],
}
POSTS = 'forbid(principal in Group::"Contractors", action == Action::"slack_post", resource)'
RULES = f"""
@id("contractors") @reason("from the office only") {POSTS}
unless {{ context has address && context.address.isInRange(ip("10.0.0.0/8")) }};
@id("first") @reason("posts are read first") @approval
forbid(principal, action == Action::"slack_post", resource) when {{ context.arguments.channel == "#all" }};
@id("night") forbid(principal, action == Action::"slack_channels", resource) when {{ context.hour < 7 }};
@id("exchange") forbid(principal, action == Action::"exchange", resource)
when {{ resource.provider == "github" && principal.role == "auditor" }};
"""


@pytest.fixture
async def room(store: Store, tmp_path: Path) -> AsyncGenerator[AdminRoom]:
    for name in ("rules", "shadow"):
        (tmp_path / name).mkdir()
    put(tmp_path / "rules/rules.cedar", RULES)
    policy = {"folder": str(tmp_path / "rules"), "shadow_folder": str(tmp_path / "shadow")}
    overrides: dict[str, object] = {"policy": policy}
    if not store.is_sqlite:
        overrides["database"] = {"url": store.url}
    async with running_admin_room(store.data, **overrides) as opened:
        yield opened


async def explain(room: AdminRoom, person: User, call: str = "slack_post", **more: object) -> httpx2.Response:
    body = {"call": call, "person_id": person.id, "agent_id": "some-agent", **more}
    return await room.call("POST", "/policies/explanations", json=body)


async def outcome(room: AdminRoom, person: User, call: str = "slack_post", **more: object) -> tuple[str, str | None]:
    answer = await explain(room, person, call, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["outcome"], answer.json()["rule"]


async def join(room: AdminRoom, user: User, *names: str) -> None:
    async with room.deployment.transaction() as transaction:
        now = room.deployment.now()
        await groups.set_groups(transaction, user.id, names, source="openid:company", now=now, expires_at=None)


async def test_a_rule_is_named_with_its_reason_and_the_others_that_could_apply(room: AdminRoom) -> None:
    user, other = await room.room.user(), await room.room.user()
    await join(room, user, "contractors")
    gate = room.deployment.policy
    assert gate is not None
    found = (await explain(room, user, arguments=POST)).json()
    assert (found["outcome"], found["rule"], found["reason"]) == ("forbid", "contractors", "from the office only")
    assert [(one["rule"], one["place"], one["asks"]) for one in found["met"]] == [
        ("contractors", "rules.cedar:2", False),
        ("first", "rules.cedar:4", True),
    ]
    assert found["digest"] == gate.digest
    assert await outcome(room, other, arguments=POST) == ("allow", None)
    assert await outcome(room, user, arguments=POST, address="10.1.2.3") == ("allow", None)
    assert await outcome(room, other, arguments={**POST, "channel": "#all"}) == ("ask", "first")
    await join(room, user)
    assert await outcome(room, user, arguments=POST) == ("allow", None)


async def test_time_and_role_and_provider_count(room: AdminRoom) -> None:
    user = await room.room.user()
    early, late = f"{DAY}05:00:00Z", f"{DAY}09:00:00+00:00"
    assert await outcome(room, user, "slack_channels", at=early) == ("forbid", "night")
    assert await outcome(room, user, "slack_channels", at=late) == ("allow", None)
    assert await outcome(room, user, "exchange", provider="github", scopes=["repo"]) == ("allow", None)
    await people.set_role(room.operator, user, Role.AUDITOR)
    assert await outcome(room, user, "exchange", provider="github", scopes=["repo"]) == ("forbid", "exchange")
    assert await outcome(room, user, "exchange", provider="gitlab", scopes=["api"]) == ("allow", None)


@pytest.mark.parametrize(
    ("call", "given", "seen"),
    [
        ("exchange", {"provider": "github", "scopes": ["metadata:read"]}, "github"),
        ("proxy", PROFILE, "google"),
        ("request", {"provider": "token-vault", "scopes": ["openid"]}, "token-vault"),
        ("slack_channels", {}, "slack"),
    ],
)
async def test_rules_see_the_provider_that_the_gate_sees(
    room: AdminRoom, call: str, given: dict[str, object], seen: str
) -> None:
    user, gate, folder = await room.room.user(), room.deployment.policy, room.deployment.settings.policy.folder
    assert gate is not None
    assert folder is not None
    for name in (seen, "another"):
        about = f'forbid(principal, action == Action::"{call}", resource) when {{ resource.provider == "{name}" }};'
        put(folder / "rules.cedar", f'@id("seen") {about}')
        await look_twice(gate)
        told = await outcome(room, user, call, **given)  # pyright: ignore[reportArgumentType]
        assert told == (("forbid", "seen") if name == seen else ("allow", None))


async def test_the_rules_about_tools_that_a_token_could_replace_are_listed_as_well(room: AdminRoom) -> None:
    user = await room.room.user()
    for scope, outcome, rule, met in (
        ("chat:write", "ask", "first", ["contractors", "first"]),
        ("channels:read", "forbid", "night", ["night"]),
        ("users:read", "allow", None, []),
    ):
        found = (await explain(room, user, "exchange", provider="slack", scopes=[scope], at=f"{DAY}05:00:00Z")).json()
        assert (found["outcome"], found["rule"]) == (outcome, rule)
        assert [one["rule"] for one in found["met"]] == met
    used = (await explain(room, user, arguments=POST, scopes=["channels:read"])).json()
    assert [one["rule"] for one in used["met"]] == ["contractors", "first"], "a tool's call replaces no other tool"


@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.7", ""])
@pytest.mark.parametrize("within", [(), ("Contractors",)])
async def test_the_explanation_is_what_the_gate_decides(room: AdminRoom, within: tuple[str, ...], address: str) -> None:
    user, client, deployment = await room.room.user(), await room.room.agent(), room.deployment
    await join(room, user, *within)
    question = PolicyQuestion(
        user_id=user.id,
        client_id=client.id,
        actors=(),
        provider="slack",
        connection_id="c",
        account="a",
        scopes=frozenset({"chat:write"}),
        purpose="slack_post",
        label="Team",
        call=ToolCall("slack_post", lambda: POST),
        address=address,
    )
    gate = deployment.policy
    assert gate is not None
    decided = await gate(question, deployment.database, now=deployment.now())
    told = await outcome(room, user, arguments=POST, agent_id=client.id, account="Team", address=address)
    assert told == (decided.outcome.value, decided.rule or None)


async def test_the_shadow_is_asked_where_there_is_one(room: AdminRoom) -> None:
    user, gate = await room.room.user(), room.deployment.policy
    assert gate is not None
    assert await outcome(room, user, arguments=POST, shadow=True) == ("allow", None)
    folder = room.deployment.settings.policy.shadow_folder
    assert folder is not None
    put(folder / "rules.cedar", '@id("tried") forbid(principal, action == Action::"slack_post", resource);')
    await look_twice(gate)
    assert await outcome(room, user, arguments=POST, shadow=True) == ("forbid", "tried")
    assert await outcome(room, user, arguments=POST) == ("allow", None)
    gate.shadow = None
    problem(await explain(room, user, arguments=POST, shadow=True), 404, "no_rules")


async def test_a_vault_without_rules_says_so(tmp_path: Path) -> None:
    async with running_admin_room(tmp_path / "vault") as room:
        user = await room.room.user()
        said = problem(await explain(room, user, arguments=POST), 404, "no_rules")
        assert said["detail"] == "This vault has no such rules: set policy.folder."


@pytest.mark.parametrize(
    ("changes", "pointer", "says"),
    [
        ({"call": "slack_pots"}, "/call", "Did you mean slack_post?"),
        ({"arguments": {"channel": "#general"}}, "/arguments", "slack_post: text: Field required"),
        ({"call": "exchange", "provider": "nowhere"}, "/provider", "no provider has this name"),
        ({"call": "exchange"}, "/provider", "name the provider of the account that exchange uses"),
        ({"call": "proxy"}, "/provider", "name the provider of the account that proxy uses"),
        ({"call": "request"}, "/provider", "request uses no account: write token-vault"),
        ({"call": "request", "provider": "slack"}, "/provider", "request uses no account: write token-vault"),
        ({"call": "exchange", "provider": "slack"}, "/scopes", "name those that the exchange asks for"),
        ({"call": "request", "provider": "token-vault"}, "/scopes", "name those that the request asks for"),
        ({"provider": "github"}, "/provider", "slack_post is a tool of slack: write that, or omit it"),
        ({"at": "1999-12-31T23:59:59Z"}, "/at", "use a year from 2000 to 2099"),
        ({"at": "2026-11-30T05:00:00"}, "/at", "timezone"),
        ({"signed_in_seconds": -1}, "/signed_in_seconds", "greater than or equal to 0"),
        ({"groups": ["Contractors"]}, "/groups", "there is no such key. Valid ones: "),
    ],
    ids=str,
)
async def test_a_use_that_cannot_happen_is_refused(
    room: AdminRoom, changes: dict[str, object], pointer: str, says: str
) -> None:
    user = await room.room.user()
    given: dict[str, object] = {"call": "slack_post", "arguments": POST, "at": "2026-11-30T09:00:00Z"}
    assert await outcome(room, user, **given) == ("allow", None)  # pyright: ignore[reportArgumentType]
    refused = await explain(room, user, **{**given, **changes})  # pyright: ignore[reportArgumentType]
    (wrong,) = problem(refused, 400, "invalid_request")["errors"]  # pyright: ignore
    assert wrong["pointer"] == pointer
    assert says in wrong["message"]


@pytest.mark.parametrize(
    ("given", "changes", "field", "says"),
    [
        (LIST, {"api": ""}, "api", "use an API of slack: web"),
        (LIST, {"api": "wep"}, "api", "use an API of slack: web"),
        (LIST, {"method": ""}, "method", "use one that the request rules of slack allow: GET, POST"),
        (LIST, {"method": "get"}, "method", "use one that the request rules of slack allow: GET, POST"),
        (LIST, {"path": ""}, "path", "no request rule of slack for GET has this path"),
        (LIST, {"path": "/conversations.lists"}, "path", "has this path. Did you mean /conversations.list"),
        (LIST, {"path": "/chat.postMessage", "scopes": ["chat:write"]}, "path", "no request rule of slack for GET"),
        (LIST, {"scopes": []}, "scopes", "use those that allow this call at slack: channels:read"),
        (LIST, {"scopes": ["chat:write"]}, "scopes", "use those that allow this call at slack: channels:read"),
        (REPOSITORY, {"path": "/repos/a/b"}, "path", "has this path: write /repos/{}/{}"),
        (PROFILE, SECRETS, "path", "no request rule of google for GET has this path"),
    ],
    ids=str,
)
async def test_a_proxied_call_that_the_proxy_would_refuse_is_refused(
    room: AdminRoom, given: dict[str, object], changes: dict[str, object], field: str, says: str
) -> None:
    user = await room.room.user()
    assert await outcome(room, user, "proxy", **given, at=f"{DAY}09:00:00Z") == ("allow", None)  # pyright: ignore
    refused = await explain(room, user, "proxy", **{**given, **changes})  # pyright: ignore[reportArgumentType]
    (wrong,) = problem(refused, 400, "invalid_request")["errors"]  # pyright: ignore
    assert wrong["pointer"] == f"/{field}"
    assert says in wrong["message"]


async def test_an_auditor_may_ask_and_nothing_is_recorded(room: AdminRoom) -> None:
    user = await room.room.user()
    await join(room, user, "contractors")
    await people.set_role(room.operator, user, Role.AUDITOR)
    token = await room.signed_in_token("admin:read", name=user.name)
    before = [one.sequence for one in await read_events(room.deployment)]
    body = {"call": "slack_post", "person_id": user.id, "agent_id": "x", "arguments": POST}
    answer = await room.call("POST", "/policies/explanations", token=token, json=body)
    assert (answer.status_code, answer.json()["rule"]) == (200, "contractors")
    gone = await room.call("POST", "/policies/explanations", token=token, json={**body, "person_id": "nobody"})
    problem(gone, 404, "no_person")
    assert [one.sequence for one in await read_events(room.deployment)] == before

"""RFC 8693: what is answered to whom, of which subject, for which target; over plain HTTP against the simulator."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from providers.definitions.catalog import Catalog, load_catalog
from providers.simulator.running import running_simulator
from server.connecting.links import LINKS
from server.oauth.dpop import token_hash
from server.oauth.exchange import targets
from server.oauth.rules import TOKEN_EXCHANGE, OAuthError
from tests.oauth.test_rfc9449 import KEY, OTHER
from tests.oauth.test_rfc9449 import proof as proof_for
from tests.support.exchange_room import ACCESS, API, EVENTS, JWT, READONLY, REFRESH, ExchangeRoom, refused
from tests.support.mcp_room import SLACK, room
from tests.support.oauth_world import claims_of
from tests.support.peeking import get_grant
from vault import clients, connections, delegations, grants, handles, users
from vault import tokens as refresh_tokens
from vault.records import ClientKind


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    async with (
        room(tmp_path_factory.mktemp("exchange") / "data") as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=20, trust_env=False) as http,
    ):
        yield ExchangeRoom(opened, http)


@pytest.fixture
async def person(place: ExchangeRoom) -> str:
    """A person of this test's own."""
    place_of = f"person-{len(await users.list_users(place.deployment.database))}"
    await place.user(place_of)
    return place_of


def proof(place: ExchangeRoom, **options: object) -> dict[str, str]:
    return {"DPoP": proof_for(place, "POST", "/token", **options)}


# What is answered


@pytest.mark.requirement("S-113", "S-117")
async def test_a_confidential_client_gets_a_handle_where_the_provider_cannot_narrow(
    place: ExchangeRoom, person: str
) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    connection = await place.slack(agent)
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    content = answer.json()
    assert content.keys() == {
        "access_token",
        "issued_token_type",
        "token_type",
        "expires_in",
        "scope",
        "narrowing",
        "api_base_url",
    }
    assert content["access_token"].startswith("tvp_")
    assert content["issued_token_type"] == ACCESS
    assert (content["token_type"], content["scope"], content["narrowing"]) == ("Bearer", "chat:write", "enforced")
    assert content["expires_in"] == 300
    assert content["api_base_url"] == f"{place.url}/proxy/{connection.id}/web"
    found = await handles.find(place.deployment.database, content["access_token"], now=place.now())
    assert (found.connection_id, found.scopes) == (connection.id, frozenset({"chat:write"}))
    assert found.principal.grant_id == agent.principal.grant_id


@pytest.mark.requirement("S-113")
async def test_a_confidential_client_gets_the_providers_own_token_where_that_is_narrow(
    place: ExchangeRoom, person: str
) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.google(agent)
    content = (await place.exchange(caller, agent.token, audience="google", scope=READONLY)).json()
    assert content["narrowing"] == "upstream"
    assert content["scope"] == READONLY
    assert content.keys() == {"access_token", "issued_token_type", "token_type", "expires_in", "scope", "narrowing"}
    assert content["token_type"] == "Bearer"
    assert content["access_token"] != agent.token
    assert 0 < content["expires_in"] <= 3600  # no longer than the subject
    base = place.deployment.catalog.provider("google").apis["calendar"]
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {content['access_token']}"}) as http:
        assert (await http.get(f"{base}/calendars/primary/events")).status_code == 200
        wider = await http.post(f"{base}/calendars/primary/events", json={"summary": "x"})
        assert wider.status_code == 403
    (event,) = [one for one in await place.events("token.released") if one.client_id == caller.client.id]
    assert event.details["narrowing"] == "upstream"


async def test_the_body_can_be_a_form_or_json_and_other_grants_take_forms_only(
    place: ExchangeRoom, person: str
) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    form = place.form(caller, agent.token, scope="chat:write")
    assert (await place.http.post("/token", json=form)).status_code == 200
    assert (await place.http.post("/token", json={**form, "account": None})).status_code == 200
    refresh = {
        "grant_type": "refresh_token",
        "refresh_token": await place.refresh_token(agent),
        **caller.credentials,
    }
    assert refused(await place.http.post("/token", json=refresh)) == "invalid_request"
    assert (await place.http.post("/token", data=refresh)).status_code == 200
    for broken in ({**form, "scope": ["chat:write"]}, {**form, "account": 1}, [form], {**form, "account": "a\0"}):
        assert refused(await place.http.post("/token", json=broken)) == "invalid_request"
    twice = json.dumps(form)[:-1] + ', "scope": "chat:write"}'
    answer = await place.http.post("/token", content=twice, headers={"Content-Type": "application/json"})
    assert refused(answer) == "invalid_request"


@pytest.mark.parametrize(
    "target",
    [
        {"audience": "google"},
        {"audience": "google-calendar"},
        {"audience": "{connection}"},
        {"audience": None, "resource": "{base}"},
        {"audience": None, "resource": "{base}/"},
        {"audience": None, "resource": "{base}/calendars/primary/events"},
        {"audience": "{base}"},
        {"audience": "google", "resource": "{base}"},
    ],
    ids=str,
)
async def test_the_target_is_a_name_or_an_address(
    place: ExchangeRoom, person: str, target: dict[str, str | None]
) -> None:
    caller = await place.caller(release={"default": "proxy"})
    agent = await place.agent(caller, person)
    connection = await place.google(agent)
    base = place.deployment.catalog.provider("google").apis["calendar"]
    named = {name: value and value.format(connection=connection.id, base=base) for name, value in target.items()}
    answer = await place.exchange(caller, agent.token, **named)
    assert answer.status_code == 200, answer.text
    assert answer.json()["api_base_url"] == f"{place.url}/proxy/{connection.id}/calendar"


@pytest.mark.requirement("S-112", "S-116")
@pytest.mark.parametrize(
    ("target", "code"),
    [
        ({"audience": None}, "invalid_request"),
        ({"audience": "nobody"}, "invalid_target"),
        ({"audience": "https://evil.example"}, "invalid_target"),
        ({"audience": None, "resource": "https://evil.example/api"}, "invalid_target"),
        ({"audience": None, "resource": "{base}.evil.example"}, "invalid_target"),
        ({"audience": "google", "resource": "{base}"}, "invalid_target"),
        ({"audience": "slack", "resource": "https://evil.example"}, "invalid_target"),
        ({"audience": "slack", "resource": "{url}/mcp"}, "invalid_target"),
        ({"audience": "{url}/mcp", "resource": "{base}"}, "invalid_target"),
        ({"audience": "slack", "resource": "{base}", "audience ": "x"}, None),
        ({"audience": "Slack"}, "invalid_target"),
        ({"audience": None, "resource": "{base}/../google"}, "invalid_target"),
        ({"audience": None, "resource": "{base}/%2E%2e/x"}, "invalid_target"),
        ({"audience": None, "resource": "{base}/x%2fy"}, "invalid_target"),
        ({"audience": None, "resource": "{base}/x?y=1"}, "invalid_target"),
        ({"audience": None, "resource": "{base}/x#y"}, "invalid_target"),
        ({"audience": None, "resource": "{base}/x"}, None),
    ],
    ids=str,
)
async def test_an_unknown_or_contradictory_target_is_refused(
    place: ExchangeRoom, person: str, target: dict[str, str | None], code: str | None
) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    base = place.deployment.catalog.provider("slack").apis["web"]
    named = {name: value and value.format(url=place.url, base=base) for name, value in target.items()}
    answer = await place.exchange(caller, agent.token, scope="chat:write", **named)
    assert (None if answer.status_code == 200 else refused(answer)) == code


async def test_two_words_for_the_account_that_do_not_agree_are_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    mine, other = await place.slack(agent), await place.slack(agent, account="bob")
    for named, code in (
        ({"audience": mine.id, "account": other.label}, "invalid_target"),
        ({"audience": mine.id, "login_hint": other.id}, "invalid_target"),
        ({"account": mine.label, "login_hint": other.label}, "invalid_request"),
        ({"audience": mine.id, "account": mine.label}, None),
        ({"account": mine.label, "login_hint": mine.label}, None),
    ):
        answer = await place.exchange(caller, agent.token, scope="chat:write", **named)
        assert (None if answer.status_code == 200 else refused(answer)) == code, named
    # an agent that may not use the account learns nothing by guessing what it is called
    asking = await place.caller()
    stranger = await place.agent(asking, person)
    for guess in (mine.label, other.label):
        answer = await place.exchange(asking, stranger.token, scope="chat:write", audience=mine.id, account=guess)
        assert refused(answer) == "access_denied"


def test_a_handle_is_for_an_api_in_which_its_scopes_allow_something() -> None:
    google = load_catalog().provider("google")
    for scope, api in (("calendar.events", "calendar"), ("gmail.readonly", "gmail"), ("drive.readonly", "drive")):
        assert targets.api_for(google, frozenset({f"https://www.googleapis.com/auth/{scope}"})) == api
    assert targets.api_for(google, frozenset({"nowhere"})) == "calendar"


async def test_a_scope_that_is_no_list_of_names_is_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    for scope in ("chat:write\tchannels:read", "chat:write\n", "chat:write\u00a0x", 'chat:"write', " ", "x" * 5000):
        answer = await place.exchange(caller, agent.token, scope=scope)
        assert refused(answer) == "invalid_scope"
        assert "connect_uri" not in answer.json()
    for scope in ("chat:write", "chat:write channels:read", " chat:write  channels:read "):
        assert (await place.exchange(caller, agent.token, scope=scope)).status_code == 200


async def test_an_alias_without_a_scope_means_what_the_alias_stands_for(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.google(agent, delegated=frozenset({READONLY}))
    assert (await place.exchange(caller, agent.token, audience="google")).json()["scope"] == READONLY
    answer = await place.exchange(caller, agent.token, audience="google-calendar")
    assert refused(answer) == "invalid_scope"
    assert answer.json()["missing_scope"] == EVENTS


async def test_repeated_parameters_and_other_kinds_of_token_are_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    form = place.form(caller, agent.token)
    twice = [*form.items(), ("audience", "google")]
    body = "&".join(f"{name}={value}" for name, value in twice)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert refused(await place.http.post("/token", content=body, headers=headers)) == "invalid_request"
    for wanted in (REFRESH, JWT, "urn:ietf:params:oauth:token-type:id_token", "x"):
        answer = await place.exchange(caller, agent.token, requested_token_type=wanted)
        assert refused(answer) == "invalid_request"
    assert (await place.exchange(caller, agent.token, requested_token_type=ACCESS)).status_code == 200


# Authority: the meet of four


@pytest.mark.requirement("S-112")
async def test_wider_than_the_delegation_is_refused_by_name_with_a_link(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent, delegated=frozenset({"channels:read"}))
    answer = await place.exchange(caller, agent.token, scope="chat:write channels:read")
    assert (answer.status_code, refused(answer)) == (400, "invalid_scope")
    content = answer.json()
    assert content["missing_scope"] == "chat:write"
    assert content["reason"] == "delegation"
    assert content["connect_uri"].startswith(f"{place.url}/connect/")
    assert content["user_code"]
    granted = await place.exchange(caller, agent.token, scope="channels:read")
    assert granted.json()["scope"] == "channels:read"


@pytest.mark.requirement("S-112")
async def test_wider_than_the_account_is_refused_by_name_with_a_link(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent, delegated=SLACK | {"groups:read"})
    answer = await place.exchange(caller, agent.token, scope="chat:write groups:read")
    assert (answer.status_code, refused(answer)) == (400, "invalid_scope")
    assert answer.json()["missing_scope"] == "groups:read"
    assert answer.json()["reason"] == "scopes"
    assert answer.json()["connect_uri"]
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


async def test_a_scope_that_nobody_knows_is_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    assert refused(await place.exchange(caller, agent.token, scope="chat:write made:up")) == "invalid_scope"


@pytest.mark.requirement("S-112")
async def test_wider_than_the_operators_limit_is_refused_by_name_without_a_link(tmp_path: Path) -> None:
    async with (
        running_simulator() as simulator,
        room(
            tmp_path / "data",
            providers={"slack": {**simulator.settings()["slack"], "scopes": ["channels:read"]}},
            sandbox={"loopback_upstreams": True},
        ) as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=20, trust_env=False) as http,
    ):
        place = ExchangeRoom(opened, http)
        caller = await place.caller()
        agent = await place.agent(caller)
        await place.slack(agent)
        answer = await place.exchange(caller, agent.token, scope="chat:write channels:read")
        assert refused(answer) == "invalid_scope"
        assert answer.json()["missing_scope"] == "chat:write"
        assert "connect_uri" not in answer.json(), "no person can fix that"
        assert (await place.exchange(caller, agent.token, scope="channels:read")).status_code == 200
        assert (await place.exchange(caller, agent.token)).json()["scope"] == "channels:read"


async def test_a_provider_that_nobody_set_up_is_said_to_be_that(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    answer = await place.exchange(caller, agent.token, audience="github")
    assert refused(answer) == "invalid_target"
    assert answer.json()["reason"] == "not_configured"
    assert "connect_uri" not in answer.json()
    assert "connect_uri" in (await place.exchange(caller, agent.token, audience="slack")).json()


async def test_an_address_that_two_providers_have_needs_a_name_beside_it(place: ExchangeRoom, person: str) -> None:
    slack = place.deployment.catalog.provider("slack")
    twin = slack.model_copy(update={"name": "slack-bot", "aliases": {}})
    both = replace(place.deployment, catalog=Catalog([slack, twin]))
    base = slack.apis["web"]
    with pytest.raises(OAuthError) as refusal:
        await targets.resolve(both, audience=None, resource=base, user_id="nobody")
    assert refusal.value.code == "invalid_target"
    assert "slack-bot" in refusal.value.description
    named = await targets.resolve(both, audience="slack-bot", resource=base, user_id="nobody")
    assert isinstance(named, targets.UpstreamTarget)
    assert named.provider.name == "slack-bot"


async def test_an_account_that_is_not_connected_is_asked_for(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert (answer.status_code, refused(answer)) == (400, "invalid_target")
    assert answer.json()["reason"] == "missing"
    assert answer.json()["connect_uri"].startswith(f"{place.url}/connect/")
    await place.slack(agent)
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


async def test_a_program_in_a_loop_gets_no_more_links_for_a_while(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent, other = await place.agent(caller, person), await place.agent(caller, person)
    links = [(await place.exchange(caller, agent.token)).json().get("connect_uri") for _ in range(LINKS + 2)]
    assert [link is not None for link in links] == [True] * LINKS + [False] * 2
    answer = await place.exchange(caller, agent.token)
    assert (refused(answer), answer.json()["reason"]) == ("invalid_target", "missing")
    assert "connect_uri" in (await place.exchange(caller, other.token)).json()


async def test_an_account_that_the_agent_may_not_use_is_asked_for_without_naming_it(
    place: ExchangeRoom, person: str
) -> None:
    caller, other = await place.caller(), await place.caller()
    agent, connected = await place.agent(caller, person), await place.agent(other, person)
    connection = await place.slack(connected, account="carol")
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert (answer.status_code, refused(answer)) == (403, "access_denied")
    assert answer.json()["reason"] == "delegation"
    assert answer.json()["connect_uri"]
    assert connection.label not in answer.text
    assert connection.id not in answer.text
    await place.room.allow(agent, connection, frozenset({"chat:write"}))
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


async def test_a_connection_that_needs_its_person_again_is_asked_for(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    connection = await place.slack(agent)
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200
    async with place.deployment.transaction() as transaction:
        await transaction.execute("update connections set state = 'needs_reauth' where id = :id", {"id": connection.id})
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert refused(answer) == "invalid_target"
    assert answer.json()["reason"] == "needs_reauth"
    assert answer.json()["connect_uri"]


@pytest.mark.requirement("S-116")
async def test_of_several_accounts_one_has_to_be_named(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    first = await place.slack(agent, account="alice")
    second = await place.slack(agent, account="bob")
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert refused(answer) == "invalid_target"
    assert answer.json()["accounts"] == sorted([first.label, second.label])
    for name in ("account", "login_hint"):
        for word in (second.id, second.account, second.label):
            content = (await place.exchange(caller, agent.token, scope="chat:write", **{name: word})).json()
            assert content["api_base_url"].split("/")[-2] == second.id


@pytest.mark.requirement("S-116")
async def test_an_agent_that_may_use_none_of_several_accounts_learns_of_none_by_guessing(
    place: ExchangeRoom, person: str
) -> None:
    caller, other = await place.caller(), await place.caller()
    agent, connected = await place.agent(caller, person), await place.agent(other, person)
    first = await place.slack(connected, account="alice")
    second = await place.slack(connected, account="bob")
    narrow = await place.room.connect(connected, "slack", scopes=frozenset({"users:read"}), account="carol")
    answers: list[dict[str, object]] = []
    for guess in (None, first.label, second.account, narrow.label, "nobody@example.com"):
        answer = await place.exchange(caller, agent.token, scope="chat:write", account=guess)
        assert (answer.status_code, refused(answer)) == (403, "access_denied")
        assert not any(one.label in answer.text or one.id in answer.text for one in (first, second, narrow))
        content = answer.json()
        assert content.pop("connect_uri")
        assert content.pop("user_code")
        answers.append(content)
    assert all(one == answers[0] for one in answers)
    await place.room.allow(agent, second, frozenset({"chat:write"}))
    content = (await place.exchange(caller, agent.token, scope="chat:write", account=second.label)).json()
    assert content["api_base_url"].split("/")[-2] == second.id


@pytest.mark.requirement("S-116")
async def test_no_parameter_reaches_another_users_account(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    mine = await place.slack(agent)
    stranger = await place.agent(caller, f"{person}-other")
    theirs = await place.slack(stranger, account="carol")
    their_user = stranger.principal.user_id
    parameters = (
        "account",
        "login_hint",
        "user",
        "user_id",
        "sub",
        "subject",
        "tenant",
        "connection",
        "connection_id",
        "act",
    )
    for name in parameters:
        for value in (theirs.id, theirs.account, theirs.label, their_user):
            answer = await place.exchange(caller, agent.token, scope="chat:write", **{name: value})
            if answer.status_code == 200:
                assert answer.json()["api_base_url"].split("/")[-2] == mine.id
            assert theirs.id not in answer.text
    for audience in (theirs.id, theirs.account):
        answer = await place.exchange(caller, agent.token, audience=audience)
        assert refused(answer) == "invalid_target"
    assert (await place.exchange(caller, agent.token, audience=mine.id)).status_code == 200


# Subject tokens


@pytest.mark.requirement("S-110")
async def test_what_is_no_access_token_of_ours_is_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    handle = (await place.exchange(caller, agent.token, scope="chat:write")).json()["access_token"]
    head, body, signature = agent.token.split(".")
    others = {
        "handle": handle,
        "refresh token": await place.refresh_token(agent),
        "secret": "s" * 43,
        "garbage": "a.b.c",
        "not signed": f"{head}.{body}.",
        "cut": f"{head}.{body}.{signature[:-4]}",
        "altered": f"{head}.{body[:-2]}AA.{signature}",
        "none": f"eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{body}.",
        "long": "a" * 9000,
    }
    for name, token in others.items():
        assert refused(await place.exchange(caller, token, scope="chat:write")) == "invalid_request", name
    for kind in (REFRESH, JWT, "urn:ietf:params:oauth:token-type:id_token", "access_token", "x"):
        answer = await place.exchange(caller, agent.token, kind=kind, scope="chat:write")
        assert refused(answer) == "invalid_request", kind
    for left_out in ("subject_token", "subject_token_type"):
        answer = await place.exchange(caller, agent.token, **{left_out: None})
        assert refused(answer) == "invalid_request"
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


@pytest.mark.requirement("S-110")
@pytest.mark.parametrize("end", ["grant", "client", "user", "time"])
async def test_a_subject_that_has_ended_is_refused(place: ExchangeRoom, person: str, end: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200
    database, now = place.deployment.database, place.now()
    async with database.transaction() as transaction:
        if end == "grant":
            await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=now)
        elif end == "client":
            await clients.remove_client(transaction, caller.client.id, now=now)
        elif end == "user":
            await users.disable_user(transaction, agent.principal.user_id, now=now)
    database.clock_offset += 3590 if end == "time" else 0
    try:
        answer = await place.exchange(caller, agent.token, scope="chat:write")
        if end == "time":
            assert answer.json()["expires_in"] <= 10  # S-115
            database.clock_offset += 10
            answer = await place.exchange(caller, agent.token, scope="chat:write")
    finally:
        database.clock_offset -= 3600 if end == "time" else 0
    assert refused(answer) == ("invalid_client" if end == "client" else "invalid_request")


@pytest.mark.requirement("S-110", "S-111")
async def test_a_strangers_token_is_refused(place: ExchangeRoom, person: str) -> None:
    caller, other = await place.caller(), await place.caller()
    agent, stranger = await place.agent(caller, person), await place.agent(other, person)
    await place.slack(agent)
    await place.slack(stranger)
    assert refused(await place.exchange(caller, stranger.token, scope="chat:write")) == "invalid_request"
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


async def test_a_token_without_the_scope_exchange_is_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person, scopes=frozenset({"tools"}))
    await place.slack(agent)
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert refused(answer) == "invalid_request"
    assert "exchange" in answer.json()["error_description"]
    agent = await place.agent(caller, person)
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


async def test_a_client_without_the_grant_type_is_refused(place: ExchangeRoom, person: str) -> None:
    for grant_types, code in ((("authorization_code",), "unauthorized_client"), ((TOKEN_EXCHANGE,), None)):
        caller = await place.caller(grant_types=grant_types)
        agent = await place.agent(caller, person)
        await place.slack(agent)
        answer = await place.exchange(caller, agent.token, scope="chat:write")
        assert (refused(answer) if code else None) == code
    wrong = await place.exchange(caller, agent.token, client_secret="x" * 43)
    assert (wrong.status_code, refused(wrong)) == (401, "invalid_client")


async def test_presenting_a_refresh_token_neither_uses_nor_rotates_it(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    token = await place.refresh_token(agent)
    for _ in range(3):
        answer = await place.exchange(caller, token, kind=REFRESH, scope="chat:write")
        assert answer.status_code == 200, answer.text
        assert "refresh_token" not in answer.json()
    form = {"grant_type": "refresh_token", "refresh_token": token, **caller.credentials}
    renewed = await place.http.post("/token", data=form)
    assert renewed.status_code == 200
    # the one that was used is over, its successor is good
    assert refused(await place.exchange(caller, token, kind=REFRESH, scope="chat:write")) == "invalid_request"
    successor = renewed.json()["refresh_token"]
    assert (await place.exchange(caller, successor, kind=REFRESH, scope="chat:write")).status_code == 200


@pytest.mark.requirement("S-110")
async def test_a_refresh_token_counts_for_its_own_client_only(place: ExchangeRoom, person: str) -> None:
    caller, other = await place.caller(), await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    token = await place.refresh_token(agent)
    assert refused(await place.exchange(other, token, kind=REFRESH, scope="chat:write")) == "invalid_request"
    without = await place.refresh_token(agent, scopes=frozenset({"tools"}))
    assert refused(await place.exchange(caller, without, kind=REFRESH, scope="chat:write")) == "invalid_request"
    assert (await place.exchange(caller, token, kind=REFRESH, scope="chat:write")).status_code == 200
    async with place.deployment.transaction() as transaction:
        await refresh_tokens.revoke_token(transaction, token, client_id=caller.client.id, now=place.now())
    assert refused(await place.exchange(caller, token, kind=REFRESH, scope="chat:write")) == "invalid_request"


# A custom API client


@pytest.mark.requirement("S-111")
async def test_an_api_exchanges_the_tokens_that_it_receives(place: ExchangeRoom, person: str) -> None:
    spa, api = await place.caller(public=True), await place.caller()
    await place.link(api)
    received = await place.agent(spa, person, audience=API)
    # it is the API that acts: what the person let the page use is not its own
    await place.slack(received)
    asked = await place.exchange(api, received.token, scope="chat:write")
    assert refused(asked) == "access_denied"
    (connection,) = await connections.list_connections(place.deployment.database, received.principal.user_id)
    as_api = await place.agent(api, person)
    await place.room.allow(as_api, connection, frozenset({"chat:write"}))
    answer = await place.exchange(api, received.token, scope="chat:write")
    assert answer.status_code == 200, answer.text
    handle = await handles.find(place.deployment.database, answer.json()["access_token"], now=place.now())
    assert handle.principal.client_id == api.client.id
    assert handle.principal.actors == (api.client.id, spa.client.id)
    assert handle.principal.grant_id not in {received.principal.grant_id, as_api.principal.grant_id}
    # cutting the page off ends what the API made of its token
    async with place.deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, received.principal.grant_id, reason="test", now=place.now())
    derived = await get_grant(place.deployment.database, handle.principal.grant_id)
    assert derived is not None
    assert not derived.is_live
    assert refused(await place.exchange(api, received.token, scope="chat:write")) == "invalid_request"


@pytest.mark.requirement("S-110", "S-111")
async def test_only_the_api_itself_may_present_tokens_for_it(place: ExchangeRoom, person: str) -> None:
    spa, api, other = await place.caller(public=True), await place.caller(), await place.caller(resources=(API,))
    await place.link(api)
    elsewhere = "https://elsewhere.example/"
    await place.link(other, elsewhere)
    received = await place.agent(spa, person, audience=API)
    await place.slack(await place.agent(other, person), account="bob")
    await place.slack(await place.agent(api, person), account="alice")
    good = await place.exchange(api, received.token, scope="chat:write", account="alice (Sandbox)")
    assert good.status_code == 200, good.text
    # linked to another API; and merely allowed to call this one
    assert refused(await place.exchange(other, received.token, scope="chat:write")) == "invalid_request"
    for_us = await place.agent(spa, person)
    assert refused(await place.exchange(api, for_us.token, scope="chat:write")) == "invalid_request"


# Public clients


@pytest.mark.requirement("S-111", "S-117")
@pytest.mark.parametrize("kind", [ClientKind.MANUAL, ClientKind.DYNAMIC, ClientKind.METADATA])
async def test_a_public_client_gets_a_short_handle_for_its_own_token_and_nothing_else(
    place: ExchangeRoom, person: str, kind: ClientKind
) -> None:
    caller = await place.caller(kind=kind, public=True, release={"google": "full", "default": "narrowed"})
    agent = await place.agent(caller, person)
    await place.google(agent)
    content = (await place.exchange(caller, agent.token, audience="google", scope=READONLY)).json()
    assert content["access_token"].startswith("tvp_")
    assert content["expires_in"] <= 300
    assert content["token_type"] == "Bearer"
    token = await place.refresh_token(agent)
    assert refused(await place.exchange(caller, token, kind=REFRESH, audience="google")) == "invalid_request"
    assert refused(await place.exchange(caller, "a.b.c", kind=JWT, audience="google")) == "invalid_request"
    other = await place.agent(await place.caller(public=True), person)
    assert refused(await place.exchange(caller, other.token, audience="google")) == "invalid_request"
    for_us = {"audience": f"{place.url}/mcp", "scope": "tools"}
    assert refused(await place.exchange(caller, agent.token, **for_us)) == "invalid_target"
    backend = await place.caller()
    assert (await place.exchange(backend, (await place.agent(backend, person)).token, **for_us)).status_code == 200


@pytest.mark.requirement("S-111")
@pytest.mark.parametrize("role", ["subject", "actor"])
async def test_whoever_receives_a_public_clients_token_cannot_act_as_that_client(
    place: ExchangeRoom, person: str, role: str
) -> None:
    """An API holds the page's token and knows the page's id; that must not be enough to be the page."""
    spa, api = await place.caller(public=True), await place.caller()
    await place.link(api)
    await place.slack(await place.agent(spa, person))

    async def present(token: str, *, headers: dict[str, str] | None = None) -> httpx2.Response:
        if role == "subject":
            return await place.exchange(spa, token, scope="chat:write", headers=headers)
        own = await place.agent(spa, person)
        acting = {"actor_token": token, "actor_token_type": ACCESS}
        return await place.exchange(spa, own.token, scope="chat:write", headers=headers, **acting)

    received = await place.agent(spa, person, audience=API)
    assert refused(await present(received.token)) == "invalid_request"
    assert refused(await present(received.token, headers=proof(place))) == "invalid_request"  # any key is no proof
    bound = await place.agent(spa, person, audience=API, key_thumbprint=KEY.thumbprint())
    assert refused(await present(bound.token)) == "invalid_request"
    assert refused(await present(bound.token, headers=proof(place, key=OTHER))) == "invalid_request"
    # the twins: for this vault, or with the key
    assert (await present((await place.agent(spa, person)).token)).status_code == 200
    assert (await present(bound.token, headers=proof(place))).status_code == 200
    # a confidential client proves who it is, whatever the audience
    backend = await place.caller()
    await place.slack(await place.agent(backend, person), account="bob")
    mine = await place.agent(backend, person, audience=API)
    named = {"scope": "chat:write", "account": "bob (Sandbox)"}
    assert (await place.exchange(backend, mine.token, **named)).status_code == 200


@pytest.mark.requirement("S-117")
@pytest.mark.parametrize("kind", [ClientKind.DYNAMIC, ClientKind.METADATA])
async def test_a_client_that_registered_itself_gets_handles_only_whatever_secret_it_has(
    place: ExchangeRoom, person: str, kind: ClientKind
) -> None:
    caller = await place.caller(kind=kind, release={"google": "full", "default": "narrowed"})
    agent = await place.agent(caller, person)
    await place.google(agent)
    content = (await place.exchange(caller, agent.token, audience="google", scope=READONLY)).json()
    assert content["access_token"].startswith("tvp_")
    by_operator = await place.caller()
    agent = await place.agent(by_operator, person)
    (connection,) = await connections.list_connections(place.deployment.database, agent.principal.user_id)
    await place.room.allow(agent, connection, frozenset({READONLY}))
    content = (await place.exchange(by_operator, agent.token, audience="google", scope=READONLY)).json()
    assert not content["access_token"].startswith("tvp_")


# Release policy


@pytest.mark.requirement("S-117")
async def test_the_whole_token_leaves_only_by_an_operators_act_for_that_provider(
    place: ExchangeRoom, person: str
) -> None:
    for chosen, narrowing in (({}, "enforced"), ({"google": "full"}, "enforced"), ({"slack": "full"}, "none")):
        caller = await place.caller(release=chosen)
        agent = await place.agent(caller, person)
        connection = await place.slack(agent)
        content = (await place.exchange(caller, agent.token, scope="chat:write")).json()
        assert content["narrowing"] == narrowing
        is_raw = not content["access_token"].startswith("tvp_")
        assert is_raw is (narrowing == "none")
        if is_raw:
            assert content["scope"].split() == sorted(SLACK), "the answer says what the token can do"
            assert "api_base_url" not in content
            events = [one for one in await place.events("token.released") if one.client_id == caller.client.id]
            assert [one.details["narrowing"] for one in events] == ["none"]
            assert content["access_token"] not in json.dumps([dict(one.details) for one in events])
    # one connection can be held back
    caller = await place.caller(release={"slack": "full", connection.id: "proxy"})
    agent = await place.agent(caller, person)
    await place.room.allow(agent, connection, SLACK)
    content = (await place.exchange(caller, agent.token, scope="chat:write")).json()
    assert content["access_token"].startswith("tvp_")


async def test_a_client_can_be_held_to_handles(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller(release={"default": "proxy"})
    agent = await place.agent(caller, person)
    await place.google(agent)
    content = (await place.exchange(caller, agent.token, audience="google", scope=READONLY)).json()
    assert content["access_token"].startswith("tvp_")
    assert content["narrowing"] == "upstream"


async def test_what_the_person_is_asked_about_each_time_is_handed_out_to_nobody(
    place: ExchangeRoom, person: str
) -> None:
    caller = await place.caller(release={"slack": "full"})
    agent = await place.agent(caller, person)
    connection = await place.slack(agent)
    async with place.deployment.transaction() as transaction:
        await delegations.set_ask(
            transaction,
            user_id=agent.principal.user_id,
            client_id=caller.client.id,
            connection_id=connection.id,
            ask=frozenset({"chat:write"}),
            now=place.now(),
        )
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert (answer.status_code, refused(answer)) == (403, "access_denied")
    assert answer.json()["reason"] == "approval"
    # the whole token holds it, too: a handle goes out instead, whatever the operator lets this client have
    content = (await place.exchange(caller, agent.token, scope="channels:read")).json()
    assert content["access_token"].startswith("tvp_")
    async with place.deployment.transaction() as transaction:
        await delegations.set_ask(
            transaction,
            user_id=agent.principal.user_id,
            client_id=caller.client.id,
            connection_id=connection.id,
            ask=frozenset(),
            now=place.now(),
        )
    content = (await place.exchange(caller, agent.token, scope="channels:read")).json()
    assert content["narrowing"] == "none"


async def test_public_clients_can_be_kept_out_by_one_switch(tmp_path: Path) -> None:
    for confidential_only in (True, False):
        async with (
            room(tmp_path / str(confidential_only), exchange={"confidential_only": confidential_only}) as opened,
            httpx2.AsyncClient(base_url=opened.url, timeout=20, trust_env=False) as http,
        ):
            place = ExchangeRoom(opened, http)
            for public in (True, False):
                caller = await place.caller(public=public)
                agent = await place.agent(caller)
                await place.slack(agent)
                answer = await place.exchange(caller, agent.token, scope="chat:write")
                is_out = public and confidential_only
                assert (refused(answer) if is_out else answer.status_code) == ("unauthorized_client" if is_out else 200)


async def test_an_operator_sets_how_long_handles_live_but_not_beyond_the_subject(tmp_path: Path) -> None:
    async with (
        room(tmp_path / "data", exchange={"handle_lifetime": 1800}, tokens={"access_lifetime": 900}) as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=20, trust_env=False) as http,
    ):
        place = ExchangeRoom(opened, http)
        backend, page = await place.caller(), await place.caller(public=True)
        for caller, kind, most in ((backend, ACCESS, 900), (backend, REFRESH, 1800), (page, ACCESS, 300)):
            agent = await place.agent(caller)
            await place.slack(agent)
            subject = agent.token if kind == ACCESS else await place.refresh_token(agent)
            answer = await place.exchange(caller, subject, kind=kind, scope="chat:write")
            assert most - 5 <= answer.json()["expires_in"] <= most


async def test_a_token_for_one_repository_is_for_that_one_and_never_a_handle(tmp_path: Path) -> None:
    granted = frozenset({"metadata:read", "contents:write", "issues:write"})
    async with running_simulator() as simulator:
        apis = load_catalog().provider("github").apis
        github = simulator.family_settings("github", apis=apis)
        async with (
            room(tmp_path / "data", providers={"github": github}, sandbox={"loopback_upstreams": True}) as opened,
            httpx2.AsyncClient(base_url=opened.url, timeout=20, trust_env=False) as http,
        ):
            place = ExchangeRoom(opened, http)
            caller, public = await place.caller(), await place.caller(public=True)
            agent = await place.agent(caller)
            connection = await opened.connect(agent, "github", scopes=granted)
            base = place.deployment.catalog.provider("github").apis["rest"]
            wanted = {"audience": "github", "resource": f"{base}/repos/octo/hello", "scope": "contents:read"}
            answer = await place.exchange(caller, agent.token, **wanted)
            assert answer.status_code == 200, answer.text
            assert answer.json()["narrowing"] == "upstream"
            assert "api_base_url" not in answer.json()
            whole = await place.exchange(caller, agent.token, **(wanted | {"resource": base}))
            assert whole.json()["access_token"].startswith("tvp_")
            by_page = await place.agent(public)
            await opened.allow(by_page, connection, granted)
            assert refused(await place.exchange(public, by_page.token, **wanted)) == "invalid_target"
            handle = await place.exchange(public, by_page.token, **(wanted | {"resource": base}))
            assert handle.json()["access_token"].startswith("tvp_")


# DPoP


async def test_a_handle_is_bound_to_the_key_that_was_proved(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller(public=True)
    agent = await place.agent(caller, person, key_thumbprint=KEY.thumbprint())
    await place.slack(agent)
    answer = await place.exchange(caller, agent.token, scope="chat:write", headers=proof(place))
    assert answer.status_code == 200, answer.text
    assert answer.json()["token_type"] == "DPoP"
    found = await handles.find(place.deployment.database, answer.json()["access_token"], now=place.now())
    assert found.key_thumbprint == KEY.thumbprint()
    # no downgrade: not without a proof, not with another key
    assert refused(await place.exchange(caller, agent.token, scope="chat:write")) == "invalid_request"
    other = proof(place, key=OTHER)
    assert refused(await place.exchange(caller, agent.token, scope="chat:write", headers=other)) == "invalid_request"
    # a plain token with a proof binds what comes out
    plain = await place.agent(caller, person)
    bound = await place.exchange(caller, plain.token, scope="chat:write", headers=proof(place))
    assert bound.json()["token_type"] == "DPoP"


async def test_an_api_needs_no_proof_of_its_callers_key(place: ExchangeRoom, person: str) -> None:
    spa, api = await place.caller(public=True), await place.caller()
    await place.link(api)
    received = await place.agent(spa, person, audience=API, key_thumbprint=KEY.thumbprint())
    await place.slack(await place.agent(api, person))
    answer = await place.exchange(api, received.token, scope="chat:write")
    assert answer.status_code == 200, answer.text
    assert answer.json()["token_type"] == "Bearer"
    bad = proof(place, ath=token_hash("x"), htm="GET")
    assert refused(await place.exchange(api, received.token, headers=bad)) == "invalid_dpop_proof"


# On behalf of: our own audiences


@pytest.mark.requirement("S-112", "S-113", "S-114")
async def test_an_api_gets_a_token_for_another_api_that_says_who_acts(place: ExchangeRoom, person: str) -> None:
    spa, front = await place.caller(public=True), await place.caller(resources=("https://back.example/",))
    await place.link(front)
    await place.link(await place.caller(), "https://back.example/", scopes=frozenset({"invoices.read", "other"}))
    scopes = frozenset({"exchange", "tools", "invoices.read", "openid"})
    received = await place.agent(spa, person, audience=API, scopes=scopes)
    for audience in ({"audience": "https://back.example/"}, {"audience": None, "resource": "https://back.example/"}):
        answer = await place.exchange(front, received.token, **audience, scope="invoices.read")
        assert answer.status_code == 200, answer.text
        content = answer.json()
        assert content.keys() == {"access_token", "issued_token_type", "token_type", "expires_in", "scope"}
        claims = claims_of(content["access_token"])
        assert claims["aud"] == "https://back.example/"
        assert claims["sub"] == received.principal.user_id
        assert claims["client_id"] == claims["azp"] == front.client.id
        assert claims["act"] == {"sub": front.client.id, "act": {"sub": spa.client.id}}
        assert claims["scope"] == content["scope"] == "invoices.read"
        assert claims["exp"] <= claims_of(received.token)["exp"]
    everything = await place.exchange(front, received.token, audience="https://back.example/")
    assert everything.json()["scope"] == "exchange invoices.read tools"
    wider = await place.exchange(front, received.token, audience="https://back.example/", scope="other tools")
    assert refused(wider) == "invalid_scope"
    assert wider.json()["missing_scope"] == "other"


@pytest.mark.requirement("S-112")
async def test_an_audience_that_the_client_may_not_call_is_refused(place: ExchangeRoom, person: str) -> None:
    await place.link(await place.caller(), "https://back.example/")
    for resources, code in (((), "invalid_target"), (("https://back.example/",), None)):
        caller = await place.caller(resources=resources)
        agent = await place.agent(caller, person, audience=f"{place.url}/mcp")
        answer = await place.exchange(caller, agent.token, audience="https://back.example/")
        assert (refused(answer) if code else answer.status_code) == (code or 200)


@pytest.mark.requirement("S-115")
async def test_exchanging_again_and_again_wins_neither_time_nor_scope(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    first = claims_of(agent.token)
    token, database = agent.token, place.deployment.database
    try:
        for hop in range(12):
            database.clock_offset += 60
            answer = await place.exchange(caller, token, audience=f"{place.url}/mcp")
            assert answer.status_code == 200, f"{hop}: {answer.text}"
            assert set(answer.json()["scope"].split()) <= set(str(first["scope"]).split())
            token = answer.json()["access_token"]
            claims = claims_of(token)
            assert claims["exp"] <= first["exp"]
            assert claims["act"] == {"sub": caller.client.id}
        database.clock_offset += 3600 - 12 * 60
        answer = await place.exchange(caller, token, audience=f"{place.url}/mcp")
        assert refused(answer) == "invalid_request"
    finally:
        database.clock_offset = 0


@pytest.mark.requirement("S-114")
async def test_a_chain_ends_after_four(place: ExchangeRoom, person: str) -> None:
    spa = await place.caller(public=True)
    names = [f"https://hop-{number}.example/" for number in range(6)]
    hops = [await place.caller(resources=(*names,)) for _ in names]
    for hop, name in zip(hops, names, strict=True):
        await place.link(hop, name)
    token = (await place.agent(spa, person, audience=names[0])).token
    for number in range(3):
        answer = await place.exchange(hops[number], token, audience=names[number + 1])
        assert answer.status_code == 200, answer.text
        token = answer.json()["access_token"]
    assert refused(await place.exchange(hops[3], token, audience=names[4])) == "invalid_request"
    assert refused(await place.exchange(hops[3], token, scope="chat:write")) == "invalid_request"


# Actor tokens


@pytest.mark.requirement("S-114")
async def test_an_actor_token_puts_its_client_outermost(place: ExchangeRoom, person: str) -> None:
    gateway, agent_client = await place.caller(resources=("https://back.example/",)), await place.caller(public=True)
    await place.link(await place.caller(), "https://back.example/")
    await place.link(gateway)
    mine = await place.agent(gateway, person)
    acting = await place.agent(agent_client, person, audience=API)
    good = {"audience": "https://back.example/", "actor_token": acting.token, "actor_token_type": ACCESS}
    answer = await place.exchange(gateway, mine.token, **good)
    assert answer.status_code == 200, answer.text
    assert claims_of(answer.json()["access_token"])["act"] == {
        "sub": agent_client.client.id,
        "act": {"sub": gateway.client.id},
    }
    other_user = await place.agent(agent_client, f"{person}-2", audience=API)
    elsewhere = await place.agent(agent_client, person)
    bad: list[dict[str, str | None]] = [
        {"actor_token_type": None},
        {"actor_token": None},
        {"actor_token_type": REFRESH},
        {"actor_token_type": JWT},
        {"actor_token": "a.b.c"},
        {"actor_token": other_user.token},
        {"actor_token": elsewhere.token},
    ]
    for change in bad:
        assert refused(await place.exchange(gateway, mine.token, **(good | change))) == "invalid_request", change
    async with place.deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, acting.principal.grant_id, reason="test", now=place.now())
    assert refused(await place.exchange(gateway, mine.token, **good)) == "invalid_request"


@pytest.mark.requirement("S-114")
async def test_no_parameter_dictates_the_chain(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    answer = await place.exchange(
        caller, agent.token, audience=f"{place.url}/mcp", act='{"sub":"x"}', actor="x", azp="x", sub="x", may_act="x"
    )
    claims = claims_of(answer.json()["access_token"])
    assert claims["act"] == {"sub": caller.client.id}
    assert (claims["sub"], claims["azp"]) == (agent.principal.user_id, caller.client.id)


# What else is known of a handle


async def test_a_client_introspects_and_gives_up_its_own_handles(place: ExchangeRoom, person: str) -> None:
    caller, other = await place.caller(), await place.caller()
    agent = await place.agent(caller, person)
    connection = await place.slack(agent)
    handle = (await place.exchange(caller, agent.token, scope="chat:write")).json()["access_token"]

    async def about(who: dict[str, str]) -> dict[str, object]:
        return (await place.http.post("/introspect", data={**who, "token": handle})).json()

    found = await about(dict(caller.credentials))
    assert found["active"] is True
    assert (found["sub"], found["client_id"]) == (agent.principal.user_id, caller.client.id)
    assert found["scope"] == "chat:write"
    assert found["aud"] == f"{place.url}/proxy/{connection.id}"
    assert found["act"] == {"sub": caller.client.id}
    assert await about(dict(other.credentials)) == {"active": False}
    await place.http.post("/revoke", data={**other.credentials, "token": handle})
    assert (await about(dict(caller.credentials)))["active"] is True
    await place.room.allow(agent, connection, frozenset({"channels:read"}))
    assert await about(dict(caller.credentials)) == {"active": False}
    await place.room.allow(agent, connection, frozenset({"chat:write"}))
    assert (await about(dict(caller.credentials)))["active"] is True
    await place.http.post("/revoke", data={**caller.credentials, "token": handle})
    assert await about(dict(caller.credentials)) == {"active": False}
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200, "the grant goes on"


# Pages


@pytest.mark.requirement("S-077")
async def test_pages_of_the_clients_own_origins_may_read_the_answer(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller(public=True)
    agent = await place.agent(caller, person)
    await place.slack(agent)
    for origin, may_read in (("https://app.example", True), ("https://evil.example", False), ("null", False)):
        headers = {"Origin": origin}
        good = await place.exchange(caller, agent.token, scope="chat:write", headers=headers)
        bad = await place.exchange(caller, agent.token, scope="groups:read", headers=headers)
        assert (good.status_code, bad.status_code) == (200, 400)
        for answer in (good, bad):
            assert answer.headers.get("access-control-allow-origin") == (origin if may_read else None)
            assert "access-control-allow-credentials" not in answer.headers
            assert "Origin" in answer.headers["vary"]


async def test_the_metadata_names_the_grant(place: ExchangeRoom) -> None:
    document = (await place.http.get("/.well-known/oauth-authorization-server")).json()
    assert TOKEN_EXCHANGE in document["grant_types_supported"]
    assert "exchange" in document["scopes_supported"]

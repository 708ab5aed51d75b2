"""RFC 8693 §2.2: what the answer contains, for which target, and what a client learns about it later."""

from __future__ import annotations

import json

import httpx2
import pytest

from providers.definitions.catalog import load_catalog
from server.oauth.exchange import targets
from server.oauth.rules import TOKEN_EXCHANGE
from tests.support.rooms.exchange_room import ACCESS, EVENTS, JWT, READONLY, REFRESH, ExchangeRoom, refusal_code
from vault import handles

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
    assert 0 < content["expires_in"] <= 3600  # not longer than the subject token
    base = place.deployment.catalog.provider("google").apis["calendar"]
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {content['access_token']}"}, timeout=30) as http:
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
    assert refusal_code(await place.http.post("/token", json=refresh)) == "invalid_request"
    assert (await place.http.post("/token", data=refresh)).status_code == 200
    for broken in ({**form, "scope": ["chat:write"]}, {**form, "account": 1}, [form], {**form, "account": "a\0"}):
        assert refusal_code(await place.http.post("/token", json=broken)) == "invalid_request"
    twice = json.dumps(form)[:-1] + ', "scope": "chat:write"}'
    answer = await place.http.post("/token", content=twice, headers={"Content-Type": "application/json"})
    assert refusal_code(answer) == "invalid_request"


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
    assert (None if answer.status_code == 200 else refusal_code(answer)) == code


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
        assert (None if answer.status_code == 200 else refusal_code(answer)) == code, named
    # an agent that may not use the account can't find out its name by guessing
    asking = await place.caller()
    stranger = await place.agent(asking, person)
    for guess in (mine.label, other.label):
        answer = await place.exchange(asking, stranger.token, scope="chat:write", audience=mine.id, account=guess)
        assert refusal_code(answer) == "access_denied"


def test_a_handle_is_for_an_api_in_which_its_scopes_allow_something() -> None:
    google = load_catalog().provider("google")
    for scope, api in (
        ("calendar.events", "calendar"),
        ("gmail.readonly", "gmail"),
        ("drive.readonly", "drive"),
        ("documents.readonly", "docs"),
        ("analytics.readonly", "analyticsdata"),
        ("adwords", "ads"),
        ("youtube", "youtube"),
    ):
        assert targets.api_for(google, frozenset({f"https://www.googleapis.com/auth/{scope}"})) == api
    assert targets.api_for(google, frozenset({"nowhere"})) == "calendar"


async def test_a_scope_that_is_no_list_of_names_is_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    for scope in ("chat:write\tchannels:read", "chat:write\n", "chat:write\u00a0x", 'chat:"write', " ", "x" * 5000):
        answer = await place.exchange(caller, agent.token, scope=scope)
        assert refusal_code(answer) == "invalid_scope"
        assert "connect_uri" not in answer.json()
    for scope in ("chat:write", "chat:write channels:read", " chat:write  channels:read "):
        assert (await place.exchange(caller, agent.token, scope=scope)).status_code == 200


async def test_an_alias_without_a_scope_means_what_the_alias_stands_for(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.google(agent, delegated=frozenset({READONLY}))
    assert (await place.exchange(caller, agent.token, audience="google")).json()["scope"] == READONLY
    answer = await place.exchange(caller, agent.token, audience="google-calendar")
    assert refusal_code(answer) == "invalid_scope"
    assert answer.json()["missing_scope"] == EVENTS


async def test_repeated_parameters_and_other_kinds_of_token_are_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    form = place.form(caller, agent.token)
    twice = [*form.items(), ("audience", "google")]
    body = "&".join(f"{name}={value}" for name, value in twice)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert refusal_code(await place.http.post("/token", content=body, headers=headers)) == "invalid_request"
    for wanted in (REFRESH, JWT, "urn:ietf:params:oauth:token-type:id_token", "x"):
        answer = await place.exchange(caller, agent.token, requested_token_type=wanted)
        assert refusal_code(answer) == "invalid_request"
    assert (await place.exchange(caller, agent.token, requested_token_type=ACCESS)).status_code == 200


# What else is known about a handle


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

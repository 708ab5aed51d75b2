"""RFC 8693 §2.1: which subject tokens count, for which clients and APIs."""

from __future__ import annotations

import pytest

from server.oauth.rules import TOKEN_EXCHANGE
from tests.support.inspection import get_grant
from tests.support.rooms.exchange_room import API, JWT, REFRESH, ExchangeRoom, refusal_code
from vault import clients, connections, grants, handles, users
from vault.tokens import tokens as refresh_tokens

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
        assert refusal_code(await place.exchange(caller, token, scope="chat:write")) == "invalid_request", name
    for kind in (REFRESH, JWT, "urn:ietf:params:oauth:token-type:id_token", "access_token", "x"):
        answer = await place.exchange(caller, agent.token, kind=kind, scope="chat:write")
        assert refusal_code(answer) == "invalid_request", kind
    for left_out in ("subject_token", "subject_token_type"):
        answer = await place.exchange(caller, agent.token, **{left_out: None})
        assert refusal_code(answer) == "invalid_request"
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
    assert refusal_code(answer) == ("invalid_client" if end == "client" else "invalid_request")


@pytest.mark.requirement("S-110", "S-111")
async def test_a_strangers_token_is_refused(place: ExchangeRoom, person: str) -> None:
    caller, other = await place.caller(), await place.caller()
    agent, stranger = await place.agent(caller, person), await place.agent(other, person)
    await place.slack(agent)
    await place.slack(stranger)
    assert refusal_code(await place.exchange(caller, stranger.token, scope="chat:write")) == "invalid_request"
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


async def test_a_token_without_the_scope_exchange_is_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person, scopes=frozenset({"tools"}))
    await place.slack(agent)
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert refusal_code(answer) == "invalid_request"
    assert "exchange" in answer.json()["error_description"]
    agent = await place.agent(caller, person)
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


async def test_a_client_without_the_grant_type_is_refused(place: ExchangeRoom, person: str) -> None:
    for grant_types, code in ((("authorization_code",), "unauthorized_client"), ((TOKEN_EXCHANGE,), None)):
        caller = await place.caller(grant_types=grant_types)
        agent = await place.agent(caller, person)
        await place.slack(agent)
        answer = await place.exchange(caller, agent.token, scope="chat:write")
        assert (refusal_code(answer) if code else None) == code
    wrong = await place.exchange(caller, agent.token, client_secret="x" * 43)
    assert (wrong.status_code, refusal_code(wrong)) == (401, "invalid_client")


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
    # the used token is invalid after the grace, its successor is valid
    database, grace = place.deployment.database, place.deployment.refresh_lifetimes.grace
    assert (await place.exchange(caller, token, kind=REFRESH, scope="chat:write")).status_code == 200
    database.clock_offset += grace
    try:
        assert refusal_code(await place.exchange(caller, token, kind=REFRESH, scope="chat:write")) == "invalid_request"
    finally:
        database.clock_offset -= grace
    successor = renewed.json()["refresh_token"]
    assert (await place.exchange(caller, successor, kind=REFRESH, scope="chat:write")).status_code == 200


@pytest.mark.requirement("S-110")
async def test_a_refresh_token_counts_for_its_own_client_only(place: ExchangeRoom, person: str) -> None:
    caller, other = await place.caller(), await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    token = await place.refresh_token(agent)
    assert refusal_code(await place.exchange(other, token, kind=REFRESH, scope="chat:write")) == "invalid_request"
    without = await place.refresh_token(agent, scopes=frozenset({"tools"}))
    assert refusal_code(await place.exchange(caller, without, kind=REFRESH, scope="chat:write")) == "invalid_request"
    assert (await place.exchange(caller, token, kind=REFRESH, scope="chat:write")).status_code == 200
    async with place.deployment.transaction() as transaction:
        await refresh_tokens.revoke_token(transaction, token, client_id=caller.client.id, now=place.now())
    assert refusal_code(await place.exchange(caller, token, kind=REFRESH, scope="chat:write")) == "invalid_request"


# A custom API client


@pytest.mark.requirement("S-111")
async def test_an_api_exchanges_the_tokens_that_it_receives(place: ExchangeRoom, person: str) -> None:
    spa, api = await place.caller(public=True), await place.caller()
    await place.link(api)
    received = await place.agent(spa, person, audience=API)
    # the API acts here: what the person lets the page use doesn't apply to the API
    await place.slack(received)
    asked = await place.exchange(api, received.token, scope="chat:write")
    assert refusal_code(asked) == "access_denied"
    (connection,) = await connections.list_connections(place.deployment.database, received.principal.user_id)
    as_api = await place.agent(api, person)
    await place.room.allow(as_api, connection, frozenset({"chat:write"}))
    answer = await place.exchange(api, received.token, scope="chat:write")
    assert answer.status_code == 200, answer.text
    handle = await handles.find(place.deployment.database, answer.json()["access_token"], now=place.now())
    assert handle.principal.client_id == api.client.id
    assert handle.principal.actors == (api.client.id, spa.client.id)
    assert handle.principal.grant_id not in {received.principal.grant_id, as_api.principal.grant_id}
    # cutting the page off ends what the API derived from its token
    async with place.deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, received.principal.grant_id, reason="test", now=place.now())
    derived = await get_grant(place.deployment.database, handle.principal.grant_id)
    assert derived is not None
    assert not derived.is_live
    assert refusal_code(await place.exchange(api, received.token, scope="chat:write")) == "invalid_request"


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
    # linked to another API, and merely allowed to call this one
    assert refusal_code(await place.exchange(other, received.token, scope="chat:write")) == "invalid_request"
    for_us = await place.agent(spa, person)
    assert refusal_code(await place.exchange(api, for_us.token, scope="chat:write")) == "invalid_request"

"""Who gets the provider's token, who gets a handle, and to which key it is bound."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from providers.definitions.catalog import load_catalog
from providers.simulator.local_server import running_simulator
from server.administration import agents
from server.administration.actor import Actor
from server.connecting.approvals import decide
from server.oauth.dpop import token_hash
from tests.oauth.rfcs.test_rfc9449 import KEY, OTHER
from tests.oauth.rfcs.test_rfc9449 import proof as proof_for
from tests.support.accounts import set_ask
from tests.support.rooms.exchange_room import (
    ACCESS,
    API,
    JWT,
    READONLY,
    REFRESH,
    ExchangeRoom,
    exchange_room,
    refusal_code,
)
from tests.support.rooms.mcp_room import SLACK, Agent
from tests.support.simulator_apps import family_settings
from vault import clients, connections, handles, users
from vault.approvals import approvals
from vault.approvals.approvals import Approval
from vault.records import ClientKind, Connection
from vault.upkeep import agent_receipts


def proof(place: ExchangeRoom, **options: object) -> dict[str, str]:
    return {"DPoP": proof_for(place, "POST", "/token", **options)}


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
    assert refusal_code(await place.exchange(caller, token, kind=REFRESH, audience="google")) == "invalid_request"
    assert refusal_code(await place.exchange(caller, "a.b.c", kind=JWT, audience="google")) == "invalid_request"
    other = await place.agent(await place.caller(public=True), person)
    assert refusal_code(await place.exchange(caller, other.token, audience="google")) == "invalid_request"
    for_us = {"audience": f"{place.url}/mcp", "scope": "tools"}
    assert refusal_code(await place.exchange(caller, agent.token, **for_us)) == "invalid_target"
    backend = await place.caller()
    assert (await place.exchange(backend, (await place.agent(backend, person)).token, **for_us)).status_code == 200


@pytest.mark.requirement("S-111")
@pytest.mark.parametrize("role", ["subject", "actor"])
async def test_whoever_receives_a_public_clients_token_cannot_act_as_that_client(
    place: ExchangeRoom, person: str, role: str
) -> None:
    """An API holds the page's token and knows the page's ID; that must not be enough to act as the page."""
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
    assert refusal_code(await present(received.token)) == "invalid_request"
    assert refusal_code(await present(received.token, headers=proof(place))) == "invalid_request"  # any key is no proof
    bound = await place.agent(spa, person, audience=API, key_thumbprint=KEY.thumbprint())
    assert refusal_code(await present(bound.token)) == "invalid_request"
    assert refusal_code(await present(bound.token, headers=proof(place, key=OTHER))) == "invalid_request"
    # the twins: for this vault, or with the key
    assert (await present((await place.agent(spa, person)).token)).status_code == 200
    assert (await present(bound.token, headers=proof(place))).status_code == 200
    # a confidential client proves its identity, whatever the audience
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
    # a single connection can be held back
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


async def ask_each_time(place: ExchangeRoom, agent: Agent, connection: Connection, *entries: str) -> None:
    await set_ask(place.deployment, agent.principal, connection, entries)


async def answer_question(place: ExchangeRoom, agent: Agent, *, yes: bool) -> Approval:
    """The person answers the only question that waits."""
    deployment, user_id = place.deployment, agent.principal.user_id
    (asked,) = await approvals.list_pending(deployment.database, deployment.keys, user_id, now=place.now())
    user = await users.get_user(deployment.database, user_id)
    assert user is not None
    await decide(deployment, asked, user=user, session=None, is_approved=yes)
    return asked


async def test_each_exchange_of_what_the_person_is_asked_about_waits_for_a_yes_of_its_own(
    place: ExchangeRoom, person: str
) -> None:
    caller = await place.caller(release={"slack": "full"})
    agent = await place.agent(caller, person)
    await ask_each_time(place, agent, await place.slack(agent), "chat:write")
    for _ in range(2):
        waiting = await place.exchange(caller, agent.token, scope="chat:write")
        assert (waiting.status_code, refusal_code(waiting)) == (400, "authorization_pending")
        assert (waiting.json()["reason"], waiting.headers["retry-after"]) == ("approval", "5")
        other = await place.exchange(caller, agent.token, scope="chat:write channels:read")
        assert refusal_code(other) == "authorization_pending"
        asked = await approvals.list_pending(
            place.deployment.database, place.deployment.keys, agent.principal.user_id, now=place.now()
        )
        assert waiting.json()["approval_uri"] in {f"{place.url}/approvals/{one.id}" for one in asked}
        (mine,) = [one for one in asked if waiting.json()["approval_uri"].endswith(one.id)]
        user = await users.get_user(place.deployment.database, agent.principal.user_id)
        assert user is not None
        await decide(place.deployment, mine, user=user, session=None, is_approved=True)
        assert refusal_code(await place.exchange(caller, agent.token, scope="chat:write channels:read")) == (
            "authorization_pending"
        ), "the yes is for that exchange only"
        content = (await place.exchange(caller, agent.token, scope="chat:write")).json()
        assert content["access_token"].startswith("xox"), content
        assert content["narrowing"] == "none"


async def test_a_no_to_an_exchange_is_told(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller(release={"slack": "full"})
    agent = await place.agent(caller, person)
    await ask_each_time(place, agent, await place.slack(agent), "chat:write")
    assert refusal_code(await place.exchange(caller, agent.token, scope="chat:write")) == "authorization_pending"
    await answer_question(place, agent, yes=False)
    denied = await place.exchange(caller, agent.token, scope="chat:write")
    assert (denied.status_code, refusal_code(denied)) == (400, "access_denied")


async def test_what_the_person_is_asked_about_each_time_is_handed_out_to_nobody_else(
    place: ExchangeRoom, person: str
) -> None:
    narrow = await place.caller(release={"google": "full"})
    held = await place.agent(narrow, person)
    await ask_each_time(place, held, await place.slack(held), "chat:write")
    answer = await place.exchange(narrow, held.token, scope="chat:write")
    assert (answer.status_code, refusal_code(answer)) == (403, "access_denied")
    assert answer.json()["reason"] == "approval"
    caller = await place.caller(release={"slack": "full"})
    agent = await place.agent(caller, person)
    connection = await place.slack(agent)
    await ask_each_time(place, agent, connection, "chat:write")
    # the full token contains it, too, so a handle is issued instead, whatever the operator allows this client
    content = (await place.exchange(caller, agent.token, scope="channels:read")).json()
    assert content["access_token"].startswith("tvp_")
    await ask_each_time(place, agent, connection)
    content = (await place.exchange(caller, agent.token, scope="channels:read")).json()
    assert content["narrowing"] == "none"


async def test_public_clients_can_be_kept_out_by_one_switch(tmp_path: Path) -> None:
    for confidential_only in (True, False):
        async with exchange_room(
            tmp_path / str(confidential_only), exchange={"confidential_only": confidential_only}
        ) as place:
            for public in (True, False):
                caller = await place.caller(public=public)
                agent = await place.agent(caller)
                await place.slack(agent)
                answer = await place.exchange(caller, agent.token, scope="chat:write")
                is_out = public and confidential_only
                assert (refusal_code(answer) if is_out else answer.status_code) == (
                    "unauthorized_client" if is_out else 200
                )


async def test_an_operator_sets_how_long_handles_live_but_not_beyond_the_subject(tmp_path: Path) -> None:
    async with exchange_room(
        tmp_path / "data", exchange={"handle_lifetime": 1800}, tokens={"access_lifetime": 900}
    ) as place:
        backend, page = await place.caller(), await place.caller(public=True)
        for caller, kind, most in ((backend, ACCESS, 900), (backend, REFRESH, 1800), (page, ACCESS, 300)):
            agent = await place.agent(caller)
            await place.slack(agent)
            subject = agent.token if kind == ACCESS else await place.refresh_token(agent)
            answer = await place.exchange(caller, subject, kind=kind, scope="chat:write")
            assert (300 if caller is page else most - 5) <= answer.json()["expires_in"] <= most


async def test_a_token_for_one_repository_is_for_that_one_and_never_a_handle(tmp_path: Path) -> None:
    granted = frozenset({"metadata:read", "contents:write", "issues:write"})
    async with running_simulator() as simulator:
        apis = load_catalog().provider("github").apis
        github = family_settings(simulator, "github", apis=apis)
        async with exchange_room(
            tmp_path / "data", providers={"github": github}, sandbox={"loopback_upstreams": True}
        ) as place:
            caller, public = await place.caller(), await place.caller(public=True)
            agent = await place.agent(caller)
            connection = await place.room.connect(agent, "github", scopes=granted)
            base = place.deployment.catalog.provider("github").apis["rest"]
            wanted = {"audience": "github", "resource": f"{base}/repos/octo/hello", "scope": "contents:read"}
            answer = await place.exchange(caller, agent.token, **wanted)
            assert answer.status_code == 200, answer.text
            assert answer.json()["narrowing"] == "upstream"
            assert "api_base_url" not in answer.json()
            whole = await place.exchange(caller, agent.token, **(wanted | {"resource": base}))
            assert whole.json()["access_token"].startswith("tvp_")
            by_page = await place.agent(public)
            await place.room.allow(by_page, connection, granted)
            assert refusal_code(await place.exchange(public, by_page.token, **wanted)) == "invalid_target"
            handle = await place.exchange(public, by_page.token, **(wanted | {"resource": base}))
            assert handle.json()["access_token"].startswith("tvp_")
            chosen = {"release": {"github": "proxy", connection.id: "narrowed"}}
            async with place.deployment.transaction() as transaction:
                assert await clients.update_client(transaction, replace(caller.client, metadata=chosen))
            assert refusal_code(await place.exchange(caller, agent.token, **wanted)) == "invalid_target"
            named = await place.exchange(caller, agent.token, **(wanted | {"audience": connection.id}))
            assert named.json()["narrowing"] == "upstream", "this account's own choice counts"


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
    # no downgrade: neither without a proof nor with another key
    assert refusal_code(await place.exchange(caller, agent.token, scope="chat:write")) == "invalid_request"
    other = proof(place, key=OTHER)
    assert (
        refusal_code(await place.exchange(caller, agent.token, scope="chat:write", headers=other)) == "invalid_request"
    )
    # a plain token with a proof gets an answer that is bound
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
    assert refusal_code(await place.exchange(api, received.token, headers=bad)) == "invalid_dpop_proof"


async def test_the_receipt_of_a_removed_client_names_the_end_of_the_providers_token(
    place: ExchangeRoom, person: str
) -> None:
    caller = await place.caller(release={"google": "narrowed", "slack": "narrowed"})
    agent = await place.agent(caller, person)
    released, inside = await place.google(agent), await place.slack(agent)
    before = place.now()
    assert (await place.exchange(caller, agent.token, audience="google", scope=READONLY)).status_code == 200
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200
    await agents.remove(Actor(place.deployment, None, "command_line"), caller.client)
    found = await agent_receipts.list_receipts(place.deployment.database, client_id=caller.client.id, limit=9)
    by_account = {one.connection_id: one for one in found}
    assert by_account.keys() == {released.id, inside.id}
    assert (by_account[inside.id].reason, by_account[inside.id].expires_at) == ("shared_grant", None)
    end = by_account[released.id].expires_at
    assert by_account[released.id].reason == "token_released"
    assert end is not None
    assert 0 < end - before <= 7200


async def test_an_agent_that_loses_the_account_meanwhile_gets_no_token(place: ExchangeRoom) -> None:
    callers = [await place.caller(release={"slack": "full"}) for _ in range(2)]
    agents_of = [await place.agent(caller, f"loses-{number}") for number, caller in enumerate(callers)]
    for agent in agents_of:
        await place.slack(agent)
    ended, kept = callers
    async with place.deployment.transaction() as transaction:
        await transaction.execute(  # the first statement that looks again before the token leaves
            "create trigger vault.ending before update of last_used_at on clients"
            f" when new.id = '{ended.client.id}' begin"
            " update delegations set revoked_at = 1 where client_id = new.id; end"
        )
    try:
        refused = await place.exchange(ended, agents_of[0].token, audience="slack", scope="chat:write")
        given = await place.exchange(kept, agents_of[1].token, audience="slack", scope="chat:write")
    finally:
        async with place.deployment.transaction() as transaction:
            await transaction.execute("drop trigger vault.ending")
    assert refusal_code(refused) == "invalid_request"
    assert given.json()["access_token"].startswith("xox")
    assert "xox" not in refused.text

"""RFC 8693: no more authority than the person, the account, the operator and the subject token allow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from providers.definitions.catalog import Catalog
from providers.simulator.local_server import running_simulator
from server.connecting.links import LINKS
from server.oauth.exchange import targets
from server.oauth.rules import OAuthError
from tests.support.rooms.exchange_room import ExchangeRoom, exchange_room, refusal_code
from tests.support.rooms.mcp_room import SLACK


@pytest.mark.requirement("S-112")
async def test_wider_than_the_delegation_is_refused_by_name_with_a_link(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent, delegated=frozenset({"channels:read"}))
    answer = await place.exchange(caller, agent.token, scope="chat:write channels:read")
    assert (answer.status_code, refusal_code(answer)) == (400, "invalid_scope")
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
    assert (answer.status_code, refusal_code(answer)) == (400, "invalid_scope")
    assert answer.json()["missing_scope"] == "groups:read"
    assert answer.json()["reason"] == "scopes"
    assert answer.json()["connect_uri"]
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


async def test_a_scope_that_nobody_knows_is_refused(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    await place.slack(agent)
    assert refusal_code(await place.exchange(caller, agent.token, scope="chat:write made:up")) == "invalid_scope"


@pytest.mark.requirement("S-112")
async def test_wider_than_the_operators_limit_is_refused_by_name_without_a_link(tmp_path: Path) -> None:
    async with (
        running_simulator() as simulator,
        exchange_room(
            tmp_path / "data",
            providers={"slack": {**simulator.settings()["slack"], "scopes": ["channels:read"]}},
            sandbox={"loopback_upstreams": True},
        ) as place,
    ):
        caller = await place.caller()
        agent = await place.agent(caller)
        await place.slack(agent)
        answer = await place.exchange(caller, agent.token, scope="chat:write channels:read")
        assert refusal_code(answer) == "invalid_scope"
        assert answer.json()["missing_scope"] == "chat:write"
        assert "connect_uri" not in answer.json(), "no person can fix that"
        assert (await place.exchange(caller, agent.token, scope="channels:read")).status_code == 200
        assert (await place.exchange(caller, agent.token)).json()["scope"] == "channels:read"


async def test_a_provider_that_nobody_set_up_is_said_to_be_that(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    answer = await place.exchange(caller, agent.token, audience="github")
    assert refusal_code(answer) == "invalid_target"
    assert answer.json()["reason"] == "not_configured"
    assert "connect_uri" not in answer.json()
    assert "connect_uri" in (await place.exchange(caller, agent.token, audience="slack")).json()


async def test_an_address_that_two_providers_have_needs_a_name_beside_it(place: ExchangeRoom, person: str) -> None:
    slack = place.deployment.catalog.provider("slack")
    twin = slack.model_copy(update={"name": "slack-bot", "aliases": {}})
    both, base = place.deployment, slack.apis["web"]
    both.live.current = replace(both.live.current, catalog=Catalog([slack, twin]))
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
    assert (answer.status_code, refusal_code(answer)) == (400, "invalid_target")
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
    assert (refusal_code(answer), answer.json()["reason"]) == ("invalid_target", "missing")
    assert "connect_uri" in (await place.exchange(caller, other.token)).json()


async def test_an_account_that_the_agent_may_not_use_is_asked_for_without_naming_it(
    place: ExchangeRoom, person: str
) -> None:
    caller, other = await place.caller(), await place.caller()
    agent, connected = await place.agent(caller, person), await place.agent(other, person)
    connection = await place.slack(connected, account="carol")
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert (answer.status_code, refusal_code(answer)) == (403, "access_denied")
    assert answer.json()["reason"] == "delegation"
    assert answer.json()["connect_uri"]
    assert connection.label not in answer.text
    assert connection.id not in answer.text
    await place.room.allow(agent, connection, frozenset({"chat:write"}))
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


async def test_an_account_of_a_provider_that_this_vault_no_longer_has_is_no_target(
    place: ExchangeRoom, person: str
) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    connection = await place.slack(agent)
    named = {"audience": connection.id, "scope": "chat:write"}
    assert (await place.exchange(caller, agent.token, **named)).status_code == 200
    async with place.deployment.transaction() as transaction:
        await transaction.execute("update connections set provider = 'left' where id = :id", {"id": connection.id})
    answer = await place.exchange(caller, agent.token, **named)
    assert (answer.status_code, refusal_code(answer)) == (400, "invalid_target")


async def test_a_connection_that_needs_its_person_again_is_asked_for(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    connection = await place.slack(agent)
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200
    async with place.deployment.transaction() as transaction:
        await transaction.execute("update connections set state = 'needs_reauth' where id = :id", {"id": connection.id})
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert refusal_code(answer) == "invalid_target"
    assert answer.json()["reason"] == "needs_reauth"
    assert answer.json()["connect_uri"]


@pytest.mark.requirement("S-116")
async def test_of_several_accounts_one_has_to_be_named(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    first = await place.slack(agent, account="alice")
    second = await place.slack(agent, account="bob")
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert refusal_code(answer) == "invalid_target"
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
        assert (answer.status_code, refusal_code(answer)) == (403, "access_denied")
        assert not any(one.label in answer.text or one.id in answer.text for one in (first, second, narrow))
        content = answer.json()
        for own in ("connect_uri", "user_code", "request_id"):
            assert content.pop(own)
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
        assert refusal_code(answer) == "invalid_target"
    assert (await place.exchange(caller, agent.token, audience=mine.id)).status_code == 200

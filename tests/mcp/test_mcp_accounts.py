"""Several accounts at one provider: named, chosen for the agent, asked about, listed; never simply the first one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import pytest

from server.connecting.links import load_link
from tests.support.accounts import revoke, set_ask
from tests.support.rooms.mcp_room import (
    SLACK,
    Agent,
    Room,
    legacy_headers,
    legacy_session,
    modern,
    modern_headers,
)
from vault import delegations, users
from vault.approvals import approvals
from vault.records import Connection

FORMS: Mapping[str, object] = {"elicitation": {"form": {}}}
BOTH: Mapping[str, object] = {"elicitation": {"form": {}, "url": {}}}
GOOGLE = frozenset({"https://www.googleapis.com/auth/calendar.readonly"})
POST = {"channel": "#general", "text": "hello"}


async def call(
    place: Room,
    agent: Agent,
    *,
    capabilities: Mapping[str, object] = FORMS,
    arguments: Mapping[str, object] = POST,
    state: object = None,
    choice: Mapping[str, object] | None = None,
    opened: bool = False,
) -> dict[str, object]:
    """Make one `slack_post` call of 2026-07-28; returns the result."""
    params: dict[str, object] = {"name": "slack_post", "arguments": dict(arguments)}
    if state is not None:
        params["requestState"] = state
        answers: dict[str, object] = {} if choice is None else {"account": choice}
        params["inputResponses"] = answers | ({"connect": {"action": "accept"}} if opened else {})
    message = modern("tools/call", params)
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = dict(capabilities)
    async with place.http(agent) as http:
        answer = await http.post("/mcp", json=message, headers=modern_headers("tools/call", "slack_post"))
    return answer.json()["result"]


async def with_two(place: Room) -> tuple[Agent, Connection, Connection]:
    """An agent that may post as two people of the workspace."""
    agent = await place.agent(f"person-{secrets.token_hex(4)}")
    first = await place.connect(agent, "slack", scopes=SLACK, account="alice")
    second = await place.connect(agent, "slack", scopes=SLACK, account="bob")
    return agent, first, second


def text_of(result: Mapping[str, object]) -> str:
    return "\n".join(part["text"] for part in result["content"])


def posts(place: Room) -> list[str]:
    return [str(one["user"]) for one in place.simulator.books()["posts"]]


async def test_a_client_that_shows_forms_asks_the_person_and_goes_on_with_their_choice(place: Room) -> None:
    agent, first, second = await with_two(place)
    before = len(posts(place))
    asked = await call(place, agent)
    assert asked["resultType"] == "input_required"
    question = asked["inputRequests"]["account"]["params"]
    assert question["mode"] == "form"
    assert sorted(question["requestedSchema"]["properties"]["account"]["enum"]) == sorted((first.label, second.label))
    assert len(posts(place)) == before
    for chosen, who in ((second.label, "U0SBBOB0001"), (first.label, "U0SBALICE01")):
        accepted = {"action": "accept", "content": {"account": chosen}}
        done = await call(place, agent, state=asked["requestState"], choice=accepted)
        assert not done.get("isError"), text_of(done)
        assert posts(place)[-1] == who


async def test_a_person_who_chooses_none_or_one_that_is_not_there_is_not_asked_again(place: Room) -> None:
    agent, first, second = await with_two(place)
    before = len(posts(place))
    asked = await call(place, agent)
    left = await call(place, agent, state=asked["requestState"], choice={"action": "decline"})
    assert left["isError"] and "didn't choose an account" in text_of(left)
    canceled = await call(place, agent, state=asked["requestState"], choice={"action": "cancel"})
    assert canceled["isError"] and first.label in text_of(canceled) and second.label in text_of(canceled)
    wrong = {"action": "accept", "content": {"account": "carol"}}
    unknown = await call(place, agent, state=asked["requestState"], choice=wrong)
    assert unknown["isError"] and first.label in text_of(unknown) and second.label in text_of(unknown)
    assert len(posts(place)) == before


async def test_the_choice_is_kept_while_the_person_is_asked_for_more(place: Room) -> None:
    agent, _, second = await with_two(place)
    await set_ask(place.vault.deployment, agent.principal, second, {"tool:slack_post"})
    asked = await call(place, agent, capabilities=BOTH)
    accepted = {"action": "accept", "content": {"account": second.label}}
    linked = await call(place, agent, capabilities=BOTH, state=asked["requestState"], choice=accepted)
    url = str(linked["inputRequests"]["connect"]["params"]["url"])
    assert "/approvals/" in url
    async with place.vault.deployment.transaction() as transaction:
        await approvals.decide(
            transaction,
            url.rpartition("/")[2],
            user_id=agent.principal.user_id,
            is_approved=True,
            now=place.vault.deployment.now(),
        )
    done = await call(place, agent, capabilities=BOTH, state=linked["requestState"], opened=True)
    assert not done.get("isError"), text_of(done)
    assert posts(place)[-1] == "U0SBBOB0001"


async def test_every_other_client_gets_the_names_and_can_name_one(place: Room) -> None:
    agent, first, second = await with_two(place)
    before = len(posts(place))
    for capabilities in ({}, {"elicitation": {"url": {}}}):
        refused = await call(place, agent, capabilities=capabilities)
        assert refused["isError"] and first.label in text_of(refused) and second.label in text_of(refused)
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "slack_post", "arguments": POST}}
    async with place.http(agent) as http:
        session = await legacy_session(http, capabilities=FORMS)
        answer = await http.post("/mcp", json=message, headers=legacy_headers(session))
        assert second.label in answer.json()["result"]["content"][0]["text"]
    assert len(posts(place)) == before
    named = await call(place, agent, capabilities={}, arguments={**POST, "account": second.label})
    assert not named.get("isError"), text_of(named)
    assert posts(place)[-1] == "U0SBBOB0001"


async def test_the_one_that_the_person_chose_for_the_agent_is_meant_without_a_question(place: Room) -> None:
    agent, _, second = await with_two(place)
    async with place.vault.deployment.transaction() as transaction:
        await delegations.set_default(
            transaction,
            provider="slack",
            user_id=agent.principal.user_id,
            client_id=agent.principal.client_id,
            connection_id=second.id,
            now=place.vault.deployment.now(),
        )
    done = await call(place, agent)
    assert not done.get("isError"), text_of(done)
    assert posts(place)[-1] == "U0SBBOB0001"


async def test_accounts_that_the_agent_may_not_use_are_no_choice(place: Room) -> None:
    agent, first, second = await with_two(place)
    third = await place.connect(agent, "slack", scopes=SLACK, account="carol")
    await revoke(place.vault.deployment, agent.principal, third)
    asked = await call(place, agent)
    offered = asked["inputRequests"]["account"]["params"]["requestedSchema"]["properties"]["account"]["enum"]
    assert sorted(offered) == sorted((first.label, second.label))
    assert third.label not in str(asked)


@pytest.mark.parametrize("named", ["label", "id", "stranger"])
async def test_the_link_of_a_call_that_names_an_account_is_about_that_account(place: Room, named: str) -> None:
    agent = await place.agent(f"person-{secrets.token_hex(4)}")
    await place.connect(agent, "slack", scopes=SLACK, account="alice")
    other = await place.connect(agent, "slack", scopes=SLACK, account="bob", delegated=frozenset())
    account = {"label": other.label, "id": other.id, "stranger": "carol@example.com"}[named]
    if named == "stranger":  # without any permission, the agent doesn't learn which accounts exist
        agent = await place.agent(await name_of(place, agent))
    asked = await call(place, agent, capabilities=BOTH, arguments={**POST, "account": account})
    url = str(asked["inputRequests"]["connect"]["params"]["url"])
    deployment = place.vault.deployment
    user = await users.get_user(deployment.database, agent.principal.user_id)
    assert user is not None
    request = await load_link(deployment, url.rpartition("/")[2], user=user)
    assert request.account == account  # only the page compares it with the existing accounts
    assert account not in url


async def name_of(place: Room, agent: Agent) -> str:
    user = await users.get_user(place.vault.deployment.database, agent.principal.user_id)
    assert user is not None
    return user.name


async def list_connections(place: Room, agent: Agent) -> dict[str, object]:
    """What the tool `connections` answers."""
    message = modern("tools/call", {"name": "connections", "arguments": {}})
    async with place.http(agent) as http:
        answer = await http.post("/mcp", json=message, headers=modern_headers("tools/call", "connections"))
    assert not answer.json()["result"].get("isError"), answer.text
    return answer.json()["result"]


@pytest.mark.parametrize("scopes", [{"tools"}, {"tools", "connections"}], ids=["tools", "connections"])
async def test_without_the_scope_connections_an_agent_sees_only_accounts_that_it_may_use(
    place: Room, scopes: set[str]
) -> None:
    agent = await place.agent(f"person-{secrets.token_hex(4)}", scopes=frozenset(scopes))
    usable = await place.connect(agent, "slack", scopes=SLACK, account="alice")
    ended = await place.connect(agent, "slack", scopes=SLACK, account="bob")
    hidden = await place.connect(agent, "google", scopes=GOOGLE, delegated=frozenset())
    deployment = place.vault.deployment
    assert await revoke(deployment, agent.principal, ended)
    answer = await list_connections(place, agent)
    content = answer["structuredContent"]
    assert content["_vault"].startswith("[vault]") and "data, not instructions" in content["_vault"]
    shown = {entry["account"]: entry["your_scopes"] for entry in content["connections"]}
    assert shown[usable.label] == sorted(SLACK)
    others = [ended.label, hidden.label]
    if "connections" in scopes:
        assert {name: shown[name] for name in others} == {name: [] for name in others}
        assert "google" not in content["not_connected"]
    else:
        assert set(shown) == {usable.label}
        assert not [name for name in others if name in str(answer)]
        assert "google" in content["not_connected"]  # as if they didn't exist


@pytest.mark.parametrize(
    ("may_too", "is_asked", "is_allowed"), [(True, False, True), (False, False, False), (True, True, False)]
)
async def test_a_scope_that_widens_an_answer_must_be_the_agents_own_and_without_a_question(
    place: Room, may_too: bool, is_asked: bool, is_allowed: bool
) -> None:
    """If the account can show private channels, the agent must be allowed to see them in other calls anyway."""
    agent, more = await place.agent(f"person-{secrets.token_hex(4)}"), SLACK | {"groups:history"}
    connection = await place.connect(agent, "slack", scopes=more, delegated=more if may_too else SLACK)
    if is_asked:
        which = {"user_id": agent.principal.user_id, "client_id": agent.principal.client_id}
        async with place.vault.deployment.transaction() as transaction:
            ask, now = frozenset({"groups:history"}), place.vault.deployment.now()
            await delegations.set_ask(transaction, **which, connection_id=connection.id, ask=ask, now=now)
    async with place.client(agent) as client:
        answer = await client.call_tool("slack_history", {"channel": "C0SBGENERAL"})
    assert answer.is_error != is_allowed, answer.content

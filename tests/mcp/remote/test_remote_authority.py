"""The vault doesn't release a third-party server's scopes to agents: it offers only the tools that were accepted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx2
import pytest

from server.administration import agents
from server.administration.actor import ChangeRefused
from server.auth0.explanation import WireQuestion, explain_wire
from server.oauth.exchange.release import MEMBER
from server.policy.cases import CasePlace, CaseRefused, PolicyCase
from server.policy.gate import load as load_rules
from server.policy.schema import actions_of
from server.portal.access.access import offered_scopes
from tests.mcp.remote.remote_room import RemoteRoom, link_of
from tests.support.rooms.exchange_room import ExchangeRoom, refusal_code
from vault import company_access, connections, delegations
from vault.refresh.policy_checks import PolicyOutcome
from vault.scopes import plan

FOREIGN = frozenset({"mcp:read", "mcp:write"})


async def _connection(place: RemoteRoom, name: str, agent: Any) -> Any:
    found = await connections.list_connections(place.deployment.database, agent.principal.user_id)
    return next(one for one in found if one.provider == name)


async def test_only_scopes_of_tools_are_offered_and_given(place: RemoteRoom) -> None:
    name, _, agent = await place.ready(scope_of={"note": "mcp:write"})
    async with place.room.client(agent) as client:
        for _ in range(2):
            link = link_of(await client.call_tool(f"{name}_note", {"text": "x"}))
            assert link is not None
            await place.follow(link)
        assert not (await client.call_tool(f"{name}_note", {"text": "x"})).is_error
    connection = await _connection(place, name, agent)
    assert connection.scopes >= FOREIGN
    given = await delegations.get(
        place.deployment.database,
        user_id=agent.principal.user_id,
        client_id=agent.principal.client_id,
        connection_id=connection.id,
    )
    assert given is not None
    assert given.scopes == {"list:tools", "call:note"}
    assert offered_scopes(place.deployment.catalog, connection) == {"list:tools", "call:add", "call:note"}
    policy = place.deployment.vault.policies[name]
    for words in (frozenset({"all"}), FOREIGN):
        assert not company_access.scopes_of(words, granted=connection.scopes, policy=policy) & FOREIGN
        plain = replace(policy, is_remote=False)
        assert company_access.scopes_of(words, granted=connection.scopes, policy=plain) >= FOREIGN


async def test_a_permission_for_foreign_scopes_from_before_carries_nothing(
    place: RemoteRoom, known_server: Any
) -> None:
    name, _, agent = known_server
    connection = await _connection(place, name, agent)
    policy = place.deployment.vault.policies[name]
    held = {"delegation": connection.scopes | {"call:add"}, "connection": connection.scopes}
    wanted = frozenset({"mcp:read"})
    assert plan(wanted, **held, policy_scopes=policy.operator_scopes, policy=policy).outside_ceiling == wanted
    assert plan(None, **held, policy_scopes=policy.operator_scopes, policy=policy).scopes == {"call:add"}
    assert plan(wanted, **held, policy_scopes=None, policy=policy).scopes == wanted


@pytest.mark.parametrize("call", ["exchange", "proxy"])
async def test_a_case_of_a_rule_about_it_names_a_tool(
    place: RemoteRoom, known_server: Any, tmp_path: Path, call: str
) -> None:
    name, _, _ = known_server
    current = place.deployment.live.current
    cases = CasePlace(current, ZoneInfo("UTC"))
    rules = load_rules(tmp_path, actions_of([*current.tools, *current.away]), setting="policy.folder")
    with pytest.raises(CaseRefused, match=f"an account at the MCP server {name}") as refused:
        cases.judge(rules, PolicyCase(call=call, provider=name))
    assert refused.value.field == "provider"
    assert cases.judge(rules, PolicyCase(call=f"{name}_note", provider=name, arguments={"text": "x"}))


async def test_a_case_of_a_rule_has_its_arguments_while_the_tool_is_away(
    place: RemoteRoom, known_server: Any, tmp_path: Path
) -> None:
    name, double, agent = known_server
    about = f'forbid(principal, action == Action::"{name}_add", resource)'
    (tmp_path / "one.cedar").write_text(f'@id("x") {about} when {{ context.arguments.a > 1 }};')
    for is_away in (False, True):
        if is_away:
            double.tools = [one for one in double.tools if one["name"] != "add"]
            await place.look(name, agent)
        current = place.deployment.live.current
        assert (place.deployment.tool(f"{name}_add") is None) is is_away
        cases = CasePlace(current, ZoneInfo("UTC"))
        rules = load_rules(tmp_path, actions_of([*current.tools, *current.away]), setting="policy.folder")
        for number, outcome in ((2, PolicyOutcome.FORBID), (1, PolicyOutcome.ALLOW)):
            case = PolicyCase(call=f"{name}_add", arguments={"a": number, "b": 1})
            assert cases.judge(rules, case).outcome is outcome
        with pytest.raises(CaseRefused, match=f"{name}_add: "):
            cases.judge(rules, PolicyCase(call=f"{name}_add", arguments={"b": 1}))


async def test_no_exchange_gives_a_token_or_handle_of_it(place: RemoteRoom, known_server: Any) -> None:
    name, _, agent = known_server
    connection = await _connection(place, name, agent)
    async with httpx2.AsyncClient(base_url=place.room.url, timeout=20, trust_env=False) as http:
        exchanging = ExchangeRoom(place.room, http)
        caller = await exchanging.caller(**{MEMBER: {name: "full"}})
        user = await exchanging.agent(caller, "alice")
        async with place.deployment.transaction() as transaction:
            await delegations.allow(
                transaction,
                user_id=user.principal.user_id,
                client_id=caller.client.id,
                connection_id=connection.id,
                scopes=connection.scopes | {"call:add"},
                now=exchanging.now(),
            )
        for scope in ("mcp:read", "call:add", None):
            for audience in (name, connection.id):
                answer = await exchanging.exchange(caller, user.token, audience=audience, scope=scope)
                assert refusal_code(answer) == "invalid_target"
                assert "by its tools only" in answer.text


async def test_an_application_of_auth0s_is_told_to_call_the_tools_instead(place: RemoteRoom, known_server: Any) -> None:
    name, _, agent = known_server
    connection = await _connection(place, name, agent)
    async with httpx2.AsyncClient(base_url=place.room.url, timeout=20, trust_env=False) as http:
        caller = await ExchangeRoom(place.room, http).caller(**{MEMBER: {name: "full"}})
    with pytest.raises(ChangeRefused, match="can't leave the vault"):
        await agents.set_release(place.operator, caller.client, target=name, policy="full")
    await agents.set_release(place.operator, caller.client, target="slack", policy="full")
    question = WireQuestion(caller.client, None, connection.id, name)
    (release,) = [one for one in await explain_wire(place.deployment, question) if one.step == "release"]
    assert "can't leave the vault" in release.sentence
    assert release.fix == f"have the application call its tools at {place.room.url}/mcp"

"""An operator's own policy (OpenID AuthZEN) is consulted each time an account is used, and can only forbid."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.settings import SettingsRefused, load_settings
from tests.support.harness import free_socket, serve_app
from tests.support.rooms.exchange_room import ExchangeRoom, exchange_room, refusal_code
from tests.support.rooms.mcp_room import Agent
from tests.support.rules import look_twice, put
from vault import connections


@dataclass
class Policy:
    """A policy decision point; `answer` is what it answers."""

    url: str
    answer: object = True
    status: int = 200
    asked: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    authorization: str = ""
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def decide(self, request: Request) -> Response:
        self.asked.append(json.loads(await request.body()))
        self.authorization = request.headers.get("authorization", "")
        if self.meanwhile is not None:
            await self.meanwhile()
        return JSONResponse({"decision": self.answer}, status_code=self.status)


@pytest.fixture(scope="module")
async def policy() -> AsyncGenerator[Policy]:
    listening = free_socket()
    made = Policy(f"http://127.0.0.1:{listening.getsockname()[1]}/access/v1/evaluation")
    app = Starlette(routes=[Route("/access/v1/evaluation", made.decide, methods=["POST"])])
    async with serve_app(app, listening):
        yield made


@pytest.fixture(scope="module")
async def place(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    exchange = {"policy_url": policy.url, "policy_token": "of-the-vault"}
    async with exchange_room(tmp_path_factory.mktemp("policy") / "data", exchange=exchange) as opened:
        yield opened


@pytest.fixture(autouse=True)
def fresh(policy: Policy) -> None:
    policy.answer, policy.status, policy.meanwhile = True, 200, None
    policy.asked.clear()


async def an_agent(place: ExchangeRoom, name: str) -> tuple[Agent, str]:
    """An agent with a Slack account of this person; returns also the account's ID."""
    agent = await place.agent(await place.caller(), name)
    return agent, (await place.slack(agent)).id


async def call(place: ExchangeRoom, agent: Agent) -> str:
    async with place.room.client(agent) as client:
        result = await client.call_tool("slack_channels", {})
    return json.dumps(result.model_dump(mode="json"))


async def test_each_use_is_asked_about_and_a_no_is_a_refusal(place: ExchangeRoom, policy: Policy) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, "asked")
    connection = await place.slack(agent)
    for _ in range(2):
        assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200
    assert len(policy.asked) == 2, "no answer is kept"
    assert policy.asked[0] == {
        "subject": {"type": "user", "id": agent.principal.user_id},
        "action": {"name": "token exchange", "properties": {"scopes": ["chat:write"]}},
        "resource": {
            "type": "connection",
            "id": connection.id,
            "properties": {"provider": "slack", "account": connection.account},
        },
        "context": {"client_id": caller.client.id, "actors": [caller.client.id]},
    }
    assert policy.authorization == "Bearer of-the-vault"
    policy.answer = False
    no = await place.exchange(caller, agent.token, scope="chat:write")
    assert (no.status_code, refusal_code(no)) == (403, "access_denied")
    events = [one for one in await place.events("exchange.refused") if one.client_id == caller.client.id]
    assert [one.details["code"] for one in events] == ["policy_refused"]


async def test_tools_are_asked_about_by_name(place: ExchangeRoom, policy: Policy) -> None:
    agent, _ = await an_agent(place, "tools")
    assert "general" in await call(place, agent)
    assert [one["action"] for one in policy.asked] == [
        {"name": "slack_channels", "properties": {"scopes": ["channels:read"]}}
    ]
    policy.answer = False
    assert "policy doesn't allow" in await call(place, agent)


@pytest.mark.parametrize("fault", ["status", "no decision", "text"])
async def test_without_an_answer_nothing_is_done(place: ExchangeRoom, policy: Policy, fault: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, "silent")
    await place.slack(agent)
    policy.status, policy.answer = (
        (500, True) if fault == "status" else (200, None if fault == "no decision" else "yes")
    )
    answer = await place.exchange(caller, agent.token, scope="chat:write")
    assert (answer.status_code, refusal_code(answer)) == (503, "temporarily_unavailable")
    policy.status, policy.answer = 200, True
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 200


@pytest.mark.parametrize("way", ["exchange", "tool"])
async def test_what_ends_while_the_policy_thinks_is_not_used(place: ExchangeRoom, policy: Policy, way: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, f"ending-{way}")
    connection = await place.slack(agent)

    async def use() -> str:
        if way == "tool":
            return await call(place, agent)
        return (await place.exchange(caller, agent.token, scope="chat:write")).text

    async def disconnect() -> None:
        async with place.deployment.transaction() as transaction:
            await connections.disconnect(transaction, place.deployment.keys, connection, now=place.deployment.now())

    worked = "general" if way == "tool" else "access_token"
    assert worked in await use()
    policy.meanwhile = disconnect
    assert worked not in await use()
    assert len(policy.asked) == 2


async def test_what_the_vault_itself_refuses_is_not_asked_about(place: ExchangeRoom, policy: Policy) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, "unconnected")
    assert (await place.exchange(caller, agent.token, scope="chat:write")).status_code == 400
    assert policy.asked == []


@pytest.mark.parametrize(("url", "is_taken"), [("http://policy.example/", False), ("https://policy.example/", True)])
def test_the_policy_is_asked_over_tls_or_on_this_machine(url: str, is_taken: bool) -> None:
    if is_taken:
        assert load_settings(overrides={"exchange": {"policy_url": url}}).exchange.policy_url == url
    else:
        with pytest.raises(SettingsRefused, match="https"):
            load_settings(overrides={"exchange": {"policy_url": url}})


async def test_the_rules_of_the_folder_come_first_and_both_have_to_allow(policy: Policy, tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    settings = {"exchange": {"policy_url": policy.url}, "policy": {"folder": str(folder)}}
    async with exchange_room(tmp_path / "data", **settings) as both:
        gate = both.deployment.policy
        assert gate is not None
        agent, _ = await an_agent(both, "both")
        for rule, answer, is_done, asked in (
            ("", True, True, 1),
            ("", False, False, 1),
            ('@id("x") forbid(principal, action == Action::"slack_channels", resource);', True, False, 0),
            ('@id("x") @approval forbid(principal, action == Action::"slack_channels", resource);', True, False, 1),
        ):
            put(folder / "a.cedar", rule)
            await look_twice(gate)
            policy.answer = answer
            policy.asked.clear()
            said = await call(both, agent)
            assert ("general" in said, len(policy.asked)) == (is_done, asked), (rule, answer)
        assert "approv" in said

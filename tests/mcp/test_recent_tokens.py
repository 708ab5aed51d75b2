"""Tool calls that repeat a recent one: what they save, and that they never use anything that has ended since."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import pytest

from server.oauth import tokens
from server.runtime.recent_tokens import KEPT, RecentTokens
from tests.conftest import Store
from tests.support.inspection import read_events, verify_activity
from tests.support.rooms.mcp_room import SLACK, Agent, Room, modern, modern_headers, room
from vault import clients, connections, delegations, grants, revoked_tokens, tool_choices, users
from vault.approvals.approvals import ToolCall
from vault.connections import ACCESS_TOKEN
from vault.exchange.exchange import ExchangeRequest
from vault.records import Connection, Event
from vault.refresh import rotation
from vault.refusals import VaultError
from vault.spans import KEY_USES

POST = {"channel": "#general", "text": "hello"}


def is_done(answer: httpx2.Response) -> bool:
    return answer.status_code == 200 and not answer.json().get("result", {"isError": True}).get("isError")


@dataclass
class CallingAgent:
    """An agent with an account, and its open session."""

    place: Room
    agent: Agent
    connection: Connection
    http: httpx2.AsyncClient

    @property
    def exchange_request(self) -> ExchangeRequest:
        """What a call requests from the exchange."""
        call = ToolCall("slack_post", arguments=lambda: POST)
        return ExchangeRequest(self.agent.principal, "slack", SLACK, purpose="slack_post", call=call, is_kept=True)

    async def post(self, **arguments: str) -> httpx2.Response:
        called = modern("tools/call", {"name": "slack_post", "arguments": POST | arguments})
        return await self.http.post("/mcp", json=called, headers=modern_headers("tools/call", "slack_post"))

    async def opens(self) -> int:
        """How often the next call opens stored sealed values."""
        before = KEY_USES[ACCESS_TOKEN, "open"]
        answer = await self.post()
        assert is_done(answer), answer.text
        return KEY_USES[ACCESS_TOKEN, "open"] - before

    async def repeat(self) -> None:
        """Call until a call repeats: at most three times, or six if everything was forgotten meanwhile."""
        for _ in range(6):
            if await self.opens() == 0:
                return
        raise AssertionError("this call is never repeated")

    async def events(self) -> list[Event]:
        deployment = self.place.vault.deployment
        found = await read_events(deployment)
        return [one for one in found if one.kind == "token.exchanged"]

    @property
    def ids(self) -> dict[str, str]:
        return {"user_id": self.agent.principal.user_id, "client_id": self.agent.principal.client_id}


@asynccontextmanager
async def calling_agent(place: Room) -> AsyncGenerator[CallingAgent]:
    agent = await place.agent(f"person-{len(await users.list_users(place.vault.deployment.database))}")
    connection = await place.connect(agent, "slack", scopes=SLACK)
    async with place.http(agent) as http:
        yield CallingAgent(place, agent, connection, http)


@pytest.fixture
async def one(place: Room) -> AsyncGenerator[CallingAgent]:
    async with calling_agent(place) as found:
        yield found


@pytest.fixture
async def calling_agent_of_store(store: Store) -> AsyncGenerator[CallingAgent]:
    """The agent, on each database."""
    async with room(store.data, database_url=store.url) as opened, calling_agent(opened) as found:
        yield found


async def test_a_repeated_call_opens_nothing_and_leaves_an_event_of_its_own(
    calling_agent_of_store: CallingAgent,
) -> None:
    one = calling_agent_of_store
    assert await one.opens() > 0, "the first call opens the token"
    await one.repeat()
    await one.post(text="another text")
    found = sorted(await one.events(), key=lambda event: event.sequence)
    last, before = found[-1], found[-2]
    assert last.details.keys() == found[0].details.keys()
    own = {"request_id", "arguments_hash"}
    assert {k: v for k, v in last.details.items() if k not in own} == {
        k: v for k, v in found[0].details.items() if k not in own
    }
    assert before.details["arguments_hash"] == found[0].details["arguments_hash"] != last.details["arguments_hash"]
    assert len({event.details["request_id"] for event in found}) == len(found)
    await verify_activity(one.place.vault.deployment.database)


async def test_only_the_second_call_keeps_the_token_opened(one: CallingAgent) -> None:
    deployment, kept = one.place.vault.deployment, RecentTokens()
    opened: list[int] = []
    for _ in range(4):
        before = KEY_USES[ACCESS_TOKEN, "open"]
        await kept.exchange(one.exchange_request, vault=deployment.vault, now=deployment.now())
        opened.append(KEY_USES[ACCESS_TOKEN, "open"] - before)
    assert opened == [1, 1, 0, 0]


@pytest.mark.parametrize("is_same_ring", [True, False], ids=["the vault's keys", "other keys"])
async def test_a_decision_whose_token_opens_no_more_is_refused_and_reported_as_any_other(
    one: CallingAgent, tmp_path: Path, is_same_ring: bool
) -> None:
    deployment, kept = one.place.vault.deployment, RecentTokens()
    vault = deployment.vault
    await kept.exchange(one.exchange_request, vault=vault, now=deployment.now())
    async with room(tmp_path / "data") as other:
        keys = vault.keys if is_same_ring else other.vault.deployment.keys
        refused = None
        try:
            await kept.exchange(one.exchange_request, vault=replace(vault, keys=keys), now=deployment.now())
        except VaultError as error:
            refused = error.code
    found = [event.kind for event in await read_events(deployment) if event.user_id == one.ids["user_id"]]
    assert (refused, found.count("exchange.refused")) == ((None, 0) if is_same_ring else ("key_unavailable", 1))


async def test_a_minute_later_the_exchange_decides_again(one: CallingAgent) -> None:
    await one.repeat()
    database = one.place.vault.deployment.database
    database.clock_offset += KEPT
    try:
        assert await one.opens() > 0
    finally:
        database.clock_offset -= KEPT


async def test_another_agent_account_or_tool_gets_nothing_of_it(one: CallingAgent) -> None:
    await one.repeat()
    other = await one.place.agent("bob")
    async with one.place.http(other) as http:
        assert not is_done(await replace(one, agent=other, http=http).post()), "it has no permission"
    assert not is_done(await one.post(account="nobody"))
    assert await one.opens() == 0, "its own calls repeat still"


def with_new_token(one: CallingAgent) -> Agent:
    """The same agent with another access token of its grant."""
    deployment, who = one.place.vault.deployment, one.agent.principal
    facts = tokens.AccessTokenFacts(
        deployment.issuer, who.user_id, who.client_id, who.grant_id, audience=who.audience, scopes=who.scopes
    )
    now = deployment.now()
    return replace(one.agent, token=tokens.sign(deployment.keys, facts, now=now, expires_at=now + 600))


async def test_each_token_of_a_grant_repeats_the_calls_of_the_others(one: CallingAgent) -> None:
    await one.repeat()
    events = len(await one.events())
    for _ in range(2):
        other = with_new_token(one)
        async with one.place.http(other) as http:
            assert await replace(one, agent=other, http=http).opens() == 0
    assert len(await one.events()) == events + 2


@pytest.mark.parametrize("is_revoked", [False, True])
async def test_a_token_revoked_before_the_repeated_call_gets_nothing_of_it(one: CallingAgent, is_revoked: bool) -> None:
    other = with_new_token(one)
    if is_revoked:
        await revoke_token(replace(one, agent=other))
    await one.repeat()
    posts = len(one.place.simulator.books()["posts"])
    async with one.place.http(other) as http:
        assert is_done(await replace(one, agent=other, http=http).post()) is not is_revoked
    assert (len(one.place.simulator.books()["posts"]) == posts) is is_revoked
    assert await one.opens() == 0, "the other token's calls repeat still"


# What ends or changes between two calls; `tests/proxy/test_proxy_repeats.py` has the same tests for handles.

Change = Callable[[CallingAgent], Awaitable[object]]


async def revoke_grant(one: CallingAgent) -> object:
    deployment = one.place.vault.deployment
    async with deployment.transaction() as transaction:
        grant_id = one.agent.principal.grant_id
        return await grants.revoke_grant(transaction, grant_id, reason="test", now=deployment.now())


async def remove_client(one: CallingAgent) -> object:
    deployment = one.place.vault.deployment
    async with deployment.transaction() as transaction:
        return await clients.remove_client(transaction, one.ids["client_id"], now=deployment.now())


async def disable_user(one: CallingAgent) -> object:
    deployment = one.place.vault.deployment
    async with deployment.transaction() as transaction:
        return await users.disable_user(transaction, one.ids["user_id"], now=deployment.now())


async def stop_agents(one: CallingAgent) -> object:
    deployment = one.place.vault.deployment
    now = deployment.now()
    async with deployment.transaction() as transaction:
        return await users.stop_agents(transaction, one.ids["user_id"], by="https://id.example", at=now, now=now)


async def revoke_permission(one: CallingAgent) -> object:
    deployment = one.place.vault.deployment
    async with deployment.transaction() as transaction:
        return await delegations.revoke(transaction, **one.ids, connection_id=one.connection.id, now=deployment.now())


async def narrow_permission(one: CallingAgent) -> object:
    return await one.place.allow(one.agent, one.connection, frozenset({"channels:read"}))


async def ask_each_time(one: CallingAgent) -> object:
    deployment = one.place.vault.deployment
    ask = frozenset({"chat:write"})
    async with deployment.transaction() as transaction:
        return await delegations.set_ask(
            transaction, **one.ids, connection_id=one.connection.id, ask=ask, now=deployment.now()
        )


async def revoke_token(one: CallingAgent) -> object:
    deployment = one.place.vault.deployment
    claims = await tokens.read_claims(deployment, one.agent.token, now=deployment.now())
    async with deployment.transaction() as transaction:
        return await revoked_tokens.revoke_access_token(
            transaction,
            one.agent.principal.grant_id,
            client_id=one.ids["client_id"],
            token_id=claims.token_id,
            expires_at=claims.expires_at,
            now=deployment.now(),
        )


async def choose_read_only(one: CallingAgent) -> object:
    deployment = one.place.vault.deployment
    async with deployment.transaction() as transaction:
        return await tool_choices.set_tool_set(
            transaction,
            one.ids["user_id"],
            client_id=one.ids["client_id"],
            tool_set="read-only",
            now=deployment.now(),
        )


async def disconnect(one: CallingAgent) -> object:
    deployment = one.place.vault.deployment
    async with deployment.transaction() as transaction:
        return await connections.disconnect(transaction, deployment.keys, one.connection, now=deployment.now())


CHANGES = [
    revoke_grant,
    remove_client,
    disable_user,
    stop_agents,
    revoke_permission,
    narrow_permission,
    ask_each_time,
    revoke_token,
    choose_read_only,
    disconnect,
]


@pytest.mark.parametrize("is_opened", [False, True], ids=["after one call", "after several"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_what_ended_between_two_calls_is_not_outlived(one: CallingAgent, change: Change, is_opened: bool) -> None:
    assert await one.opens() > 0
    if is_opened:
        await one.repeat()
        assert await one.opens() == 0, "the same call goes through where nothing has changed"
    posts = len(one.place.simulator.books()["posts"])
    await change(one)
    assert not is_done(await one.post())
    assert len(one.place.simulator.books()["posts"]) == posts


async def test_another_token_of_the_account_is_used_at_once(one: CallingAgent) -> None:
    await one.repeat()
    deployment = one.place.vault.deployment
    await rotation.refresh(deployment.vault, one.connection.id, if_generation=1)
    assert await one.opens() > 0


async def test_where_the_provider_is_set_up_anew_the_exchange_decides_again(one: CallingAgent) -> None:
    await one.repeat()
    live = one.place.vault.deployment.live
    before = live.current
    live.current = replace(before, upstreams={name: copy(made) for name, made in before.upstreams.items()})
    try:
        assert await one.opens() > 0
    finally:
        live.current = before

"""How many durable events one agent can cause with successful requests: at the token endpoint and at the proxy."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx2
import pytest

from server.oauth.rules import OAuthError, default_resource
from server.oauth.token_rate import spend_request
from server.runtime.rate_limits import HOUR, Budgets
from tests.conftest import Store
from tests.support.inspection import note_repeats, read_events
from tests.support.rooms.exchange_room import Caller, ExchangeRoom, exchange_room, refusal_code
from tests.support.rooms.mcp_room import SLACK, Agent

MOST = 60
SCOPES = frozenset({"tools", "exchange"})


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[ExchangeRoom]:
    few = {"per_agent_hourly": MOST}
    async with exchange_room(store.data, database_url=store.url, tokens=few, proxy=few) as opened:
        yield opened


async def kinds(place: ExchangeRoom, agent: Agent) -> Counter[str]:
    """The events of this agent, including those that count repeats."""
    activity = place.deployment.activity
    note_repeats(activity)
    await activity.settle()
    found = await read_events(place.deployment)
    return Counter(one.kind for one in found if one.client_id == agent.principal.client_id)


def check_slowed(answer: httpx2.Response) -> None:
    assert (answer.status_code, refusal_code(answer)) == (429, "temporarily_unavailable")
    assert 1 <= int(answer.headers["retry-after"]) <= HOUR / MOST


@pytest.mark.parametrize("way", ["handle", "released", "own"])
async def test_exchanges_of_one_agent_are_bounded_and_each_that_is_answered_is_recorded(
    place: ExchangeRoom, way: str
) -> None:
    """A handle, a provider's token (repeated within seconds), and one of our tokens."""
    kind = {"handle": "handle.issued", "released": "token.released", "own": "token.issued"}[way]
    caller, other = await add_caller(place, way), await add_caller(place, way)
    name, value = ("audience", default_resource(place.url)) if way == "own" else ("scope", "chat:write")
    agent, second = await place.agent(caller), await place.agent(other)
    for one in (agent, second):
        await place.slack(one)

    async def exchange(caller: Caller, agent: Agent) -> httpx2.Response:
        form = place.form(caller, agent.token) | {name: value}
        return await place.http.post("/token", data=form)

    for _ in range(MOST):
        answer = await exchange(caller, agent)
        assert answer.status_code == 200, answer.text
    for _ in range(5):
        check_slowed(await exchange(caller, agent))
    left = await kinds(place, agent)
    assert (left[kind], left["token.refused"]) == (MOST, 2)  # the first one, and one with the number of further ones
    assert (await exchange(other, second)).status_code == 200  # the twin: another agent of the same person


async def add_caller(place: ExchangeRoom, way: str) -> Caller:
    if way == "released":
        return await place.caller(release={"slack": "full"})
    return await place.caller()


async def test_refreshes_are_bounded_and_a_token_that_has_to_wait_stays_good(place: ExchangeRoom) -> None:
    caller = await place.caller()
    agent = await place.agent(caller)
    token = await place.refresh_token(agent)

    async def refresh(token: str) -> httpx2.Response:
        form = {"grant_type": "refresh_token", **caller.credentials, "refresh_token": token}
        return await place.http.post("/token", data=form)

    for _ in range(MOST):
        token = (await refresh(token)).json()["refresh_token"]
    for _ in range(3):
        check_slowed(await refresh(token))
    left = await kinds(place, agent)
    assert (left["token.refreshed"], left["token.refused"], left["grant.revoked"]) == (MOST, 2, 0)
    object.__setattr__(place.deployment, "token_requests", Budgets(MOST, window=HOUR))  # an hour later
    assert (await refresh(token)).status_code == 200  # the twin; nothing had been used up


async def test_a_used_refresh_token_ends_its_grant_however_many_requests_there_were(place: ExchangeRoom) -> None:
    caller = await place.caller()
    agent = await place.agent(caller)
    first = await place.refresh_token(agent)
    form = {"grant_type": "refresh_token", **caller.credentials}
    token = first
    for _ in range(MOST):
        token = (await place.http.post("/token", data={**form, "refresh_token": token})).json()["refresh_token"]
    place.deployment.database.clock_offset += place.deployment.settings.tokens.refresh_grace + 1
    assert refusal_code(await place.http.post("/token", data={**form, "refresh_token": first})) == "invalid_grant"
    assert (await kinds(place, agent))["grant.revoked"] == 1


async def test_calls_through_the_proxy_are_bounded_for_each_agent(place: ExchangeRoom) -> None:
    caller, other = await place.caller(), await place.caller()
    agent, second = await place.agent(caller), await place.agent(other)
    for one in (agent, second):
        await place.room.connect(one, "slack", scopes=SLACK)

    async def call(whose: Caller, one: Agent, times: int) -> list[httpx2.Response]:
        exchanged = (await place.exchange(whose, one.token, scope="channels:read")).json()
        headers = {"authorization": f"Bearer {exchanged['access_token']}"}
        url = exchanged["api_base_url"] + "/conversations.list"
        return [await place.http.get(url, headers=headers) for _ in range(times)]

    answers = await call(caller, agent, MOST + 5)
    assert [one.status_code for one in answers] == [200] * MOST + [429] * 5, answers[0].text
    late = answers[-1]
    assert late.headers["token-vault-refusal"] == late.json()["code"] == "rate_limited"
    assert 1 <= int(late.headers["retry-after"]) <= HOUR / MOST
    assert (await kinds(place, agent))["proxy.called"] == MOST + 2
    (twin,) = await call(other, second, 1)
    assert twin.status_code == 200


async def test_each_person_of_an_agent_has_their_own_number_of_tokens(place: ExchangeRoom) -> None:
    deployment = replace(place.deployment, token_requests=Budgets(1, window=HOUR))
    for user_id, client_id in (("a", "one"), ("b", "one"), ("a", "two"), (None, "one")):
        spend_request(deployment, user_id=user_id, client_id=client_id)
        with pytest.raises(OAuthError) as refused:
            spend_request(deployment, user_id=user_id, client_id=client_id)
        assert refused.value.code == "temporarily_unavailable"

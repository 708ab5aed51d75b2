"""Providers whose refresh kills the old access token: calls in flight are repeated once, and nobody notices."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from providers.definitions.catalog import load_catalog
from tests.support.rooms.mcp_room import SLACK, Room, modern, modern_headers, room
from tests.support.simulator_apps import wait_until_held
from vault.exchange.exchange import ExchangeRequest, exchange
from vault.upstream import Downscope

CALLS = 60


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("inflight") / "data") as opened:
        policies = opened.vault.deployment.vault.policies
        flagged = replace(policies["slack"], refresh_ends_access_token=True)
        opened.vault.deployment = replace(
            opened.vault.deployment,
            vault=replace(opened.vault.deployment.vault, policies={**policies, "slack": flagged}),
        )
        yield opened


async def test_slow_calls_across_a_refresh_that_kills_their_token_are_carried_out_once_each(place: Room) -> None:
    simulator, deployment = place.simulator, place.vault.deployment
    simulator.control("rules", face="slack", refresh_ends_access=True)
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    numbers = itertools.count(1)

    async def post() -> bool:
        number = next(numbers)
        arguments = {"channel": "#general", "text": f"message {number}"}
        request = modern("tools/call", {"name": "slack_post", "arguments": arguments}, id=number)
        async with place.http(agent) as http:
            answer = await http.post("/mcp", json=request, headers=modern_headers("tools/call", "slack_post"))
        return answer.status_code == 200 and not answer.json()["result"].get("isError")

    simulator.fault("slack.api.chat.postMessage", "hold", times=4)
    slow = [asyncio.create_task(post()) for _ in range(4)]
    await wait_until_held(simulator, "slack.api.chat.postMessage", count=4)
    wanted = ExchangeRequest(agent.principal, "slack", frozenset({"chat:write"}), purpose="test")
    old = await exchange(wanted, vault=deployment.vault, now=deployment.now())
    fresh = await exchange(wanted, vault=deployment.vault, now=deployment.now(), after_unauthorized=old.generation)
    assert fresh.value != old.value
    assert simulator.books()["families"][0]["live_access_tokens"] == ["slack-1:a1"]
    simulator.control("release")
    async with asyncio.timeout(30):
        assert all(await asyncio.gather(*slow))
        assert all(await asyncio.gather(*(post() for _ in range(CALLS))))
    texts = [post["text"] for post in simulator.books()["posts"]]
    assert len(texts) == len(set(texts)) == 4 + CALLS
    assert len(simulator.books()["refreshes"]) == 1


@pytest.mark.parametrize("name", ["github", "gitlab", "zendesk", "miro", "snowflake"])
def test_the_files_of_providers_whose_refresh_kills_the_old_token_say_so(name: str) -> None:
    provider = load_catalog().provider(name)
    policy = provider.policy()
    assert policy.refresh_ends_access_token
    assert policy.narrows_by is not Downscope.REFRESH_SCOPE  # a narrow token would kill the full one as well
    assert provider.facts["rotation"].status != "unknown"
    sparing = provider.model_copy(
        update={"rotation": provider.rotation.model_copy(update={"ends_access_token": False})}
    )
    assert not sparing.policy().refresh_ends_access_token

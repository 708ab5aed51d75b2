"""How a plain call ends early, and that what it answers was allowed: each era, with and without progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from tests.support.mcp_room import SLACK, Agent, Room, modern, modern_headers, room
from vault import grants
from vault.audit import audit

HELD = "slack.api.conversations.list"
LIST: dict[str, object] = {"name": "slack_channels", "arguments": {"limit": 1}}


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Room]:
    async with room(tmp_path) as opened:
        yield opened


@pytest.fixture
async def agent(place: Room) -> Agent:
    found = await place.agent()
    await place.connect(found, "slack", scopes=SLACK)
    return found


async def modern_call(http: httpx2.AsyncClient, token: object = None) -> httpx2.Response:
    message = modern("tools/call", LIST, id=7)
    if token is not None:
        message["params"]["_meta"]["progressToken"] = token  # type: ignore[index]
    return await http.post("/mcp", json=message, headers=modern_headers("tools/call", "slack_channels"))


async def calls(place: Room, agent: Agent) -> list[str]:
    """Outcomes of the agent's tool calls in the activity."""
    await place.vault.deployment.activity.settle()
    database, user = place.vault.deployment.database, agent.principal.user_id
    found = await audit.list_events(database, user_id=user, limit=20, newest_first=True)
    return [event.outcome for event in found if event.kind == "tool.called"]


@pytest.mark.parametrize("token", [None, "p"])
async def test_a_client_that_leaves_ends_its_call_where_it_asked_for_progress(
    place: Room, agent: Agent, token: object
) -> None:
    place.simulator.fault(HELD, "hold")
    drain = place.vault.deployment.drain
    async with place.http(agent) as http:
        call = asyncio.create_task(modern_call(http, token))
        await place.simulator.wait_until_held(HELD)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    if token is None:  # its provider's answer comes, and the activity says so
        assert drain._calls == 1
        place.simulator.control("release")
    async with asyncio.timeout(5):
        await drain._idle.wait()
    assert await calls(place, agent) == (["ok"] if token is None else [])


@pytest.mark.parametrize("token", [None, "p"])
async def test_a_grant_that_ends_before_any_answer_is_a_challenge(
    place: Room, agent: Agent, monkeypatch: pytest.MonkeyPatch, token: object
) -> None:
    """With progress the first word goes out before the call has an end: the grant is read then."""
    deployment = place.vault.deployment
    place.simulator.fault(HELD, "hold")
    async with place.http(agent) as http:
        call = asyncio.create_task(modern_call(http, token))
        await place.simulator.wait_until_held(HELD)
        async with deployment.transaction() as transaction:
            await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=deployment.now())
        place.simulator.control("release")
        answer = await call
        assert answer.status_code == (401 if token else 200)  # without: it was alive when the exchange read it
        assert (await modern_call(http, token)).status_code == 401

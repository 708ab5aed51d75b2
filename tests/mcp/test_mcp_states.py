"""An account in every state: its tools stay listed, and each state has its own answer with the next step."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from server.connecting.links import LINKS
from tests.conftest import Store
from tests.support.rooms.mcp_room import Agent, Room, modern, modern_headers, room
from vault import connections
from vault.records import Connection
from vault.refresh import leases
from vault.refresh.rules import LEASE

SCOPES = frozenset({"chat:write"})


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[Room]:
    async with room(store.data, database_url=store.url) as opened:
        yield opened


async def ask(place: Room, agent: Agent, method: str, params: dict[str, object], *, name: str | None = None) -> str:
    """The answer's result as JSON."""
    async with place.http(agent) as http:
        answer = await http.post("/mcp", json=modern(method, params), headers=modern_headers(method, name))
    assert answer.status_code == 200
    return json.dumps(answer.json()["result"])


async def tool_names(place: Room, agent: Agent) -> list[str]:
    return [tool["name"] for tool in json.loads(await ask(place, agent, "tools/list", {}))["tools"]]


async def post(place: Room, agent: Agent) -> str:
    arguments = {"channel": "#general", "text": "hello"}
    return await ask(place, agent, "tools/call", {"name": "slack_post", "arguments": arguments}, name="slack_post")


async def change(place: Room, connection: Connection, columns: str, **values: int | str | None) -> None:
    async with place.vault.deployment.transaction() as transaction:
        await transaction.execute(f"update connections set {columns} where id = :id", {"id": connection.id, **values})


async def needs_reauth(place: Room, connection: Connection) -> None:
    place.simulator.fault("slack.token.refresh", "invalid_grant", times=None)
    await change(place, connection, "access_expires_at = :at", at=place.vault.deployment.now() - 1)


async def ambiguous(place: Room, connection: Connection) -> None:
    """A refresh whose answer may still arrive, from a process that was silent for longer than a lease."""
    await change(place, connection, "access_expires_at = :at", at=place.vault.deployment.now() - 1)
    vault = place.vault.deployment.vault
    facts = await leases.read(vault.database, connection.id)
    assert facts is not None
    async with vault.database.transaction() as transaction:
        lease = await leases.claim(transaction, facts, owner="unknown", now=vault.database.now())
        assert lease is not None
        await leases.release(transaction, lease)
    vault.tasks.watches.seconds(connection.id, lease.fence, now=vault.database.now() - LEASE)


async def disconnect_account(place: Room, connection: Connection) -> None:
    deployment = place.vault.deployment
    async with deployment.transaction() as transaction:
        await connections.disconnect(transaction, deployment.keys, connection, now=deployment.now())


State = Callable[[Room, Connection], Awaitable[None]]


async def test_tools_stay_listed_and_each_state_has_its_own_answer_with_a_link(place: Room) -> None:
    said: dict[str, str] = {}
    states: dict[str, State] = {"needs_reauth": needs_reauth, "ambiguous": ambiguous, "revoked": disconnect_account}
    for name, enter in states.items():
        place.simulator.control("clear_faults")
        agent = await place.agent(f"person in {name}")
        before = await tool_names(place, agent)
        assert "slack_post" in before
        connection = await place.connect(agent, "slack", scopes=SCOPES)
        assert '"isError": true' not in await post(place, agent)
        await enter(place, connection)
        said[name] = await post(place, agent)
        assert f"{place.url}/connect/" in said[name]
        assert await tool_names(place, agent) == before
        shown = await ask(place, agent, "tools/call", {"name": "connections", "arguments": {}}, name="connections")
        assert (name in shown) is (name != "revoked")
    texts = [json.loads(answer)["content"][0]["text"] for answer in said.values()]
    words = {text.partition(place.url)[0] for text in texts}
    assert len(words) == 3, texts


async def test_an_account_whose_provider_does_not_answer_is_waited_for_without_a_link(place: Room) -> None:
    place.simulator.control("clear_faults")
    agent = await place.agent("who waits")
    connection = await place.connect(agent, "slack", scopes=SCOPES)
    await change(place, connection, "access_expires_at = :at", at=place.vault.deployment.now() - 1)
    place.simulator.fault("slack.token.refresh", "status", status=500, body="", times=None)
    for _ in range(4):
        said = await post(place, agent)
        assert "retries automatically" in said
        assert f"{place.url}/connect/" not in said
    shown = await ask(place, agent, "tools/call", {"name": "connections", "arguments": {}}, name="connections")
    assert "waiting" in shown
    place.simulator.control("clear_faults")


async def test_an_agent_in_a_loop_gets_no_more_links_for_a_while(place: Room) -> None:
    agent, other = await place.agent("in a loop"), await place.agent("another")
    answers = [await post(place, agent) for _ in range(LINKS + 1)]
    assert [f"{place.url}/connect/" in answer for answer in answers] == [True] * LINKS + [False]
    assert "link" in answers[-1]
    assert f"{place.url}/connections" in answers[-1]
    assert f"{place.url}/connect/" in await post(place, other)


async def test_an_account_that_ends_soon_says_so_and_works(place: Room) -> None:
    agent = await place.agent()
    connection = await place.connect(agent, "slack", scopes=SCOPES)
    await change(place, connection, "grant_expires_at = :at", at=place.vault.deployment.now() + 3 * 86400)
    assert '"isError": true' not in await post(place, agent)
    shown = await ask(place, agent, "tools/call", {"name": "connections", "arguments": {}}, name="connections")
    assert "expiring" in shown

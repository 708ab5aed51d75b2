"""MCP requests during a storage outage: a status for proxies, a sentence for models, and nothing is sent meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from server.mcp.retry_later import STORAGE_AWAY
from tests.support.rooms.mcp_room import (
    SLACK,
    Agent,
    Room,
    legacy_headers,
    legacy_session,
    modern,
    modern_headers,
    room,
)

POST: dict[str, object] = {"name": "slack_post", "arguments": {"channel": "#general", "text": "x"}}


@pytest.fixture
async def agent(place: Room) -> Agent:
    found = await place.agent()
    await place.connect(found, "slack", scopes=SLACK)
    return found


@asynccontextmanager
async def storage_away(place: Room) -> AsyncGenerator[None]:
    """Nothing can be written, but existing data can be read."""
    writing = place.vault.deployment.database._writing
    await writing.execute("pragma query_only = on")
    try:
        yield
    finally:
        await writing.execute("pragma query_only = off")


async def call(http: httpx2.AsyncClient, era: str, params: Mapping[str, object] = POST) -> httpx2.Response:
    if era in ("modern", "progress"):
        headers = modern_headers("tools/call", str(params["name"]))
        request = modern("tools/call", params, id=7)
        if era == "progress":
            request["params"]["_meta"]["progressToken"] = "p"
        return await http.post("/mcp", json=request, headers=headers)
    session = await legacy_session(http) if era == "session" else None
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    return await http.post("/mcp", json=body, headers=legacy_headers(session))


@pytest.mark.parametrize("era", ["modern", "progress", "session"])
async def test_a_tool_call_without_storage_is_503_with_retry_after_and_nothing_is_sent(
    place: Room, agent: Agent, era: str
) -> None:
    async with place.http(agent) as http:
        before = len(place.simulator.books()["posts"])
        async with storage_away(place):
            answer = await call(http, era)
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"] == "5"
        error = answer.json()["error"]
        assert (answer.json()["id"], error["code"], error["data"]) == (7, STORAGE_AWAY, {"retry_after": 5})
        assert "Nothing is lost" in error["message"]
        assert len(place.simulator.books()["posts"]) == before
        again = await call(http, era)
        assert again.status_code == 200
        assert "retry-after" not in again.headers
        assert len(place.simulator.books()["posts"]) == before + 1


async def test_the_official_client_hears_when_to_come_again(place: Room, agent: Agent) -> None:
    async with place.client(agent) as client:
        async with storage_away(place):
            with pytest.raises(MCPError, match="try again") as raised:
                await client.call_tool("slack_post", {"channel": "#general", "text": "x"})
        assert raised.value.data == {"retry_after": 5}
        assert not (await client.call_tool("slack_post", {"channel": "#general", "text": "x"})).is_error


async def test_a_token_that_cannot_be_checked_is_503_and_a_message_that_clients_understand(
    tmp_path: Path,
) -> None:
    async with room(tmp_path / "data") as place:
        agent = await place.agent()
        writing = place.vault.deployment.database._writing
        async with place.http(agent) as http:
            body, headers = modern("tools/list", id=7), modern_headers("tools/list")
            assert (await http.post("/mcp", json=body, headers=headers)).status_code == 200
            await writing.execute("alter table grants rename to grants_away")
            answer = await http.post("/mcp", json=body, headers=headers)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert answer.json()["error"]["code"] == STORAGE_AWAY

"""How many handshake sessions and event streams an agent may hold, and which of them are closed to make room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from server.mcp.sessions import PER_CLIENT, PER_PERSON, Roster, SessionLimits
from tests.support.rooms.mcp_room import (
    ACCEPT,
    INITIALIZE,
    SLACK,
    Agent,
    Room,
    legacy_headers,
    legacy_session,
    modern,
    modern_headers,
    room,
)
from vault import grants

LIST = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}


async def status(http: httpx2.AsyncClient, session: str) -> int:
    return (await http.post("/mcp", json=LIST, headers=legacy_headers(session))).status_code


@asynccontextmanager
async def listen(http: httpx2.AsyncClient, session: str) -> AsyncGenerator[httpx2.Response]:
    headers = {"accept": "text/event-stream", "mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
    async with http.stream("GET", "/mcp", headers=headers) as answer:
        assert answer.status_code == 200
        yield answer


async def test_the_session_that_an_agent_has_not_used_for_longest_makes_room(place: Room) -> None:
    agent, other = await place.agent("alice"), await place.agent("bob")
    async with place.http(agent) as http, place.http(other) as theirs:
        kept = await legacy_session(theirs)
        sessions = [await legacy_session(http) for _ in range(PER_CLIENT)]
        assert await status(http, sessions[0]) == 200  # still within the limit, and used again
        sessions.append(await legacy_session(http))
        assert await status(http, sessions[1]) == 404
        for session in (sessions[0], *sessions[2:]):
            assert await status(http, session) == 200
        assert await status(theirs, kept) == 200


async def test_a_session_that_somebody_listens_to_stays_while_there_is_an_idle_one(place: Room) -> None:
    async with place.http(await place.agent("carol")) as http:
        heard = await legacy_session(http)
        async with listen(http, heard):
            idle = [await legacy_session(http) for _ in range(PER_CLIENT)]
            assert await status(http, heard) == 200
            assert await status(http, idle[0]) == 404


async def test_when_somebody_listens_to_all_of_them_the_oldest_ends(place: Room) -> None:
    async with place.http(await place.agent("dora")) as http, AsyncExitStack() as stack:
        sessions = [await legacy_session(http) for _ in range(PER_CLIENT)]
        for session in sessions:
            await stack.enter_async_context(listen(http, session))
        new = await legacy_session(http)
        assert await status(http, sessions[0]) == 404
        assert await status(http, new) == 200


async def test_many_sessions_opened_at_once_stay_within_the_bound(place: Room) -> None:
    async with place.http(await place.agent("erin")) as http:
        await asyncio.gather(*(legacy_session(http) for _ in range(3)))
        opened = await asyncio.gather(*(_open(http) for _ in range(4 * PER_CLIENT)))
        living = [session for session in opened if session and await status(http, session) == 200]
        assert 1 <= len(living) <= PER_CLIENT
        assert await _open(http)


async def _open(http: httpx2.AsyncClient) -> str | None:
    """Open a session; returns None if all of the agent's sessions are busy."""
    answer = await http.post("/mcp", json=INITIALIZE, headers=legacy_headers())
    if answer.status_code == 429:
        assert "too many active sessions" in answer.text
        assert answer.headers["retry-after"] == "5"
        return None
    assert answer.status_code == 200
    return answer.headers["mcp-session-id"]


async def test_a_session_that_ended_leaves_its_place(place: Room) -> None:
    async with place.http(await place.agent("fay")) as http:
        for _ in range(PER_CLIENT + 1):
            session = await legacy_session(http)
            assert (await http.delete("/mcp", headers=legacy_headers(session))).status_code == 200
        kept = [await legacy_session(http) for _ in range(PER_CLIENT)]
        assert [await status(http, session) for session in kept] == [200] * PER_CLIENT


async def test_what_opens_no_session_takes_no_place(place: Room) -> None:
    async with place.http(await place.agent("gus")) as http:
        kept = await legacy_session(http)
        for _ in range(PER_CLIENT + 1):
            assert (await http.post("/mcp", json=LIST, headers=legacy_headers())).status_code == 400
        assert await status(http, kept) == 200


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_stream_ends_with_the_grant_that_it_was_opened_on(place: Room, path: str) -> None:
    agent, other = await place.agent("alice"), await place.agent("alice", client_name="Stays")
    async with place.http(agent) as http, place.http(other) as theirs:

        async def follow(client: httpx2.AsyncClient, is_open: asyncio.Event) -> None:
            headers = {"accept": "text/event-stream"}
            if path == "/mcp":
                headers |= {"mcp-session-id": await legacy_session(client), "mcp-protocol-version": "2025-11-25"}
            async with client.stream("GET", path, headers=headers, timeout=60) as answer:
                assert answer.status_code == 200
                is_open.set()
                async for _ in answer.aiter_raw():
                    pass

        opened = asyncio.Event(), asyncio.Event()
        streams = [asyncio.create_task(follow(one, event)) for one, event in zip((http, theirs), opened, strict=True)]
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(*[event.wait() for event in opened])
                deployment = place.vault.deployment
                async with deployment.transaction() as transaction:
                    await grants.revoke_grant(
                        transaction, agent.principal.grant_id, reason="test", now=deployment.now()
                    )
                await streams[0]  # the stream ends without an error
            assert not streams[1].done()
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)


async def test_the_oldest_event_stream_of_an_agent_ends_when_it_opens_too_many(place: Room) -> None:
    async with place.http(await place.agent("hal")) as http, AsyncExitStack() as stack:
        streams: list[httpx2.Response] = []
        for _ in range(PER_CLIENT + 1):
            answer = await stack.enter_async_context(http.stream("GET", "/sse", headers={"accept": ACCEPT}))
            assert answer.status_code == 200
            streams.append(answer)
        async with asyncio.timeout(30):
            assert "endpoint" in (await streams[0].aread()).decode()  # the stream ended without an error
        assert not streams[1].is_closed


def test_a_person_has_room_for_some_agents_and_the_one_with_most_sessions_makes_room() -> None:
    roster: Roster[int] = Roster(SessionLimits(per_client=3, per_person=5, total=7))
    for client, how_many in (("a", 2), ("b", 3)):
        for number in range(how_many):
            assert roster.crowd(("alice", client)) is None
            roster.add(("alice", client), f"{client}{number}", number)
    crowd = roster.crowd(("alice", "c"))
    assert crowd is not None
    assert (crowd[0], [key for key, _ in crowd[1]]) == (("alice", "b"), ["b0", "b1", "b2"])
    own = roster.crowd(("alice", "b"))
    assert own is not None and own[0] == ("alice", "b")
    assert roster.crowd(("bob", "d")) is None  # the twin: another person
    for number in range(2):
        roster.add(("bob", "d"), f"d{number}", number)
    full = roster.crowd(("carol", "e"))
    assert full is not None and full[0] == ("alice", "b")
    roster.remove(("alice", "b"), "b0")
    roster.remove(("alice", "b"), "b0")
    assert len(roster) == 6
    assert roster.crowd(("carol", "e")) is None
    assert PER_CLIENT < PER_PERSON


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/sse"])
async def test_nothing_that_an_agent_is_told_is_kept_by_a_cache(place: Room, path: str) -> None:
    agent = await place.agent("ida")
    await place.connect(agent, "slack", scopes=SLACK)
    async with place.http(agent) as http, place.http() as stranger:
        for answer in await _all(agent, http, path):
            assert "no-store" in answer.headers["cache-control"], answer.request.method
            assert len(answer.headers.get_list("cache-control")) == 1
        assert "no-store" in (await stranger.post(path, json=LIST)).headers["cache-control"]


async def _all(agent: Agent, http: httpx2.AsyncClient, path: str) -> list[httpx2.Response]:
    if path == "/sse":
        async with http.stream("GET", path, headers={"accept": ACCEPT}) as answer:
            return [answer]
    session = await legacy_session(http)
    call = modern("tools/call", {"name": "slack_channels", "arguments": {}})
    async with listen(http, session) as stream:
        found = [stream]
        found.append(await http.post(path, json=call, headers=modern_headers("tools/call", "slack_channels")))
        assert found[-1].status_code == 200
        found.append(await http.post(path, json=modern("tools/list"), headers=modern_headers("tools/list")))
        found.append(await http.post(path, json=LIST, headers=legacy_headers(session)))
        found.append(await http.post(path, content=b"{", headers=legacy_headers(session)))
        call["params"]["_meta"]["progressToken"] = 1
        headers = modern_headers("tools/call", "slack_channels")
        found.append(await http.post(path, json=call, headers=headers))
        assert found[-1].headers["content-type"].startswith("text/event-stream")
        return found


@pytest.mark.long
async def test_many_handshakes_cost_one_agent_its_own_sessions_only(tmp_path: Path) -> None:
    async with room(tmp_path) as place:
        flooding, quiet = await place.agent("alice"), await place.agent("bob")
        async with place.http(flooding) as http, place.http(quiet) as theirs:
            kept = await legacy_session(theirs)
            for _ in range(10 * PER_CLIENT):
                await legacy_session(http)
            assert await status(theirs, kept) == 200
            assert await status(theirs, await legacy_session(theirs)) == 200

"""How a plain call ends early, and that its answer was still allowed: in each era, with and without progress."""

from __future__ import annotations

import asyncio
import json
import re

import httpx2
import pytest

from server.mcp import sessions
from tests.mcp.plain_calls.test_mcp_plain_calls import LEFT_TO_SDK, comparable, events, without_date
from tests.support.plain_calls import CALLS, HELD, LINKS, LIST, call_message, note_reading
from tests.support.rooms.mcp_room import ACCEPT, SLACK, Agent, Room, modern, modern_headers
from tests.support.simulator_apps import wait_until_held
from vault import grants
from vault.audit import audit


async def modern_call(http: httpx2.AsyncClient, token: object = None) -> httpx2.Response:
    message = modern("tools/call", LIST, id=7)
    if token is not None:
        message["params"]["_meta"]["progressToken"] = token
    return await http.post("/mcp", json=message, headers=modern_headers("tools/call", "slack_channels"))


async def calls(place: Room, agent: Agent) -> list[str]:
    """Outcomes of the agent's tool calls in the activity, with their codes."""
    await place.vault.deployment.activity.settle()
    database, user = place.vault.deployment.database, agent.principal.user_id
    found = await audit.list_events(database, user_id=user, limit=20, newest_first=True)
    called = [event for event in found if event.kind == "tool.called"]
    assert all(event.connection_id for event in called if event.details.get("code") == "interrupted")
    return [" ".join([event.outcome, *filter(None, [str(event.details.get("code", ""))])]) for event in called]


@pytest.mark.parametrize("token", [None, "p"])
async def test_a_client_that_leaves_ends_its_call_where_it_asked_for_progress(
    place: Room, agent: Agent, token: object
) -> None:
    place.simulator.fault(HELD, "hold")
    drain = place.vault.deployment.drain
    async with place.http(agent) as http:
        call = asyncio.create_task(modern_call(http, token))
        await wait_until_held(place.simulator, HELD)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    if token is None:  # the provider's answer still arrives, and the activity says so
        assert drain._calls == 1
        place.simulator.control("release")
    async with asyncio.timeout(30):
        await drain._idle.wait()
    assert await calls(place, agent) == (["ok"] if token is None else ["failed interrupted"])


@pytest.mark.parametrize("token", [None, "p"])
async def test_a_grant_that_ends_before_any_answer_is_a_challenge(
    place: Room, agent: Agent, monkeypatch: pytest.MonkeyPatch, token: object
) -> None:
    """With progress, the first message goes out before the call has ended, so the grant is read then."""
    deployment = place.vault.deployment
    place.simulator.fault(HELD, "hold")
    async with place.http(agent) as http:
        call = asyncio.create_task(modern_call(http, token))
        await wait_until_held(place.simulator, HELD)
        async with deployment.transaction() as transaction:
            await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=deployment.now())
        place.simulator.control("release")
        answer = await call
        assert answer.status_code == (401 if token else 200)  # without: the exchange read it while it was live
        assert (await modern_call(http, token)).status_code == 401


REVISIONS = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]


async def open_session(http: httpx2.AsyncClient, revision: str, capabilities: dict[str, object]) -> dict[str, str]:
    """The headers of an initialized session."""
    headers = {"accept": ACCEPT, "content-type": "application/json", "mcp-protocol-version": revision}
    params = {"protocolVersion": revision, "capabilities": capabilities, "clientInfo": {"name": "x", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    answer = await http.post("/mcp", json=message, headers=headers)
    headers["mcp-session-id"] = answer.headers["mcp-session-id"]
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await http.post("/mcp", json=ready, headers=headers)).status_code == 202
    return headers


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether our reader read each call of a session."""
    return note_reading(monkeypatch, "read_in_session", body=1)


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("capabilities", [{}, LINKS], ids=["words", "links"])
async def test_each_outcome_in_a_session_is_answered_as_the_sdk_answers_it(
    place: Room, agent: Agent, read: list[bool], revision: str, capabilities: dict[str, object]
) -> None:
    twin = await place.agent()  # for this person, no link was made before
    await place.connect(twin, "slack", scopes=SLACK)
    async with place.http(agent) as http, place.http(twin) as other:
        headers = await open_session(http, revision, capabilities)
        headers_too = await open_session(other, revision, capabilities)
        for name, arguments in CALLS.values():
            message = call_message(name, arguments)
            ours = await http.post("/mcp", json=message, headers=headers)
            theirs = await other.post("/mcp", json=message, headers={**headers_too, **LEFT_TO_SDK})
            shown = [re.sub(r'"elicitationId": "[^"]+"', "*", comparable(answer)[2]) for answer in (ours, theirs)]
            assert shown[0] == shown[1]
            assert (ours.status_code, without_date(ours).keys()) == (theirs.status_code, without_date(theirs).keys())
            assert ours.headers["mcp-session-id"] == headers["mcp-session-id"]
    assert read == [True, False] * len(CALLS)


async def test_progress_comes_on_the_stream_of_the_call_itself(place: Room, agent: Agent) -> None:
    async with place.http(agent) as http:
        headers = await open_session(http, "2025-11-25", {})
        answer = await http.post("/mcp", json=call_message(**LIST, _meta={"progressToken": 0}), headers=headers)
        assert answer.headers["content-type"] == "text/event-stream"
        first, last = events(answer)
        assert first["params"]["progressToken"] == 0
        assert last["id"] == "a-1"
        plain = await http.post(
            "/mcp", json=call_message("connections", {}, _meta={"progressToken": 0}), headers=headers
        )
        assert plain.headers["content-type"] == "application/json"
        alone = {**headers, "accept": "application/json"}
        answer = await http.post("/mcp", json=call_message(**LIST, _meta={"progressToken": 0}), headers=alone)
        assert answer.headers["content-type"] == "application/json"


async def test_progress_of_a_call_that_the_sdk_answers_comes_on_the_stream_of_the_session(
    place: Room, agent: Agent
) -> None:
    message = call_message(**LIST, _meta={"progressToken": "mine"})
    async with place.http(agent) as http:
        headers = await open_session(http, "2025-11-25", {})
        async with http.stream("GET", "/mcp", headers=headers | {"accept": "text/event-stream"}) as stream:
            answer = await http.post("/mcp", json=message, headers=headers | LEFT_TO_SDK)
            assert answer.headers["content-type"] == "application/json"
            async with asyncio.timeout(20):
                told = await anext(line async for line in stream.aiter_lines() if line.startswith("data: {"))
    assert json.loads(told.removeprefix("data: "))["params"]["progressToken"] == "mine"


async def test_the_official_client_of_a_handshake_revision_hears_progress(
    place: Room, agent: Agent, read: list[bool]
) -> None:
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with place.client(agent, mode="legacy") as client:
        result = await client.call_tool("slack_channels", {"limit": 1}, progress_callback=hear)
    assert not result.is_error
    assert (heard, read) == ([1], [True])


async def held_call(
    place: Room, http: httpx2.AsyncClient, headers: dict[str, str], **more: object
) -> asyncio.Task[httpx2.Response]:
    place.simulator.fault(HELD, "hold")
    call = asyncio.create_task(http.post("/mcp", json=call_message(**LIST, **more), headers=headers))
    await wait_until_held(place.simulator, HELD)
    return call


@pytest.mark.requirement("S-176")
@pytest.mark.parametrize("way", [{}, {"mcp-param-none": "1"}], ids=["ours", "the SDK's"])
@pytest.mark.parametrize("how", ["canceled", "ended"])
async def test_a_call_that_is_stopped_is_answered_as_the_sdk_answers_it(
    place: Room, agent: Agent, way: dict[str, str], how: str
) -> None:
    async with place.http(agent) as http:
        headers = await open_session(http, "2025-11-25", {})
        call = await held_call(place, http, {**headers, **way})
        if how == "ended":
            assert (await http.delete("/mcp", headers=headers)).status_code == 200
            answer = await call
            assert answer.status_code == 500
            assert answer.json()["error"]["message"] == "Session terminated before the request completed"
            again = await http.post("/mcp", json=call_message(**LIST), headers=headers)
            assert again.status_code == 404
        else:
            for wanted in ("another", "a-1"):
                assert not call.done()
                params = {"requestId": wanted}
                message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
                assert (await http.post("/mcp", json=message, headers=headers)).status_code == 202
            answer = await call
            assert (answer.status_code, answer.json()["id"]) == (200, "a-1")
            assert answer.json()["error"] == {"code": -32800, "message": "Request cancelled"}
        assert await calls(place, agent) == ["failed interrupted"]
    place.simulator.control("release")


@pytest.mark.parametrize("ways", [("", "x"), ("x", ""), ("", "")], ids=["ours, SDK", "SDK, ours", "both ours"])
async def test_an_id_in_flight_is_refused_whoever_answers_it(place: Room, agent: Agent, ways: tuple[str, str]) -> None:
    async with place.http(agent) as http:
        headers = await open_session(http, "2025-11-25", {})
        found = [{**headers, **(LEFT_TO_SDK if way else {})} for way in ways]
        call = await held_call(place, http, found[0])
        second = await http.post("/mcp", json=call_message("connections", {}), headers=found[1])
        assert second.status_code == 400
        place.simulator.control("release")
        assert (await call).status_code == 200
        assert (await http.post("/mcp", json=call_message("connections", {}), headers=found[1])).status_code == 200


async def test_a_session_serves_its_own_principal_and_nobody_cut_off(place: Room, agent: Agent) -> None:
    deployment = place.vault.deployment
    bob = await place.agent("bob")
    async with place.http(agent) as http:
        headers = await open_session(http, "2025-11-25", {})
        message = call_message("connections", {})
        assert (await http.post("/mcp", json=message, headers=headers)).status_code == 200
        assert (await http.post("/mcp", json=message, headers=headers | bob.headers)).status_code == 404
        async with deployment.transaction() as transaction:
            await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=deployment.now())
        assert (await http.post("/mcp", json=message, headers=headers)).status_code == 401
        assert await calls(place, agent) == ["ok"]


async def test_a_session_that_is_initialized_again_is_left_to_the_sdk(
    place: Room, agent: Agent, read: list[bool]
) -> None:
    async with place.http(agent) as http:
        headers = await open_session(http, "2025-11-25", {})
        again = {"protocolVersion": "2025-11-25", "capabilities": LINKS, "clientInfo": {"name": "x", "version": "1"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": again}
        await http.post("/mcp", json=message, headers=headers)
        assert (await http.post("/mcp", json=call_message("connections", {}), headers=headers)).status_code == 200
    assert read == []  # our reader didn't even try


async def test_a_session_whose_calls_the_sdk_never_sees_is_kept_there(
    place: Room, agent: Agent, read: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_KEEP", 0.0)
    async with place.http(agent) as http:
        headers = await open_session(http, "2025-11-25", {})
        for _ in range(2):
            assert (await http.post("/mcp", json=call_message("connections", {}), headers=headers)).status_code == 200
        told: list[str] = []
        tell = sessions.Sessions._tell

        async def tell_after_the_end(self: sessions.Sessions, key: str, *more: object) -> int:
            told.append(key)
            await tell(self, key, more[0], more[1], "DELETE", b"")
            return await tell(self, key, *more)

        monkeypatch.setattr(sessions.Sessions, "_tell", tell_after_the_end)
        assert (await http.post("/mcp", json=call_message("connections", {}), headers=headers)).status_code == 404
        assert told == [headers["mcp-session-id"]]
    assert read == [True, True]

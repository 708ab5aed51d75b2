"""The MCP transports: other users' sessions, malformed messages, ids, cancellation, streams, and tool arguments."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest

from tests.attacks.target import LEGACY, MODERN, Agent, Target

ACCEPT = "application/json, text/event-stream"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "attack", "version": "1"}},
}


def legacy(agent: Agent, session: str | None = None) -> dict[str, str]:
    found = {"accept": ACCEPT, "content-type": "application/json", "mcp-protocol-version": LEGACY, **agent.headers}
    return found | ({} if session is None else {"mcp-session-id": session})


async def open_session(target: Target, agent: Agent, *, session: str | None = None) -> str:
    answer = await target.http.post("/mcp", json=INITIALIZE, headers=legacy(agent, session))
    assert answer.status_code == 200, answer.text
    return answer.headers["mcp-session-id"]


async def agent_of(target: Target, who: str) -> Agent:
    found = target.kept.get(f"mcp {who}")
    if not isinstance(found, Agent):
        found = await target.agent(target.alice if who == "alice" else target.mallory)
        target.kept[f"mcp {who}"] = found
    return found


LISTING = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize("whose", ["another person's", "another agent's of the same person"])
async def test_a_session_is_no_good_to(target: Target, whose: str, method: str) -> None:
    victim = await agent_of(target, "alice")
    session = await open_session(target, victim)
    thief = (
        await agent_of(target, "mallory") if whose.startswith("another person") else await target.agent(target.alice)
    )
    body = LISTING if method == "POST" else None
    answer = await target.http.request(method, "/mcp", json=body, headers=legacy(thief, session))
    assert answer.status_code in {400, 403, 404}, answer.text
    honest = await target.http.post("/mcp", json=LISTING, headers=legacy(victim, session))
    assert honest.status_code == 200


async def test_a_session_without_a_token_is_nothing(target: Target) -> None:
    session = await open_session(target, await agent_of(target, "alice"))
    headers = {name: value for name, value in legacy(Agent("", ""), session).items() if name != "authorization"}
    assert (await target.http.post("/mcp", json=LISTING, headers=headers)).status_code == 401


async def test_a_session_id_is_not_chosen_by_the_client(target: Target) -> None:
    agent = await agent_of(target, "mallory")
    answer = await target.http.post("/mcp", json=INITIALIZE, headers=legacy(agent, "chosen-by-the-attacker"))
    assert answer.status_code >= 400 or answer.headers["mcp-session-id"] != "chosen-by-the-attacker"


async def test_session_ids_cannot_be_guessed(target: Target) -> None:
    agent = await agent_of(target, "mallory")
    found = [await open_session(target, agent) for _ in range(3)]
    assert len(set(found)) == 3
    assert min(map(len, found)) >= 32


@pytest.mark.parametrize("last", ["1", "0", "-1", "x" * 5000, "../../etc/passwd"])
async def test_a_stream_is_not_resumed_from_somebody_elses_event(target: Target, last: str) -> None:
    agent = await agent_of(target, "mallory")
    session = await open_session(target, agent)
    headers = legacy(agent, session) | {"last-event-id": last}
    said = b""
    try:
        async with asyncio.timeout(1.5), target.http.stream("GET", "/mcp", headers=headers) as answer:
            assert answer.status_code < 500
            async for part in answer.aiter_bytes():
                said += part
    except (TimeoutError, httpx2.HTTPError):
        pass
    assert b"result" not in said


MESSAGES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "invalid UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
    "UTF-16": '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"nothing"}',
    "null": b"null",
    "a number": b"1",
    "a string": b'"tools/list"',
    "an empty batch": b"[]",
    "a batch": json.dumps([LISTING, LISTING]).encode(),
    "a batch of a thousand calls": json.dumps([LISTING] * 1000).encode(),
    "another version": b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}',
    "no version": b'{"id":1,"method":"tools/list"}',
    "a method that is a number": b'{"jsonrpc":"2.0","id":1,"method":1}',
    "an unknown method": b'{"jsonrpc":"2.0","id":1,"method":"admin/shutdown"}',
    "an id of null": b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}',
    "an id that is an object": b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}',
    "an id that is a fraction": b'{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}',
    "an id of a thousand digits": b'{"jsonrpc":"2.0","id":' + b"9" * 1000 + b',"method":"tools/list"}',
    "params that are a list": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}',
    "a result that nobody asked for": b'{"jsonrpc":"2.0","id":1,"result":{}}',
    "an error that nobody asked for": b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"a"}}',
    "a method and a result": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","result":{}}',
    "ten thousand brackets": b"[" * 10_000,
    "a hundred thousand nested objects": b'{"a":' * 100_000,
    "NaN": b'{"jsonrpc":"2.0","id":NaN,"method":"tools/list"}',
    "a member twice": b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"admin/x"}',
    "a lone surrogate": b'{"jsonrpc":"2.0","id":"\\ud800","method":"admin/x"}',
    "a prototype": b'{"jsonrpc":"2.0","id":1,"method":"admin/x","__proto__":{"admin":true}}',
}


_WHOLE = {"params that are a list", "an id of a thousand digits", "a method and a result"}  # odd, but still one request


@pytest.mark.parametrize("era", [LEGACY, MODERN])
@pytest.mark.parametrize("name", MESSAGES)
async def test_a_broken_message_breaks_nothing(target: Target, name: str, era: str) -> None:
    agent = await agent_of(target, "mallory")
    session = await open_session(target, agent) if era == LEGACY else None
    headers = (
        legacy(agent, session) | {"mcp-protocol-version": era} | ({} if era == LEGACY else {"mcp-method": "tools/list"})
    )
    answer = await target.http.post("/mcp", content=MESSAGES[name], headers=headers)
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    assert '"tools":[' not in answer.text.replace(" ", "") or name in _WHOLE
    assert (await target.mcp(agent, "tools/list")).status_code == 200


async def test_two_requests_of_one_id_do_not_get_each_others_answer(target: Target) -> None:
    agents = [await agent_of(target, who) for who in ("alice", "mallory")]
    sessions = [await open_session(target, one) for one in agents]
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "connections", "arguments": {}}}
    answers = await asyncio.gather(
        *(target.http.post("/mcp", json=call, headers=legacy(agents[one % 2], sessions[one % 2])) for one in range(12))
    )
    for number, answer in enumerate(answers):
        own, other = ("alice", "bob") if number % 2 == 0 else ("bob", "alice")
        assert other not in answer.text, (number, own)


async def test_a_call_of_somebody_else_is_not_cancelled(target: Target) -> None:
    victim, thief = await agent_of(target, "alice"), await agent_of(target, "mallory")
    sessions = await open_session(target, victim), await open_session(target, thief)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 55}}
    call = {"jsonrpc": "2.0", "id": 55, "method": "tools/call", "params": {"name": "connections", "arguments": {}}}
    calling = asyncio.ensure_future(target.http.post("/mcp", json=call, headers=legacy(victim, sessions[0])))
    for _ in range(5):
        await target.http.post("/mcp", json=cancel, headers=legacy(thief, sessions[1]))
        stolen = await target.http.post("/mcp", json=cancel, headers=legacy(thief, sessions[0]))
        assert stolen.status_code in {400, 403, 404}
    answer = await calling
    assert answer.status_code == 200
    assert "result" in answer.text


@pytest.mark.parametrize("header", ["mcp-method", "mcp-name", "mcp-protocol-version"])
async def test_headers_that_say_something_else_than_the_body_do_not_choose_the_call(
    target: Target, header: str
) -> None:
    agent = await agent_of(target, "alice")
    changed = {"mcp-method": "tools/list", "mcp-name": "slack_post", "mcp-protocol-version": LEGACY}[header]
    answer = await target.mcp(
        agent,
        "tools/call",
        {"name": "connections", "arguments": {}},
        name="connections",
        **{header.replace("-", "_"): changed},
    )
    assert answer.status_code >= 400 or "error" in answer.text


async def test_a_revoked_agents_open_session_ends(target: Target) -> None:
    agent = await target.agent(target.mallory)
    session = await open_session(target, agent)
    await target.http.post("/revoke", data={"client_id": agent.client_id, "token": agent.refresh or ""})
    assert (await target.http.post("/mcp", json=LISTING, headers=legacy(agent, session))).status_code == 401


async def test_sessions_of_one_agent_do_not_shut_others_out(target: Target) -> None:
    greedy = await target.agent(target.mallory)
    for _ in range(8):
        await asyncio.gather(*(open_session(target, greedy) for _ in range(10)), return_exceptions=True)
    await open_session(target, await agent_of(target, "alice"))


async def test_answers_are_kept_out_of_caches(target: Target) -> None:
    answer = await target.call(await agent_of(target, "alice"), "connections")
    assert "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize("who", ["stranger", "another person"])
async def test_a_message_to_somebody_elses_event_stream_is_refused(target: Target, who: str) -> None:
    victim, thief = await agent_of(target, "alice"), await agent_of(target, "mallory")
    async with target.http.stream("GET", "/sse", headers=victim.headers) as stream:
        assert stream.status_code == 200
        async with asyncio.timeout(10):
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    break
        place = line.removeprefix("data:").strip()
        headers = {} if who == "stranger" else thief.headers
        answer = await target.http.post(place, json=INITIALIZE, headers=headers)
        assert answer.status_code in {401, 403, 404}, answer.text


ARGUMENTS: dict[str, tuple[str, dict[str, object]]] = {
    "another person's account by name": ("slack_post", {"channel": "#general", "text": "x", "account": "bob"}),
    "an account id of another person": ("slack_post", {"channel": "#general", "text": "x", "account": "VICTIM"}),
    "an unknown argument": ("slack_post", {"channel": "#general", "text": "x", "token": "xoxp-1"}),
    "a number for a text": ("slack_post", {"channel": 1, "text": 2}),
    "nothing": ("slack_post", {}),
    "a text of two megabytes": ("slack_post", {"channel": "#general", "text": "x" * 2_000_000}),
    "dot segments": ("drive_read", {"file": "../../../about"}),
    "encoded dot segments": ("drive_read", {"file": "..%2f..%2fabout"}),
    "doubly encoded dot segments": ("drive_read", {"file": "..%252f..%252fabout"}),
    "a query in an id": ("drive_read", {"file": "a?alt=media&access_token=b"}),
    "a fragment in an id": ("drive_read", {"file": "a#b"}),
    "a line break in an id": ("drive_read", {"file": "a\r\nX-Evil: b"}),
    "a tool that is not there": ("admin_shutdown", {}),
    "a tool with a path": ("../../connections", {}),
}


@pytest.mark.parametrize("name", ARGUMENTS)
async def test_a_tool_is_not_misled_by(target: Target, name: str) -> None:
    agent = await agent_of(target, "alice")
    tool, arguments = ARGUMENTS[name]
    if arguments.get("account") == "VICTIM":
        arguments = arguments | {"account": (await target.connection_ids("mallory"))["slack"]}
    answer = await target.call(agent, tool, arguments)
    assert answer.status_code < 500, answer.text
    assert "error" in answer.text.lower() or "inputRequests" in answer.text or "input_required" in answer.text, (
        answer.text
    )
    assert "xoxp" not in answer.text or name == "an unknown argument"
    assert "ya29" not in answer.text

"""A call that is read without the SDK gets the SDK's answer; invalid calls go to the SDK.

The same request with a header for a parameter that no tool has means the same, but the SDK answers it: both answers are
compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent

from server.mcp import fast_path
from tests.support.rooms.mcp_room import ACCEPT, SLACK, Agent, Room, modern, modern_headers, room

LEFT_TO_SDK = {"mcp-param-none": "1"}
META = "io.modelcontextprotocol/"
POST: dict[str, object] = {"name": "slack_post", "arguments": {"channel": "#general", "text": "hi"}}
Headers = list[tuple[bytes, bytes]]
Shown = tuple[int, str | None, str]


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("plain"), tools={"list_limit": 5}) as opened:  # with the discovery tools
        yield opened


@pytest.fixture(scope="module")
async def connected_agent(place: Room) -> Agent:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    return agent


def call(params: Mapping[str, object] = POST, *, meta: Mapping[str, object] | None = None, **more: object) -> bytes:
    """The body of one call; `meta` is added to what the envelope has, or replaces it."""
    message = modern("tools/call", params, **more)
    message["params"]["_meta"] |= meta or {}
    return json.dumps(message).encode()


def headers(*, accept: str = ACCEPT, name: str = "slack_post", **more: str) -> dict[str, str]:
    changed = {key.replace("_", "-"): value for key, value in more.items()}
    return modern_headers("tools/call", name) | {"accept": accept} | changed


def raw(found: Mapping[str, str]) -> Headers:
    return [(name.encode(), value.encode()) for name, value in found.items()]


def events(answer: httpx2.Response) -> list[object]:
    """The messages of a stream; each is one event with that name."""
    found = answer.text.split("\r\n\r\n")
    assert found.pop() == ""
    lines = [event.split("\r\n") for event in found]
    assert all(len(each) == 2 and each[0] == "event: message" for each in lines)
    return [json.loads(data.removeprefix("data: ")) for _, data in lines]


def comparable(answer: httpx2.Response) -> Shown:
    """Status, type and content, without the parts that are new in each answer."""
    kind, content = answer.headers.get("content-type"), answer.text
    if kind == "application/json":
        content = json.dumps(answer.json(), sort_keys=True)
    elif kind == "text/event-stream":
        content = json.dumps(events(answer), sort_keys=True)
    content = re.sub(r"(?<=/connect/)[\w-]+|\b[A-Z0-9]{4}-[A-Z0-9]{4}\b", "*", content)
    content = re.sub(r"\b\d{10}\.\d{6}\b", "*", content)  # when a message was posted
    return answer.status_code, kind, re.sub(r'"requestState": "[^"]+"', '"requestState": "*"', content)


async def both(place: Room, agent: Agent, body: bytes, found: Mapping[str, str]) -> tuple[Shown, Shown]:
    """Our answer and the SDK's."""
    ours, theirs = dict(found), {**found, **LEFT_TO_SDK}
    assert fast_path.read(raw(theirs), body) is None
    async with place.http(agent) as http:
        first = await http.post("/mcp", content=body, headers=ours)
        second = await http.post("/mcp", content=body, headers=theirs)
    return comparable(first), comparable(second)


CALLS: dict[str, tuple[str, dict[str, object]]] = {
    "a post": ("slack_post", {"channel": "#general", "text": "hi"}),
    "other letters": ("slack_post", {"channel": "#general", "text": 'grüße 🎈 \u2028 \\ "'}),
    "a list": ("slack_channels", {}),
    "a page of it": ("slack_channels", {"limit": 1}),
    "a channel": ("slack_history", {"channel": "C0000000001"}),
    "a refusal of the service": ("slack_history", {"channel": "C9999999999"}),
    "what is connected": ("connections", {}),
    "arguments that do not fit": ("slack_post", {"channel": "not a channel!", "text": "", "more": 1}),
    "an account that is not connected": ("slack_post", {"channel": "#general", "text": "hi", "account": "nobody"}),
    "a service that is not connected": ("calendar_list", {}),
    "a tool that does not exist": ("no_such_tool", {}),
}
LOOKS: dict[str, tuple[str, dict[str, object]]] = {
    "tools that are found": ("find_tools", {"query": "tell the team"}),
    "no tool that is found": ("find_tools", {"query": "zzz"}),
    "a tool that is described": ("describe_tool", {"name": "slack_post"}),
    "an unknown one": ("describe_tool", {"name": "slack_pots"}),
    "a call of an unknown one": ("call_tool", {"name": "slack_pots", "arguments": {}}),
    "a call of nothing": ("call_tool", {"arguments": {}}),
}


@pytest.mark.parametrize("case", CALLS | LOOKS)
@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {"url": {}}}], ids=["words", "links"])
async def test_each_outcome_is_answered_as_the_sdk_answers_it(
    place: Room, connected_agent: Agent, case: str, capabilities: dict[str, object]
) -> None:
    name, arguments = (CALLS | LOOKS)[case]
    body = call({"name": name, "arguments": arguments}, meta={META + "clientCapabilities": capabilities}, id="a-1")
    found = headers(name=name)
    assert fast_path.read(raw(found), body) is not None
    ours, theirs = await both(place, connected_agent, body, found)
    assert ours == theirs


@pytest.mark.parametrize("case", [case for case in CALLS if case != "a tool that does not exist"])
@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {"url": {}}}], ids=["words", "links"])
async def test_a_call_by_call_tool_is_answered_as_one_of_the_tool_itself(
    place: Room, connected_agent: Agent, case: str, capabilities: dict[str, object]
) -> None:
    name, arguments = CALLS[case]
    meta = {META + "clientCapabilities": capabilities}
    itself, _ = await both(
        place, connected_agent, call({"name": name, "arguments": arguments}, meta=meta), headers(name=name)
    )
    body = call({"name": "call_tool", "arguments": {"name": name, "arguments": arguments}}, meta=meta)
    ours, theirs = await both(place, connected_agent, body, headers(name="call_tool"))
    assert ours == theirs == itself


SPELLINGS: dict[str, tuple[bytes, dict[str, str]]] = {
    "other order": (call(), dict(reversed(headers().items()))),
    "no space": (call(), headers(accept="application/json,text/event-stream")),
    "the other first": (call(), headers(accept="text/event-stream, application/json")),
    "with weights": (call(), headers(accept="application/json;q=0.9 , text/event-stream; q=1")),
    "capitals": (call(), headers(accept="Application/JSON, Text/Event-Stream", content_type="Application/JSON")),
    "anything": (call(), headers(accept="*/*")),
    "json alone": (call(), headers(accept="application/json")),
    "any application": (call(), headers(accept="text/html, application/*")),
    "a charset": (call(), headers(content_type="application/json; charset=utf-8")),
    "a charset in capitals": (call(), headers(content_type='application/json;charset="UTF-8"')),
    "the name in base64": (call(), headers(name="=?base64?c2xhY2tfcG9zdA==?=")),
    "more headers": (call(), headers(user_agent="x", traceparent="00-1-2-01", mcp_session_id="none", cookie="a=b")),
    "more in the envelope": (call(meta={"traceparent": "00-1-2-01", "com.example/x": {"y": [1]}}), headers()),
    "a progress token": (call(meta={"progressToken": 0}), headers()),
    "a progress token of text": (call(meta={"progressToken": "p \u2028"}), headers()),
    "no client": (call(meta={META + "clientInfo": None}), headers()),
    "spaces in the body": (json.dumps(json.loads(call()), indent=2).encode(), headers()),
}


@pytest.mark.parametrize("case", SPELLINGS)
async def test_every_valid_spelling_is_read_here(place: Room, connected_agent: Agent, case: str) -> None:
    body, found = SPELLINGS[case]
    assert fast_path.read(raw(found), body) is not None
    ours, theirs = await both(place, connected_agent, body, found)
    assert ours == theirs
    assert (ours[0], ours[1]) == (200, "application/json")


@pytest.mark.parametrize("name", ["slack_channels", "call_tool"])
@pytest.mark.parametrize("token", [0, 7, "p", "grüße \u2028 \x85"])
async def test_progress_turns_the_answer_into_the_sdks_stream(
    place: Room, connected_agent: Agent, name: str, token: object
) -> None:
    arguments: dict[str, object] = {"limit": 1}
    if name == "call_tool":
        arguments = {"name": "slack_channels", "arguments": arguments}
    body = call({"name": name, "arguments": arguments}, meta={"progressToken": token})
    found = headers(name=name)
    assert fast_path.read(raw(found), body) is not None
    ours, theirs = await both(place, connected_agent, body, found)
    assert ours == theirs
    assert (ours[0], ours[1]) == (200, "text/event-stream")
    first, last = json.loads(ours[2])
    assert first["params"]["progressToken"] == token
    assert last["result"]["isError"] is False
    async with place.http(connected_agent) as http:
        first_answer = await http.post("/mcp", content=body, headers=found)
        second_answer = await http.post("/mcp", content=body, headers={**found, **LEFT_TO_SDK})
    assert first_answer.content.isascii()
    assert without_date(first_answer) == without_date(second_answer)


def without_date(answer: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}


ODD: dict[str, tuple[bytes, dict[str, str]]] = {
    "another revision": (call(), headers(mcp_protocol_version="2026-07-29")),
    "another revision in the body": (call(meta={META + "protocolVersion": "2026-07-29"}), headers()),
    "another tool in the header": (call(), headers(name="slack_channels")),
    "another method in the header": (call(), headers(mcp_method="tools/list")),
    "another name in base64": (call(), headers(name="=?base64?c2xhY2tfcG9zdB==?=")),
    "a name that looks like base64": (call({"name": "=?base64?eA==?="}), headers(name="=?base64?eA==?=")),
    "a header for a parameter": (call(), headers(mcp_param_channel="#general")),
    "events alone": (call(), headers(accept="text/event-stream")),
    "text alone": (call(), headers(accept="text/html")),
    "progress without a way for it": (call(meta={"progressToken": 1}), headers(accept="application/json")),
    "a progress token that is no whole number": (call(meta={"progressToken": 1.5}), headers()),
    "a progress token of null": (call(meta={"progressToken": None}), headers()),
    "a progress token that is a list": (call(meta={"progressToken": [1]}), headers()),
    "a progress token that is true": (call(meta={"progressToken": True}), headers()),
    "another type": (call(), headers(content_type="text/plain")),
    "no envelope": (json.dumps(modern("tools/call") | {"params": POST}).encode(), headers()),
    "no capabilities": (call(meta={META + "clientCapabilities": None}), headers()),
    "capabilities of another shape": (call(meta={META + "clientCapabilities": {"elicitation": 1}}), headers()),
    "a client without a name": (call(meta={META + "clientInfo": {}}), headers()),
    "a request for log messages": (call(meta={META + "logLevel": "debug"}), headers()),
    "a request with a level that is none": (call(meta={META + "logLevel": "loud"}), headers()),
    "a state that nobody sealed": (call({**POST, "requestState": "x"}), headers()),
    "an answer to no question": (call({**POST, "inputResponses": {"connect": {"action": "accept"}}}), headers()),
    "parameters beyond the schema": (call({**POST, "more": 1}), headers()),
    "members beyond JSON-RPC": (call(more=1), headers()),
    "arguments that are a list": (call({**POST, "arguments": []}), headers()),
    "arguments that are null": (call({**POST, "arguments": None}), headers()),
    "a name that is a number": (call({**POST, "name": 1}), headers(name="1")),
    "no parameters": (b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}', headers()),
    "an id of null": (call(id=None), headers()),
    "an id that is true": (call(id=True), headers()),
    "an id that is no whole number": (call(id=1.5), headers()),
    "another JSON-RPC": (call(jsonrpc="1.0"), headers()),
    "a batch": (b"[" + call() + b"]", headers()),
    "nothing": (b"", headers()),
    "half a message": (call()[:-1], headers()),
    "another encoding": (call().decode().encode("utf-16"), headers()),
    "bytes that are no text": (call().replace(b"hi", b"\xff"), headers()),
    "half of a surrogate pair": (call().replace(b"hi", rb"\ud800"), headers()),
    "a number of many digits": (call().replace(b'"hi"', b"1" * 5000), headers()),
    "deep nesting": (call().replace(b'"hi"', b"[" * 5000 + b"]" * 5000), headers()),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
async def test_what_is_not_valid_or_wants_more_is_left_to_the_sdk(
    place: Room, connected_agent: Agent, case: str
) -> None:
    body, found = ODD[case]
    assert fast_path.read(raw(headers()), call()) is not None
    assert fast_path.read(raw(found), body) is None
    ours, theirs = await both(place, connected_agent, body, found)
    assert ours == theirs


@pytest.mark.parametrize("name", sorted(headers()))
def test_each_header_is_there_once(name: str) -> None:
    found = raw(headers())
    assert fast_path.read(found, call()) is not None
    assert fast_path.read([pair for pair in found if pair[0] != name.encode()], call()) is None
    again = (name.encode(), headers()[name].encode())
    assert fast_path.read([*found, again], call()) is None
    for other in found:
        if other != again:  # each of the others occurs as often as it should
            assert fast_path.read([*(pair for pair in found if pair != other), again], call()) is None


async def test_a_call_of_the_official_client_is_read_here(place: Room, connected_agent: Agent) -> None:
    seen: list[httpx2.Request] = []

    async def see(request: httpx2.Request) -> None:
        seen.append(request)

    async with place.http(connected_agent) as http:
        http.event_hooks["request"].append(see)
        async with Client(streamable_http_client(f"{place.url}/mcp", http_client=http)) as client:
            assert not (await client.call_tool("slack_channels", {"limit": 1})).is_error
    calls = [request for request in seen if b'"tools/call"' in request.content]
    assert calls
    for request in calls:
        found = [(name.lower(), value) for name, value in request.headers.raw]
        read = fast_path.read(found, request.content)
        assert read is not None
        assert (read.name, dict(read.arguments)) == ("slack_channels", {"limit": 1})


def test_a_result_that_utf_8_has_no_form_for_is_left_to_the_sdk() -> None:
    read = fast_path.read(raw(headers()), call())
    assert read is not None
    odd = CallToolResult(content=[TextContent(text="ok")], structured_content={"text": "\ud800"})
    assert fast_path.answer(read, odd, stamp={}) is None
    plain = CallToolResult(content=[TextContent(text="ok")], structured_content={"text": "x", "link": None})
    answer = fast_path.answer(read, plain, stamp={"name": "vault"})
    assert answer is not None
    result = json.loads(answer)["result"]
    assert result["structuredContent"] == {"text": "x", "link": None}
    assert result["_meta"] == {META + "serverInfo": {"name": "vault"}}


async def test_a_failure_inside_is_worded_by_the_sdk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with room(tmp_path) as place:
        agent = await place.agent()
        await place.vault.deployment.activity.close()  # from here on, nothing can be recorded
        ours, theirs = await both(place, agent, call({"name": "connections"}), headers(name="connections"))
        assert ours == theirs
        assert "Internal server error" in ours[2]

"""A call that is read without the SDK gets the answer that the SDK gives; what is not exactly as expected goes there.

The same request with a space less in `Accept` means the same and is the SDK's: both answers are compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolRequestParams, CallToolResult, ClientCapabilities, JSONRPCRequest, TextContent

from server.mcp import fast_path, mcp_bodies
from tests.support.mcp_room import ACCEPT, SLACK, Agent, Room, modern, modern_headers, room

OTHERWISE = "application/json,text/event-stream"
META = "io.modelcontextprotocol/"
POST: dict[str, object] = {"name": "slack_post", "arguments": {"channel": "#general", "text": "hi"}}
Headers = list[tuple[bytes, bytes]]
Shown = tuple[int, str | None, str]


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("plain")) as opened:
        yield opened


@pytest.fixture(scope="module")
async def connected(place: Room) -> Agent:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    return agent


def call(params: Mapping[str, object] = POST, *, meta: Mapping[str, object] | None = None, **more: object) -> bytes:
    """The body of one call; `meta` beside or in place of what is in the envelope."""
    message = modern("tools/call", params, **more)
    message["params"]["_meta"] |= meta or {}  # type: ignore[index]
    return json.dumps(message).encode()


def headers(*, accept: str = ACCEPT, name: str = "slack_post", **more: str) -> dict[str, str]:
    changed = {key.replace("_", "-"): value for key, value in more.items()}
    return modern_headers("tools/call", name) | {"accept": accept} | changed


def raw(found: Mapping[str, str]) -> Headers:
    return [(name.encode(), value.encode()) for name, value in found.items()]


def comparable(answer: httpx2.Response) -> Shown:
    """Status, type and content, without the parts that are new in each answer."""
    kind, content = answer.headers.get("content-type"), answer.text
    if kind == "application/json":
        content = json.dumps(answer.json(), sort_keys=True)
    content = re.sub(r"(?<=/connect/)[\w-]+|\b[A-Z0-9]{4}-[A-Z0-9]{4}\b", "*", content)
    content = re.sub(r"\b\d{10}\.\d{6}\b", "*", content)  # when a message was posted
    return answer.status_code, kind, re.sub(r'"requestState": "[^"]+"', '"requestState": "*"', content)


async def both(place: Room, agent: Agent, body: bytes, found: Mapping[str, str]) -> tuple[Shown, Shown]:
    """Our answer and the SDK's."""
    ours, theirs = dict(found), {**found, "accept": OTHERWISE}
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


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {"url": {}}}], ids=["words", "links"])
async def test_each_outcome_is_answered_as_the_sdk_answers_it(
    place: Room, connected: Agent, case: str, capabilities: dict[str, object]
) -> None:
    name, arguments = CALLS[case]
    body = call({"name": name, "arguments": arguments}, meta={META + "clientCapabilities": capabilities}, id="a-1")
    found = headers(name=name)
    assert fast_path.read(raw(found), body) is not None
    ours, theirs = await both(place, connected, body, found)
    assert ours == theirs


ODD: dict[str, tuple[bytes, dict[str, str]]] = {
    "another revision": (call(), headers(mcp_protocol_version="2026-07-29")),
    "another revision in the body": (call(meta={META + "protocolVersion": "2026-07-29"}), headers()),
    "another tool in the header": (call(), headers(name="slack_channels")),
    "another method in the header": (call(), headers(mcp_method="tools/list")),
    "the name in base64": (call(), headers(name="=?base64?c2xhY2tfcG9zdA==?=")),
    "a name that looks like base64": (call({"name": "=?base64?eA==?="}), headers(name="=?base64?eA==?=")),
    "a header for a parameter": (call(), headers(mcp_param_channel="#general")),
    "a charset": (call(), headers(content_type="application/json; charset=utf-8")),
    "another type": (call(), headers(content_type="text/plain")),
    "no envelope": (json.dumps(modern("tools/call") | {"params": POST}).encode(), headers()),
    "no capabilities": (call(meta={META + "clientCapabilities": None}), headers()),
    "capabilities of another shape": (call(meta={META + "clientCapabilities": {"elicitation": 1}}), headers()),
    "a client without a name": (call(meta={META + "clientInfo": {}}), headers()),
    "a wish for log messages": (call(meta={META + "logLevel": "debug"}), headers()),
    "a wish that is no level": (call(meta={META + "logLevel": "loud"}), headers()),
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
async def test_what_is_not_exactly_as_expected_is_left_to_the_sdk(place: Room, connected: Agent, case: str) -> None:
    body, found = ODD[case]
    assert fast_path.read(raw(headers()), call()) is not None
    assert fast_path.read(raw(found), body) is None
    ours, theirs = await both(place, connected, body, found)
    assert ours == theirs


@pytest.mark.parametrize("name", sorted(headers()))
def test_each_header_is_there_once(name: str) -> None:
    found = raw(headers())
    assert fast_path.read(found, call()) is not None
    assert fast_path.read([pair for pair in found if pair[0] != name.encode()], call()) is None
    again = (name.encode(), headers()[name].encode())
    assert fast_path.read([*found, again], call()) is None
    for other in found:
        if other != again:  # as many as there should be
            assert fast_path.read([*(pair for pair in found if pair != other), again], call()) is None


async def test_a_call_of_the_official_client_is_read_here(place: Room, connected: Agent) -> None:
    seen: list[httpx2.Request] = []

    async def see(request: httpx2.Request) -> None:
        seen.append(request)

    async with place.http(connected) as http:
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
        await place.vault.deployment.activity.close()  # nothing can be recorded any more
        ours, theirs = await both(place, agent, call({"name": "connections"}), headers(name="connections"))
        assert ours == theirs
        assert "Internal server error" in ours[2]


_META = (
    *(META + name for name in ("protocolVersion", "clientCapabilities", "clientInfo", "logLevel")),
    "progressToken",
)
_ODD = (
    "null", "true", "0", "1", "1.0", "1e3", "-1", "123456789012345678901234567890", "NaN", "{}", "[]", "[{}]", '""',
    '"1"', '"2.0"', '"tools/call"', '"slack_post"', '"slack_channels"', '"2026-07-28"', '"info"', '"\\ud800"', '" "',
)  # fmt: skip


@st.composite
def _object(draw: st.DrawFn, usual: Mapping[str, str], *more: str) -> str:
    """An object as text: the usual members, or some of them changed, left out, added, or there twice."""
    members = list(usual.items())
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(members) - 1)) if members else 0
        name, value = members[place] if members else (more[0], "{}")
        odd = draw(st.sampled_from([value, *usual.values(), *_ODD]))
        match draw(st.integers(0, 3)):
            case 0:
                del members[place : place + 1]
            case 1:
                members[place : place + 1] = [(name, odd)]
            case 2:
                members.insert(draw(st.integers(0, len(members))), (name, odd))
            case _:
                members.insert(place, (draw(st.sampled_from(more)), odd))
    return "{" + ",".join(f'"{name}":{value}' for name, value in members) + "}"


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    ways = draw(_object({"url": "{}", "form": "{}"}, "more"))
    meta = (
        '"2026-07-28"',
        draw(_object({"elicitation": ways}, "sampling", "roots", "more")),
        draw(_object({"name": '"x"', "version": '"1"'}, "title", "icons", "more")),
    )
    params = {
        "name": '"slack_post"',
        "arguments": draw(_object({"channel": '"#general"', "text": '"hi"'}, "more")),
        "_meta": draw(_object(dict(zip(_META, meta, strict=False)), *_META, "more")),
    }
    message = {
        "jsonrpc": '"2.0"',
        "id": "1",
        "method": '"tools/call"',
        "params": draw(_object(params, "meta", "inputResponses", "requestState", "task", "more")),
    }
    return draw(_object(message, "error", "result", "more")).encode()


@given(_messages())
def test_whatever_is_read_here_the_sdk_reads_in_the_same_way(body: bytes) -> None:
    read = fast_path.read(raw(headers()), body)
    if read is None:
        return
    message = mcp_bodies.parse(body)
    assert isinstance(message, JSONRPCRequest)
    assert (message.method, message.id, type(message.id)) == ("tools/call", read.id, type(read.id))
    params = CallToolRequestParams.model_validate(message.params, by_name=False)
    assert params.name == read.name == "slack_post"
    assert repr(params.arguments or {}) == repr(read.arguments)
    assert params.meta is not None
    capabilities = ClientCapabilities.model_validate(params.meta[META + "clientCapabilities"], by_name=False)
    asks = capabilities.elicitation
    assert read.opens_urls is (asks is not None and asks.url is not None)
    assert read.fills_forms is (asks is not None and (asks.form is not None or asks.url is None))

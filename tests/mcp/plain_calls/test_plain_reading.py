"""Thousands of good and bad calls go to our reader and to the SDK's own HTTP entry: both must read them alike.

The SDK's server only notes what reaches its tool. What our reader accepts, the SDK must accept with the same ID, name,
arguments, capabilities and progress token; our reader must accept every good call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace

import pytest
from anyio import create_memory_object_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.message import SessionMessage
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ClientCapabilities,
    InputRequiredResult,
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
    TextContent,
    jsonrpc_message_adapter,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import Message

from server.mcp import fast_path
from server.mcp.fast_path import PlainCall, trace_of
from tests.support.rooms.mcp_room import ACCEPT, LEGACY, MODERN

META = "io.modelcontextprotocol/"
CAPABILITIES = ClientCapabilities.model_validate({"elicitation": {"url": {}}})
CLIENT = {"name": "x", "version": "1"}
LEGACY_PARAMS = {"protocolVersion": LEGACY, "capabilities": {"elicitation": {"url": {}}}, "clientInfo": CLIENT}
LEGACY_OPENING = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": LEGACY_PARAMS}).encode()
ENVELOPE = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
MODERN_OPENING = json.dumps(
    {"jsonrpc": "2.0", "id": 0, "method": "server/discover", "params": {"_meta": ENVELOPE}}
).encode()
Headers = list[tuple[bytes, bytes]]
Context = ServerRequestContext[dict[str, object], object]


@dataclass
class Answer:
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class Pipe:
    """One connection of the SDK's server over streams; messages reach it as the SDK's stdio transport reads them."""

    def __init__(self, server: Server[dict[str, object]]) -> None:
        self.sending, receiving = create_memory_object_stream[SessionMessage | Exception](0)
        writing, self.receiving = create_memory_object_stream[SessionMessage](16)
        options = server.create_initialization_options()
        self.running = asyncio.create_task(server.run(receiving, writing, options))

    async def answer(self, body: bytes) -> object:
        """The answer, if the body is a request."""
        try:
            message = jsonrpc_message_adapter.validate_json(body.decode("utf-8", "replace"), by_name=False)
        except ValueError:
            return None
        if not isinstance(message, JSONRPCRequest):
            return None
        async with asyncio.timeout(30):
            await self.sending.send(SessionMessage(message))
            while True:
                found = (await self.receiving.receive()).message
                if isinstance(found, JSONRPCResponse | JSONRPCError):
                    return found

    async def close(self) -> None:
        await self.sending.aclose()
        await self.running
        self.receiving.close()


class TheSDK:
    """The SDK's session manager in its own loop, with one open session; notes the calls that reach the tool."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.calls: list[PlainCall] = []
        self.stop = asyncio.Event()

        async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
            asks = context.session.client_capabilities
            elicitation = None if asks is None else asks.elicitation
            assert isinstance(context.request_id, int | str)
            self.calls.append(
                PlainCall(
                    context.request_id,
                    params.name,
                    params.arguments or {},
                    opens_urls=elicitation is not None and elicitation.url is not None,
                    fills_forms=elicitation is not None and (elicitation.form is not None or elicitation.url is None),
                    trace=trace_of((context.meta or {}).get("traceparent"), (context.meta or {}).get("tracestate")),
                    progress_token=(context.meta or {}).get("progress_token"),
                    session=None if context.protocol_version == MODERN else self.session,
                )
            )
            return CallToolResult(content=[TextContent(text="ok")])

        server: Server[dict[str, object]] = Server("notes", on_call_tool=call_tool, get_tool_input_schema=lambda _: {})
        self.manager = StreamableHTTPSessionManager(server, json_response=True)
        self.server = server
        self.pipes: dict[bool, Pipe] = {}
        self.runner.run(self._start())
        self.session = self.runner.run(self._open())

    async def _start(self) -> None:
        started = asyncio.Event()

        async def serve() -> None:
            async with self.manager.run():
                started.set()
                await self.stop.wait()

        self.serving = asyncio.create_task(serve())
        await started.wait()
        for is_modern, opening in ((True, MODERN_OPENING), (False, LEGACY_OPENING)):
            self.pipes[is_modern] = pipe = Pipe(self.server)
            assert await pipe.answer(opening) is not None

    async def _open(self) -> str:
        answer = await self.post(session_headers("")[:-1], LEGACY_OPENING)
        return answer.headers[b"mcp-session-id"].decode()

    async def post(self, headers: Headers, body: bytes) -> Answer:
        answer, waiting = Answer(), [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return waiting.pop() if waiting else await asyncio.Future()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], dict(message["headers"])
            else:
                answer.body += message.get("body", b"")

        scope = {"type": "http", "method": "POST", "path": "/mcp", "query_string": b"", "headers": headers}
        async with asyncio.timeout(30):
            await self.manager.handle_request(scope, receive, send)
        return answer

    def read(self, headers: Headers, body: bytes) -> PlainCall | None:
        """What the SDK's tool was called with."""
        self.calls.clear()
        answer = self.runner.run(self.post(headers, body))
        assert len(self.calls) <= 1
        if not self.calls:
            assert answer.status >= 400 or b'"error"' in answer.body or answer.status == 202
            return None
        return self.calls[0]

    def read_message(self, body: bytes, *, is_modern: bool) -> PlainCall | None:
        """What the SDK's tool was called with over a pipe."""
        self.calls.clear()
        answer = self.runner.run(self.pipes[is_modern].answer(body))
        if not self.calls:
            assert answer is None or isinstance(answer, JSONRPCError)
            return None
        return replace(self.calls[0], session=None if is_modern else "")

    def close(self) -> None:
        async def close() -> None:
            for pipe in self.pipes.values():
                await pipe.close()
            self.stop.set()
            await self.serving

        self.runner.run(close())
        self.runner.close()


@pytest.fixture(scope="module")
def sdk() -> Generator[TheSDK]:
    found = TheSDK()
    yield found
    found.close()


def modern_headers() -> Headers:
    return [
        (b"accept", ACCEPT.encode()),
        (b"content-type", b"application/json"),
        (b"mcp-protocol-version", MODERN.encode()),
        (b"mcp-method", b"tools/call"),
        (b"mcp-name", b"slack_post"),
    ]


def session_headers(session: str) -> Headers:
    return [
        (b"accept", ACCEPT.encode()),
        (b"content-type", b"application/json"),
        (b"mcp-protocol-version", LEGACY.encode()),
        (b"mcp-session-id", session.encode()),
    ]


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
    """An object as text: the usual members, some of them possibly changed, left out, added, or repeated."""
    members = list(usual.items())
    for _ in range(draw(st.sampled_from([0] * 8 + [1, 2]))):
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
def _messages(draw: st.DrawFn, *, is_modern: bool) -> bytes:
    ways = draw(_object({"url": "{}", "form": "{}"}, "more"))
    meta = {}
    if is_modern:
        meta = {
            META + "protocolVersion": '"2026-07-28"',
            META + "clientCapabilities": draw(_object({"elicitation": ways}, "sampling", "roots", "more")),
            META + "clientInfo": draw(_object({"name": '"x"', "version": '"1"'}, "title", "icons", "more")),
        }
    if draw(st.booleans()):
        meta["progressToken"] = draw(st.sampled_from(["0", '"p"', *_ODD]))
    params = {
        "name": '"slack_post"',
        "arguments": draw(_object({"channel": '"#general"', "text": '"hi"'}, "more")),
        "_meta": draw(_object(meta, *_META, "more")),
    }
    message = {
        "jsonrpc": '"2.0"',
        "id": "1",
        "method": '"tools/call"',
        "params": draw(_object(params, "meta", "inputResponses", "requestState", "task", "more")),
    }
    return draw(_object(message, "error", "result", "more")).encode()


_TYPES = (
    "application/json", "text/event-stream", "*/*", "application/*", "text/*", "text/html", "", "json", "*",
    "application/jsonl", "application/json-seq", "application/x-json",
)  # fmt: skip
_AFTER = ("", ";q=0.5", " ; q=1", "; charset=utf-8", ';charset="latin-1"', ";", " ")


@st.composite
def _media_types(draw: st.DrawFn) -> bytes:
    """A value for `Accept` or `Content-Type`, good or bad."""
    found = draw(st.lists(st.tuples(st.sampled_from(_TYPES), st.sampled_from(_AFTER)), min_size=1, max_size=4))
    text = draw(st.sampled_from([",", ", ", " ,"])).join(kind + after for kind, after in found)
    return draw(st.sampled_from([text, text, text.upper(), text.title()])).encode()


@st.composite
def _headers(draw: st.DrawFn, usual: Headers) -> Headers:
    """The usual headers in any order, some of them possibly respelled, changed, left out, or repeated."""
    found = list(draw(st.permutations(usual)))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        place = draw(st.integers(0, len(found) - 1))
        name, value = found[place]
        kinds = (b"accept", b"content-type")
        odd = draw(_media_types() if name in kinds else st.sampled_from([value, value.upper(), b"", *_VALUES]))
        match draw(st.sampled_from(["change", "change", "twice", "drop", "more"])):
            case "change":
                found[place] = name, odd
            case "twice":
                found.append((name, odd))
            case "drop" if len(found) > 1:
                del found[place]
            case _:
                found.append((draw(st.sampled_from([b"mcp-param-text", b"mcp-session-id", b"mcp-name", b"x"])), odd))
    return found


_VALUES = (
    b"slack_channels", b"=?base64?c2xhY2tfcG9zdA==?=", b"=?base64?c2xhY2tfcG9zdB==?=", b"=?base64?x?=", b"tools/list",
    b"2026-07-28", b"2025-11-25", b"2026-07-29", b"\xff",
)  # fmt: skip


EXAMPLES = settings.default.max_examples
thousands = settings(max_examples=max(EXAMPLES, min(5 * EXAMPLES, 1000)))  # in the six tests together


def alike(ours: PlainCall, theirs: PlainCall | None) -> bool:
    """Whether both are equal, including the types of numbers; NaN equals itself."""
    return theirs is not None and repr((ours, ours.arguments)) == repr((theirs, theirs.arguments))


@thousands
@given(found=_headers(modern_headers()), body=_messages(is_modern=True))
def test_whatever_is_read_here_the_sdk_reads_in_the_same_way(sdk: TheSDK, found: Headers, body: bytes) -> None:
    ours = fast_path.read(found, body)
    if ours is not None:
        assert alike(ours, sdk.read(found, body))


@thousands
@given(data=st.data())
def test_whatever_is_read_in_a_session_the_sdk_reads_in_the_same_way(sdk: TheSDK, data: st.DataObject) -> None:
    found, body = data.draw(_headers(session_headers(sdk.session))), data.draw(_messages(is_modern=False))
    by_name = dict(found)
    version = by_name.get(b"mcp-protocol-version", LEGACY.encode()).decode("latin-1")
    if by_name.get(b"mcp-session-id") != sdk.session.encode() or version not in HANDSHAKE_PROTOCOL_VERSIONS:
        return  # before our reader runs, era and session are already known
    ours = fast_path.read_in_session(found, body, CAPABILITIES)
    if ours is not None:
        assert alike(ours, sdk.read(found, body))


@thousands
@given(data=st.data(), is_modern=st.booleans())
def test_whatever_is_read_of_a_pipe_or_stream_the_sdk_reads_in_the_same_way(
    sdk: TheSDK, data: st.DataObject, is_modern: bool
) -> None:
    body = data.draw(_messages(is_modern=data.draw(st.sampled_from([is_modern, is_modern, not is_modern]))))
    ours = fast_path.read_message(body, None if is_modern else CAPABILITIES)
    if ours is not None:
        assert alike(ours, sdk.read_message(body, is_modern=is_modern))


@st.composite
def _good(draw: st.DrawFn, usual: Headers, *, is_modern: bool) -> tuple[Headers, bytes]:
    """One valid call, in any spelling."""
    json_type = draw(st.sampled_from(["application/json", "application/*", "*/*"])) + draw(st.sampled_from(_AFTER))
    kinds = [json_type, "text/event-stream" + draw(st.sampled_from(_AFTER)), *draw(st.lists(st.sampled_from(_TYPES)))]
    accept = draw(st.sampled_from([",", ", ", " , "])).join(draw(st.permutations(kinds[:6])))
    content_type = "application/json" + draw(st.sampled_from(["", ";charset=utf-8", " ; charset=UTF-8", ";x"]))
    changed = {
        b"accept": draw(st.sampled_from([accept, accept.upper()])).encode(),
        b"content-type": (content_type.upper() if is_modern and draw(st.booleans()) else content_type).encode(),
        b"x-more": b"anything",
    }
    found = draw(st.permutations(list({**dict(usual), **changed}.items())))
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    value = st.recursive(st.none() | st.booleans() | st.integers() | text, lambda inner: st.lists(inner, max_size=3))
    meta: dict[str, object] = draw(st.dictionaries(text.map(lambda name: "com.example/" + name), value, max_size=3))
    if draw(st.booleans()):
        meta["progressToken"] = draw(text | st.integers(-(2**62), 2**62))
    if is_modern:
        asks = draw(st.sampled_from([{}, {"elicitation": {}}, {"elicitation": {"url": {}}, "sampling": {}}]))
        meta |= {META + "protocolVersion": MODERN, META + "clientCapabilities": asks}
        if draw(st.booleans()):
            meta[META + "clientInfo"] = {"name": draw(text), "version": "1", "title": "x"}
    arguments = draw(st.dictionaries(text, value, max_size=3))
    message = {"jsonrpc": "2.0", "id": draw(text | st.integers(-(2**62), 2**62)), "method": "tools/call"}
    message["params"] = {"name": "slack_post", "arguments": arguments, "_meta": meta}
    names = draw(st.permutations(list(message)))
    body = json.dumps({name: message[name] for name in names}, indent=draw(st.sampled_from([None, 1])))
    return found, body.encode()


@thousands
@given(good=_good(modern_headers(), is_modern=True))
def test_every_valid_call_is_read_here(sdk: TheSDK, good: tuple[Headers, bytes]) -> None:
    ours = fast_path.read(*good)
    assert ours is not None
    assert alike(ours, sdk.read(*good))


@thousands
@given(data=st.data())
def test_every_valid_call_of_a_session_is_read_here(sdk: TheSDK, data: st.DataObject) -> None:
    good = data.draw(_good(session_headers(sdk.session), is_modern=False))
    ours = fast_path.read_in_session(*good, CAPABILITIES)
    assert ours is not None
    assert alike(ours, sdk.read(*good))


@thousands
@given(data=st.data(), is_modern=st.booleans())
def test_every_valid_call_of_a_pipe_or_stream_is_read_here(sdk: TheSDK, data: st.DataObject, is_modern: bool) -> None:
    usual = modern_headers() if is_modern else session_headers(sdk.session)
    _, body = data.draw(_good(usual, is_modern=is_modern))
    ours = fast_path.read_message(body, None if is_modern else CAPABILITIES)
    assert ours is not None
    assert alike(ours, sdk.read_message(body, is_modern=is_modern))

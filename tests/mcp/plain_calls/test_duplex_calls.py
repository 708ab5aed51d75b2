"""A connection over pipes answers as the SDK's own server does, whether our reader or the SDK reads a call."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from mcp.server.stdio import stdio_server
from starlette.types import Scope

from server import stdio
from server.mcp import duplex, event_stream
from server.mcp.sdk_calls import build_server, open_vault
from server.mcp.sdk_server import PRINCIPAL, OpenVault
from server.runtime.sdk_pipe import SdkLines, SdkOutput
from tests.support.plain_calls import CALLS, HELD, LINKS, LIST, call_message, note_reading
from tests.support.rooms.mcp_room import SLACK, Agent, Room, modern
from tests.support.simulator_apps import wait_until_held

LEFT_TO_SDK = "x-left-to-sdk"
CLIENT = {"name": "x", "version": "1"}
WAYS = ["pipe", "stream"]
BOUND = 20.0  # seconds


class Line:
    """A client's end."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.received: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def send(self, *messages: object) -> None:
        for message in messages:
            await self.sent.put(json.dumps(message, ensure_ascii=False).encode())

    async def write(self, line: bytes) -> None:
        assert b"\n" not in line
        await self.received.put(json.loads(line))

    async def receive(self) -> dict[str, object]:
        async with asyncio.timeout(BOUND):
            return await self.received.get()

    async def ask(self, message: object) -> dict[str, object]:
        await self.send(message)
        return await self.receive()


@asynccontextmanager
async def connection(
    place: Room, agent: Agent, way: str, *, revision: str, capabilities: Mapping[str, object], is_sdk: bool = False
) -> AsyncGenerator[Line]:
    """An open connection after its first request; with `is_sdk`, our reader reads nothing."""
    async with (stream if way == "stream" else pipe)(place, agent, is_sdk=is_sdk) as line:
        if revision == "2026-07-28":
            assert "result" in await line.ask(modern("server/discover", {}, id="first"))
        else:
            params = {"protocolVersion": revision, "capabilities": capabilities, "clientInfo": CLIENT}
            assert "result" in await line.ask({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
            await line.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        yield line


@asynccontextmanager
async def stream(place: Room, agent: Agent, *, is_sdk: bool) -> AsyncGenerator[Line]:
    """An HTTP+SSE connection."""
    line, more = Line(), {LEFT_TO_SDK: "1"} if is_sdk else {}
    async with (
        place.http(agent) as http,
        place.http(agent) as posting,
        http.stream("GET", "/sse", headers={"accept": "text/event-stream"}) as answer,
    ):
        lines = answer.aiter_lines()

        async def next_event() -> str:
            async for one in lines:
                if one.startswith("data: "):
                    return one.removeprefix("data: ")
            raise EOFError

        path = await next_event()

        async def post() -> None:
            while (content := await line.sent.get()) is not None:
                posted = await posting.post(path, content=content, headers={"content-type": "application/json", **more})
                assert (posted.status_code, posted.text) == (202, "Accepted")

        async def listen() -> None:
            while True:
                await line.received.put(json.loads(await next_event()))

        working = [asyncio.create_task(post()), asyncio.create_task(listen())]
        try:
            yield line
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)


@asynccontextmanager
async def pipe(place: Room, agent: Agent, *, is_sdk: bool) -> AsyncGenerator[Line]:
    """A connection as over stdio."""
    deployment, line = place.vault.deployment, Line()
    opened = open_vault(deployment, transport="stdio")

    async def vault() -> OpenVault:
        PRINCIPAL.set(agent.principal)
        return opened

    server = build_server(deployment, transport="stdio")

    async def serve() -> None:
        PRINCIPAL.set(agent.principal)
        if not is_sdk:
            await stdio.serve_lines(server, vault, line.sent.get, line.write)
            return
        lines, output = SdkLines(), SdkOutput(lambda text: line.write(text.encode()))

        async def feed() -> None:
            while (content := await line.sent.get()) is not None:
                await lines.put(content, lambda: None)
            await lines.end()

        feeding = asyncio.create_task(feed())
        async with stdio_server(lines, output) as streams:
            await server.run(*streams, server.create_initialization_options())
        await feeding

    serving = asyncio.create_task(serve())
    try:
        yield line
    finally:
        await line.sent.put(None)
        async with asyncio.timeout(BOUND):
            await serving


def message_of(
    revision: str, name: str, arguments: object, *, capabilities: Mapping[str, object], **more: object
) -> dict[str, object]:
    if revision != "2026-07-28":
        return call_message(name, arguments, **more)
    message = modern("tools/call", {"name": name, "arguments": arguments}, id="a-1")
    message["params"]["_meta"] |= {"io.modelcontextprotocol/clientCapabilities": dict(capabilities)}
    message["params"]["_meta"] |= more.get("_meta", {})
    return message


def comparable(answer: Mapping[str, object]) -> str:
    content = json.dumps(answer, sort_keys=True)
    content = re.sub(r"(?<=/connect/)[\w-]+|\b[A-Z0-9]{4}-[A-Z0-9]{4}\b|\b\d{10}\.\d{6}\b", "*", content)
    return re.sub(r'"(elicitationId|requestState)": "[^"]+"', "*", content)


@pytest.fixture(autouse=True)
def leave_to_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """POSTs with this header look like those of a stream that this process doesn't know."""
    find = event_stream.OpenStreams.find

    def find_or_leave(streams: event_stream.OpenStreams, scope: Scope) -> object:
        return None if LEFT_TO_SDK.encode() in dict(scope["headers"]) else find(streams, scope)

    monkeypatch.setattr(event_stream.OpenStreams, "find", find_or_leave)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether our reader read each call."""
    return note_reading(monkeypatch, "read_message", body=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25", "2025-06-18"])
@pytest.mark.parametrize("capabilities", [{}, LINKS], ids=["words", "links"])
async def test_each_outcome_is_answered_as_the_sdk_answers_it(
    place: Room, agent: Agent, read: list[bool], way: str, revision: str, capabilities: dict[str, object]
) -> None:
    twin = await place.agent()  # for this person, no link was made before
    await place.connect(twin, "slack", scopes=SLACK)
    async with (
        connection(place, agent, way, revision=revision, capabilities=capabilities) as ours,
        connection(place, twin, way, revision=revision, capabilities=capabilities, is_sdk=True) as theirs,
    ):
        for name, arguments in CALLS.values():
            message = message_of(revision, name, arguments, capabilities=capabilities)
            assert comparable(await ours.ask(message)) == comparable(await theirs.ask(message))
    assert read == [True] * len(CALLS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
@pytest.mark.parametrize("name", ["slack_channels", "calendar_list"], ids=["result", "link"])
async def test_progress_and_then_a_result_or_a_link_come_as_from_the_sdk(
    place: Room, agent: Agent, way: str, revision: str, name: str
) -> None:
    twin = await place.agent()
    await place.connect(twin, "slack", scopes=SLACK)
    meta: dict[str, object] = {"progressToken": "p"}
    told: list[list[str]] = []
    for who, is_sdk in ((agent, False), (twin, True)):
        async with connection(place, who, way, revision=revision, capabilities=LINKS, is_sdk=is_sdk) as line:
            arguments = {"limit": 1} if name == "slack_channels" else {}
            found = [await line.ask(message_of(revision, name, arguments, capabilities=LINKS, _meta=meta))]
            while "id" not in found[-1]:
                found.append(await line.receive())
            told.append([comparable(one) for one in found])
    assert told[0] == told[1]
    assert len(told[0]) == (2 if name == "slack_channels" else 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_sdk", [False, True], ids=["ours", "the SDK's"])
async def test_a_canceled_call_gets_no_answer_and_the_others_go_on(
    place: Room, agent: Agent, way: str, is_sdk: bool
) -> None:
    place.simulator.fault(HELD, "hold")
    async with connection(place, agent, way, revision="2025-11-25", capabilities={}, is_sdk=is_sdk) as line:
        await line.send(message_of("2025-11-25", **LIST, capabilities={}))
        await wait_until_held(place.simulator, HELD)
        await line.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a-1"}})
        async with asyncio.timeout(BOUND):
            await place.vault.deployment.drain._idle.wait()
        again = message_of("2025-11-25", "connections", {}, capabilities={})
        assert "result" in await line.ask(again)
        place.simulator.control("release")


@pytest.mark.parametrize("is_sdk", [False, True], ids=["ours", "the SDK's"])
async def test_a_client_that_leaves_ends_its_calls_and_is_told_so(place: Room, agent: Agent, is_sdk: bool) -> None:
    place.simulator.fault(HELD, "hold")
    async with connection(place, agent, "pipe", revision="2025-11-25", capabilities={}, is_sdk=is_sdk) as line:
        await line.send(message_of("2025-11-25", **LIST, capabilities={}))
        await wait_until_held(place.simulator, HELD)
        assert place.vault.deployment.drain._calls == 1
    place.simulator.control("release")
    last = await line.receive()
    assert (last["id"], last["error"]) == ("a-1", {"code": -32000, "message": "Connection closed"})
    assert place.vault.deployment.drain._calls == 0


async def test_the_first_request_and_what_is_not_valid_are_the_sdks(
    place: Room, agent: Agent, read: list[bool]
) -> None:
    message = message_of("2025-11-25", "connections", {}, capabilities={})
    enveloped = message_of("2026-07-28", "connections", {}, capabilities={})
    async with connection(place, agent, "pipe", revision="2025-11-25", capabilities={}) as line:
        refused = await line.ask(enveloped)  # it belongs to the other era's protocol
        assert refused["error"] == {
            "code": -32600,
            "message": "this connection serves the handshake protocol era; "
            "requests carrying the 2026-07-28 envelope are not accepted on it",
        }
        params = {"protocolVersion": "2025-11-25", "capabilities": LINKS, "clientInfo": {"name": "x", "version": "1"}}
        await line.ask({"jsonrpc": "2.0", "id": 9, "method": "initialize", "params": params})
        assert "result" in await line.ask(message)  # only the SDK knows what its client can do now
    assert read == [False]


async def test_a_stream_that_ends_ends_its_calls_and_nobody_else_posts_to_it(
    place: Room, agent: Agent, read: list[bool]
) -> None:
    bob, drain = await place.agent("bob"), place.vault.deployment.drain
    message = message_of("2025-11-25", **LIST, capabilities={})
    async with place.http(agent) as http, place.http(bob) as other, place.http(agent) as posting:
        place.simulator.fault(HELD, "hold")
        async with http.stream("GET", "/sse", headers={"accept": "text/event-stream"}) as answer:
            lines = answer.aiter_lines()
            path = next(one for one in [line async for line in first(lines, 2)] if one.startswith("data: "))[6:]
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": CLIENT}
            opening = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
            assert (await posting.post(path, json=opening)).status_code == 202
            assert [line async for line in first(lines, 3)]  # its answer
            assert (await other.post(path, json=message)).status_code == 404
            assert read == []
            assert (await posting.post(path, json=message)).status_code == 202
            await wait_until_held(place.simulator, HELD)
            assert read == [True]
            assert drain._calls == 1
        async with asyncio.timeout(BOUND):
            await drain._idle.wait()
        place.simulator.control("release")
        assert (await posting.post(path, json=message)).status_code == 404


async def first(lines: AsyncIterator[str], count: int) -> AsyncGenerator[str]:
    for _ in range(count):
        yield await anext(lines)


def test_no_answer_leaves_before_initialize_is_accepted() -> None:
    async def never() -> OpenVault:
        raise AssertionError

    async def fail_when_called(*_: object) -> None:
        raise AssertionError

    calls = duplex.DuplexCalls(never, write=fail_when_called, pass_on=fail_when_called, stamp={}, is_event=False)
    message = json.dumps(message_of("2025-11-25", "connections", {}, capabilities={})).encode()
    group = asyncio.TaskGroup()
    opening = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
    assert not calls.take(json.dumps(opening).encode(), group)
    assert not calls.take(message, group)
    calls.watch('{"jsonrpc":"2.0","id":0,"error":{"code":-32602,"message":"no"}}')
    assert not calls.take(message, group)

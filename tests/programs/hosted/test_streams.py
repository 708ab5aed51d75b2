"""What a program may write: answers that somebody waits for, its own requests one by one, and little else."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCRequest, JSONRPCResponse

from server.programs.hosted.stdio import LONGEST, Conversation, Streams

PATIENCE = 60.0


@dataclass
class Program:
    """The program's end of its streams, and what the vault read from it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    streams: Streams
    conversation: Conversation
    noise: list[str] = field(default_factory=list[str])
    excess: list[str] = field(default_factory=list[str])

    def write(self, *lines: Any) -> None:
        self.writer.write(b"".join(_line(one) for one in lines))

    async def read(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return json.loads(await self.reader.readline())

    async def ask(self, number: int, **params: Any) -> None:
        """Send one of the vault's requests."""
        request = JSONRPCRequest(jsonrpc="2.0", id=number, method="tools/call", params=params)
        await self.streams[1].send(SessionMessage(request))

    async def arrives(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            found = await self.streams[0].receive()
        assert isinstance(found, SessionMessage)
        return found.message

    async def is_ended(self) -> str:
        """Why the vault stopped reading it; text before that is left out."""
        with pytest.raises((anyio.EndOfStream, anyio.ClosedResourceError)):
            while True:
                await self.arrives()
        assert self.conversation.has_ended
        return "".join(self.excess)


def _line(message: Any) -> bytes:
    return message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"


@asynccontextmanager
async def program() -> AsyncGenerator[Program]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST)
    their_reader, their_writer = await asyncio.open_connection(sock=theirs, limit=131_072)
    noise, excess = list[str](), list[str]()
    conversation = Conversation(reader, writer, mask=bytes, on_noise=noise.append, on_excess=excess.append)
    try:
        async with conversation.open() as streams:
            yield Program(their_reader, their_writer, streams, conversation, noise, excess)
    finally:
        their_writer.close()
        writer.close()


def answer(number: int | str, **result: Any) -> dict[str, Any]:
    return {"id": number, "result": result}


async def test_an_answer_arrives_once_and_only_if_it_is_waited_for() -> None:
    async with program() as one:
        await one.ask(1)
        assert (await one.read())["id"] == 1
        one.write(answer(2, n=0), answer(1, n=1), answer(1, n=2), {"method": "notifications/late"})
        first = await one.arrives()
        assert isinstance(first, JSONRPCResponse)
        assert first.result == {"n": 1}
        await one.ask(3)
        await one.read()
        one.write({"method": "notifications/progress", "params": {"progressToken": 3, "progress": 1}}, answer("3"))
        assert (await one.arrives()).method == "notifications/progress", "while a call runs"
        assert (await one.arrives()).id == "3"
        assert one.excess == []


@pytest.mark.parametrize("size", [LONGEST // 2, LONGEST + 1])
async def test_an_answer_of_a_mebibyte_is_the_longest(size: int) -> None:
    async with program() as one:
        await one.ask(1)
        await one.read()
        one.write(answer(1, content=[{"type": "text", "text": "x" * size}]))
        if size < LONGEST:
            assert (await one.arrives()).id == 1
        else:
            assert "a line of more than 1048576 bytes" in await one.is_ended()


@pytest.mark.parametrize("count", [2000, 20_000])
async def test_an_answer_of_very_many_parts_is_refused(count: int) -> None:
    async with program() as one:
        await one.ask(1)
        await one.read()
        one.write(answer(1, content=[{}] * count, structuredContent={"any": [0] * 20_000}))
        if count == 2000:
            assert (await one.arrives()).id == 1
        else:
            assert "more than 10000 parts" in await one.is_ended()


async def test_nothing_long_is_read_between_calls() -> None:
    async with program() as one:
        one.write({"method": "x", "params": {"long": "x" * 500_000}}, b"noise\n", {"id": "p", "method": "ping"})
        assert (await one.read())["result"] == {}
        assert one.noise == ["noise\n"], "the long one wasn't looked at"


@pytest.mark.parametrize(
    "line", [b"\n", b"noise\n", _line({"method": "notifications/x"}), _line(answer(7)), b"x" * 500_000 + b"\n"]
)
async def test_one_that_goes_on_writing_is_ended(line: bytes) -> None:
    async with program() as one:
        few = 300 if len(line) < 1000 else 3
        one.write(line * few, {"id": "p", "method": "ping"})
        assert (await one.read())["id"] == "p", "a few lines are let pass"
        one.write(line * 20 * few)
        assert "too much unrequested output" in await one.is_ended()


async def test_its_requests_are_answered_here_and_wait_until_it_reads() -> None:
    async with program() as one:
        one.write({"id": 1, "method": "sampling/createMessage", "params": {}}, {"id": "b", "method": "ping"})
        assert (await one.read())["error"]["code"] == -32601
        assert await one.read() == {"jsonrpc": "2.0", "id": "b", "result": {}}
        for _ in range(60):
            one.write({"id": "x" * 60_000, "method": "x"})
        async with asyncio.timeout(PATIENCE):  # nothing is read while answers wait
            while one.writer.transport.get_write_buffer_size() == 0:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert one.writer.transport.get_write_buffer_size() > 0
        for _ in range(60):
            assert (await one.read())["error"]["code"] == -32601
        assert one.excess == []


async def test_half_a_surrogate_pair_fails_its_call_alone() -> None:
    async with program() as one:
        await one.ask(1, text="\ud800")
        refused = await one.arrives()
        assert isinstance(refused, JSONRPCError)
        assert "valid Unicode" in refused.error.message
        await one.ask(2, text="fine")
        assert (await one.read())["params"] == {"text": "fine"}

"""Calls over one stream, stdio or HTTP+SSE, with eight in flight."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from tests.bench.messages import INITIALIZE, READY, authorization, call, check, request
from tests.bench.rounds import Way
from tests.bench.servers.contenders import CONNECTIONS, SERVER_CORE, Contender, cpu_seconds

LIMIT = 2**20  # bytes of a line


@dataclass(frozen=True, slots=True)
class Line:
    """One open connection: a way to send a message, and the lines that come back."""

    send: Callable[[bytes], Awaitable[None]]
    receive: Callable[[], Awaitable[bytes]]
    pid: int

    async def way(self, *, is_modern: bool) -> Way:
        """Calls of this era over this connection; opens a session if the era has sessions."""
        if not is_modern:
            await self.send(request(0, "initialize", INITIALIZE))
            if b'"result"' not in await self.receive():
                raise SystemExit("no session")
            await self.send(READY)
        return Way(partial(self._drive, is_modern=is_modern), partial(cpu_seconds, self.pid))

    async def _drive(self, calls: int, *, is_modern: bool) -> Sequence[float]:
        begun: dict[int, float] = {}
        took: list[float] = []

        async def begin() -> None:
            number = len(begun) + 1
            begun[number] = time.perf_counter()
            await self.send(call(number, is_modern=is_modern))

        for _ in range(CONNECTIONS):
            await begin()
        while len(took) < calls:
            answer = await self.receive()
            check(answer)
            took.append(time.perf_counter() - begun[json.loads(answer)["id"]])
            if len(begun) < calls:
                await begin()
        return took


@asynccontextmanager
async def stdio(module: str, *arguments: str) -> AsyncGenerator[Line]:
    """A server over stdio, on the first core."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", module, *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, limit=LIMIT
    )
    writer, reader = process.stdin, process.stdout
    assert writer is not None
    assert reader is not None

    async def send(message: bytes) -> None:
        writer.write(message + b"\n")
        await writer.drain()

    try:
        yield Line(send, reader.readline, process.pid)
    finally:
        writer.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()


@asynccontextmanager
async def sse(contender: Contender) -> AsyncGenerator[Line]:
    """A session over HTTP+SSE: one stream, and a POST for each message."""
    own = {"Host": f"127.0.0.1:{contender.port}"} | authorization(contender)
    host = "".join(f"{name}: {value}\r\n" for name, value in own.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", contender.port, limit=LIMIT)
    writer.write(f"GET /sse HTTP/1.1\r\n{host}Accept: text/event-stream\r\n\r\n".encode())

    async def receive() -> bytes:
        while True:
            line = await reader.readline()
            if line.startswith(b"data: "):
                return line[6:].rstrip()
            if not line:
                raise SystemExit("the stream ended")

    path = (await receive()).decode()
    posting = await asyncio.open_connection("127.0.0.1", contender.port)

    async def send(message: bytes) -> None:
        nonlocal posting
        head = f"POST {path} HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: {len(message)}\r\n\r\n"
        for _ in range(2):
            try:
                posting[1].write(head.encode() + message)
                answer = (await posting[0].readuntil(b"\r\n\r\n")).lower()
                break
            except (asyncio.IncompleteReadError, ConnectionError):  # the connection was idle for too long
                posting = await asyncio.open_connection("127.0.0.1", contender.port)
        else:
            raise SystemExit("no answer to a POST")
        length = next(int(one[15:]) for one in answer.split(b"\r\n") if one.startswith(b"content-length:"))
        await posting[0].readexactly(length)
        if b" 202 " not in answer[:20]:
            raise SystemExit(f"not taken: {answer[:60]!r}")

    try:
        yield Line(send, receive, contender.process.pid)
    finally:
        writer.close()
        posting[1].close()

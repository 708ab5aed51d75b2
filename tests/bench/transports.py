"""Compares calls over stdio and HTTP+SSE with the bare MCP server's over the same transport, in the same round.

    python -m tests.bench.transports [--rounds N] [--calls N]

Eight calls are in flight; otherwise the method is that of `python -m tests.bench.eras`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.__main__ import CONNECTIONS, CORES, Contender, free_port, start, start_vault, wait_for
from tests.bench.eras import ENVELOPE, make_message, opening, print_ratios

WANTED = b"1764000000.000100"
LIMIT = 2**20  # bytes of a line


@dataclass
class Line:
    """One open connection: a way to send a message, and the lines that come back."""

    send: Callable[[bytes], Awaitable[None]]
    receive: Callable[[], Awaitable[bytes]]
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time of all threads of the server so far."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def call(number: int, *, is_modern: bool) -> bytes:
    """One call with a progress token, as most clients send it."""
    return make_message(number, envelope=ENVELOPE if is_modern else {}, has_token=True)


async def shake_hands(line: Line) -> None:
    """Open a session of the handshake era."""
    await line.send(opening("first"))
    if b'"result"' not in await line.receive():
        raise SystemExit("no session")
    await line.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')


async def drive(line: Line, calls: int, *, is_modern: bool) -> float:
    """CPU us per call, eight in flight; each answer is checked."""
    before, sent = line.cpu_seconds(), 0
    for sent in range(1, CONNECTIONS + 1):
        await line.send(call(sent, is_modern=is_modern))
    for _ in range(calls):
        body = await line.receive()
        if WANTED not in body or b'"isError":true' in body.replace(b" ", b""):
            raise SystemExit(f"a call failed: {body[:400]!r}")
        if sent < calls:
            sent += 1
            await line.send(call(sent, is_modern=is_modern))
    return (line.cpu_seconds() - before) / calls * 1e6


@asynccontextmanager
async def stdio(module: str, *arguments: str) -> AsyncGenerator[Line]:
    """A server over stdio, on the first core."""
    command = ["taskset", "-c", str(CORES[0]), sys.executable, "-m", module, *arguments]
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
    authorization = f"Authorization: Bearer {contender.token}\r\n" if contender.token else ""
    host = f"Host: 127.0.0.1:{contender.port}\r\n{authorization}"
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
            except (asyncio.IncompleteReadError, ConnectionError):  # it was idle for too long
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


async def compare(folder: Path, upstream: int, vault: Contender, bare: Contender, *, rounds: int, calls: int) -> None:
    """Print a line for each transport."""
    found: dict[str, list[tuple[float, float]]] = {}
    async with AsyncExitStack() as stack:

        async def over_stdio(data: str) -> tuple[Line, Line]:
            ours = ("tests.bench.vaulted", str(free_port()), str(upstream), str(folder / data), "stdio")
            theirs = ("tests.bench.bare", "0", str(upstream), "stdio")
            return (await stack.enter_async_context(stdio(*theirs)), await stack.enter_async_context(stdio(*ours)))

        rows = {
            "stdio, 2025-11-25": (await over_stdio("handshake"), False),
            "stdio, 2026-07-28": (await over_stdio("modern"), True),
            "HTTP+SSE, 2025-11-25": (
                (await stack.enter_async_context(sse(bare)), await stack.enter_async_context(sse(vault))),
                False,
            ),
        }
        for lines, is_modern in rows.values():
            for line in () if is_modern else lines:
                await shake_hands(line)
        for number in range(-1, rounds):
            for name, (lines, is_modern) in rows.items():
                used = [0.0, 0.0]
                for place in (0, 1) if number % 2 else (1, 0):
                    used[place] = await drive(lines[place], 200 if number < 0 else calls, is_modern=is_modern)
                if number >= 0:  # the first only warms up
                    found.setdefault(name, []).append((used[0], used[1]))
    print(f"load {os.getloadavg()[0]:.0f}; {rounds} rounds of {calls} calls, {CONNECTIONS} in flight\n")
    print_ratios(found)


def main() -> None:
    """Start upstream and contenders, compare, end them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=250)
    options = parser.parse_args()
    os.sched_setaffinity(0, {CORES[-1]})
    running: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as name:
        try:
            upstream, port = free_port(), free_port()
            running.append(start("tests.bench.upstream", str(upstream), core=CORES[-1]))
            wait_for(upstream, running[0])
            served = start("tests.bench.bare", str(port), str(upstream), "sse", core=CORES[0])
            bare = Contender("bare MCP server", served, port)
            vault = start_vault(Path(name), upstream, core=CORES[0])
            for contender in (bare, vault):
                running.append(contender.process)
                wait_for(contender.port, contender.process)
            asyncio.run(compare(Path(name), upstream, vault, bare, rounds=options.rounds, calls=options.calls))
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(timeout=30)


if __name__ == "__main__":
    main()

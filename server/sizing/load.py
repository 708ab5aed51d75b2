"""Requests over keep-alive connections, each timed and its answer checked; and a provider that answers every call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

CONNECTIONS: Final = 8
_POSTED: Final = (
    b'{"ok":true,"channel":"C0000000001","ts":"1764000000.000100",'
    b'"message":{"type":"message","user":"U0000000001","text":"hi","ts":"1764000000.000100"}}'
)


class LoadFailed(Exception):
    """A request was not answered as it should be."""


@dataclass(frozen=True, slots=True)
class Run:
    """Wall time in seconds, and the seconds of each request."""

    seconds: float
    latencies: tuple[float, ...]


async def drive(port: int, request: bytes, *, seconds: float, wanted: bytes) -> Run:
    """Send the request again and again for so long; each answer is a 200 that holds `wanted`. Raises LoadFailed."""
    began = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_repeat(port, request, until=began + seconds, wanted=wanted))
                for _ in range(CONNECTIONS)
            ]
    except* (LoadFailed, OSError, asyncio.IncompleteReadError) as failures:
        first = failures.exceptions[0]
        raise LoadFailed(str(first) or type(first).__name__) from failures
    return Run(time.perf_counter() - began, tuple(one for task in tasks for one in task.result()))


async def _repeat(port: int, request: bytes, *, until: float, wanted: bytes) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took: list[float] = []
    try:
        while (began := time.perf_counter()) < until:
            writer.write(request)
            status, body = await _read(reader)
            took.append(time.perf_counter() - began)
            if status != b"200" or wanted not in body:
                raise LoadFailed(f"HTTP {status.decode('ascii', 'replace')}: {body[:300].decode(errors='replace')}")
    finally:
        writer.close()
    return took


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Status (or the method of a request) and body; the other end announces each body's length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head.split(b" ", 2)[1], await reader.readexactly(length)


@asynccontextmanager
async def answering_provider() -> AsyncGenerator[int]:
    """A provider at a port of this machine that answers every call as Slack answers a posted message."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(_POSTED),
        _POSTED,
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await _read(reader)
                writer.write(answer)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()

"""The load: raw keep-alive connections that send one `tools/call` after another and check each answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

MODERN = "2026-07-28"


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of wall time, and each call's latency in seconds."""

    seconds: float
    latencies: tuple[float, ...]


def request_bytes(port: int, number: int, *, token: str | None, host: str = "127.0.0.1") -> bytes:
    """One modern `tools/call slack_post`."""
    body = json.dumps(
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "tools/call",
            "params": {
                "name": "slack_post",
                "arguments": {"channel": "general", "text": "hi"},
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": MODERN,
                    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
                    "io.modelcontextprotocol/clientCapabilities": {},
                },
            },
        }
    ).encode()
    lines = [
        "POST /mcp HTTP/1.1",
        f"Host: {host}:{port}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"MCP-Protocol-Version: {MODERN}",
        "Mcp-Method: tools/call",
        "Mcp-Name: slack_post",
        f"Content-Length: {len(body)}",
    ]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def proxied_bytes(port: int, path: str, *, token: str, host: str = "127.0.0.1") -> bytes:
    """One `chat.postMessage` as an SDK sends it, at this path."""
    body = json.dumps({"channel": "general", "text": "hi"}).encode()
    lines = [
        f"POST {path}/chat.postMessage HTTP/1.1",
        f"Host: {host}:{port}",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json;charset=utf-8",
        "User-Agent: an SDK",
        "Accept: */*",
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    body = await reader.readexactly(length)
    if status != b"200":
        raise RuntimeError(f"HTTP {status.decode()}: {body[:300].decode(errors='replace')}")
    return body


async def _connection(port: int, calls: int, offset: int, make: Callable[[int], bytes], wanted: bytes) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    latencies: list[float] = []
    try:
        for index in range(calls):
            started = time.perf_counter()
            writer.write(make(offset + index))
            body = await _answer(reader)
            latencies.append(time.perf_counter() - started)
            if wanted not in body or b'"isError":true' in body.replace(b" ", b""):
                raise RuntimeError(f"a call failed: {body[:400].decode(errors='replace')}")
    finally:
        writer.close()
        await writer.wait_closed()
    return latencies


async def drive(
    port: int,
    *,
    connections: int,
    calls: int,
    token: str | None,
    host: str = "127.0.0.1",
    make: Callable[[int], bytes] | None = None,
    wanted: bytes = b"1764000000.000100",
) -> Run:
    """Send `calls` calls over `connections` connections; each answer must contain `wanted`. `make`: other calls."""

    def ordinary(number: int) -> bytes:
        return request_bytes(port, number, token=token, host=host)

    started = time.perf_counter()
    each = calls // connections
    parts = await asyncio.gather(
        *(_connection(port, each, 1 + number * each, make or ordinary, wanted) for number in range(connections))
    )
    return Run(time.perf_counter() - started, tuple(latency for part in parts for latency in part))


async def send_at(port: int, *, pace: int, calls: int, token: str | None) -> list[float]:
    """Start `pace` calls per second, `calls` in all, without waiting for answers; return the seconds of each."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    loop = asyncio.get_running_loop()
    began = loop.time() + 0.1

    async def send(number: int) -> float:
        due = began + number / pace
        await asyncio.sleep(due - loop.time())
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes(port, number + 1, token=token))
        await _answer(reader)
        idle.append((reader, writer))
        return loop.time() - due

    took = await asyncio.gather(*(send(number) for number in range(calls)))
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()
    return took

"""End-to-end calls of the official clients, with eight in flight: Python in this process, TypeScript in Node."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.bench.messages import WANTED, authorization
from tests.bench.rounds import Way
from tests.bench.servers.contenders import CONNECTIONS, Contender
from tests.support.foreign.foreign import FOLDER, MODULES, node

LIMIT = 2**22  # bytes of a line


def has_node() -> bool:
    """Whether `make node` was run."""
    return (MODULES / ".package-lock.json").exists()


@asynccontextmanager
async def python(contender: Contender, *, mode: str) -> AsyncGenerator[Way]:
    """The client of `mcp`; `mode` is its term for the era."""
    async with (
        httpx2.AsyncClient(headers=authorization(contender), trust_env=False, timeout=30) as http,
        Client(streamable_http_client(f"http://127.0.0.1:{contender.port}/mcp", http_client=http), mode=mode) as client,
    ):

        async def call_some(calls: int) -> Sequence[float]:
            took: list[float] = []
            for _ in range(calls):
                begun = time.perf_counter()
                result = await client.call_tool("slack_post", {"channel": "general", "text": "hi"})
                took.append(time.perf_counter() - begun)
                if result.is_error or WANTED.decode() not in str(result.structured_content):
                    raise SystemExit(f"a call failed: {result}")
            return took

        async def send(calls: int) -> Sequence[float]:
            parts = await asyncio.gather(*(call_some(calls // CONNECTIONS) for _ in range(CONNECTIONS)))
            return [one for part in parts for one in part]

        yield Way(send, contender.cpu_seconds)


@asynccontextmanager
async def typescript(contender: Contender) -> AsyncGenerator[Way]:
    """The client of `@modelcontextprotocol/sdk` in its own process; needs `make node`."""
    process = await asyncio.create_subprocess_exec(
        node(),
        str(FOLDER / "mcp_bench.mjs"),
        f"http://127.0.0.1:{contender.port}/mcp",
        contender.token or "",
        str(CONNECTIONS),
        WANTED.decode(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(FOLDER),
        limit=LIMIT,
    )
    writer, reader = process.stdin, process.stdout
    assert writer is not None
    assert reader is not None

    async def send(calls: int) -> Sequence[float]:
        writer.write(json.dumps({"calls": calls}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        if "seconds" not in answer:
            raise SystemExit(f"the TypeScript client failed: {answer}")
        seconds: Sequence[float] = answer["seconds"]
        return seconds

    try:
        yield Way(send, contender.cpu_seconds)
    finally:
        writer.close()
        await process.wait()

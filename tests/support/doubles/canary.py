"""A port of this machine to which nothing may connect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class Canary:
    """`arrivals`: the number of connections."""

    port: int = 0
    arrivals: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def running_canary() -> AsyncGenerator[Canary]:
    """Listen until the block ends."""
    canary = Canary()

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        canary.arrivals += 1
        writer.close()

    async with await asyncio.start_server(count, "127.0.0.1", 0) as server:
        canary.port = server.sockets[0].getsockname()[1]
        yield canary

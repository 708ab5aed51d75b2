"""Clients that send a request a byte at a time don't delay anyone else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from tests.support.processes import Place, free_port

SLOW = 200  # clients of each kind
PATIENCE = 30.0  # seconds for an ordinary request; one that had to wait for the slow clients would wait forever
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
BODY = (
    b"POST /token HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 4000\r\n\r\n"
)


@asynccontextmanager
async def dripping_connections(port: int, start: bytes) -> AsyncGenerator[list[asyncio.StreamWriter]]:
    """Connections that have begun a request and send one more byte every tenth of a second.

    Each one that ends is replaced, so that their number stays the same however slow the machine is.
    """

    async def begin() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        return writer

    async def drip() -> None:
        while True:
            await asyncio.sleep(0.1)
            for place, writer in enumerate(writers):
                if writer.is_closing():
                    writers[place] = await begin()
                else:
                    writer.write(b"x")

    writers = [await begin() for _ in range(SLOW)]
    task = asyncio.create_task(drip())
    try:
        yield writers
        assert not task.done()
    finally:
        task.cancel()
        for writer in writers:
            writer.transport.abort()


async def test_four_hundred_slow_clients_keep_nobody_waiting_and_leave_nothing_in_the_log(tmp_path: Path) -> None:
    place = Place(tmp_path, free_port())
    place.configure()
    async with place.serve() as process, httpx2.AsyncClient(base_url=place.url, timeout=PATIENCE) as http:
        assert process.stderr is not None
        logged = asyncio.create_task(process.stderr.read())
        async with dripping_connections(place.port, HEAD) as heads, dripping_connections(place.port, BODY) as bodies:
            for _ in range(10):
                for path in ("/readyz", "/.well-known/oauth-authorization-server"):
                    assert (await http.get(path)).status_code == 200
                refused = await http.post("/token", data={"grant_type": "refresh_token", "client_id": "nobody"})
                assert refused.status_code == 401
                await asyncio.sleep(0.1)
                assert sum(not writer.is_closing() for writer in (*heads, *bodies)) > SLOW
        assert (await http.get("/readyz")).status_code == 200
    assert b"Traceback" not in await logged  # although 200 clients disconnected in the middle of a request

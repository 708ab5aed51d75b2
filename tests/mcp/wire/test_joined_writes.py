"""Writes made in one turn of the event loop are sent together, in order, and none waits longer than its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.types import Receive, Scope, Send

from server.http.joined_writes import JoinedWrites
from tests.support.harness import free_socket, serve_app

PATIENCE = 30.0


class Socket(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.told.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.told.append([bytes(one) for one in list_of_data])

    def close(self) -> None:
        self.told.append("closed")
        self.is_closed = True

    def abort(self) -> None:
        self.told.append("aborted")
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def make_joined_writes() -> tuple[JoinedWrites, Socket]:
    socket = Socket()
    return JoinedWrites(socket, asyncio.get_running_loop()), socket


async def test_two_writes_of_a_turn_leave_together_and_a_third_alone() -> None:
    joining, socket = make_joined_writes()
    for data in (b"head", b"body", b"more"):
        joining.write(data)
    assert socket.told == [[b"head", b"body"]]
    await asyncio.sleep(0)
    assert socket.told == [[b"head", b"body"], b"more"]
    await asyncio.sleep(0)
    assert len(socket.told) == 2


async def test_an_empty_body_is_no_write() -> None:
    joining, socket = make_joined_writes()
    joining.write(b"head")
    joining.write(b"")
    await asyncio.sleep(0)
    joining.write(b"")
    await asyncio.sleep(0)
    assert socket.told == [b"head"]


async def test_a_single_write_leaves_when_its_turn_ends() -> None:
    joining, socket = make_joined_writes()
    joining.write(b"event")
    assert socket.told == []
    await asyncio.sleep(0)
    assert socket.told == [b"event"]


async def test_what_waits_is_written_before_closing_and_dropped_by_an_abort() -> None:
    joining, socket = make_joined_writes()
    joining.write(b"head")
    joining.close()
    assert socket.told == [b"head", "closed"]
    joining, socket = make_joined_writes()
    joining.write(b"head")
    joining.abort()
    await asyncio.sleep(0)
    assert socket.told == ["aborted"]


async def test_nothing_is_written_to_a_closed_socket_and_its_open_twin_gets_it() -> None:
    for is_closed in (True, False):
        joining, socket = make_joined_writes()
        socket.is_closed = is_closed
        joining.write(b"event")
        await asyncio.sleep(0)
        joining.write(b"head")
        joining.write(b"body")
        assert socket.told == ([] if is_closed else [b"event", [b"head", b"body"]])


async def test_a_stream_starts_before_its_first_piece() -> None:
    begun = asyncio.Event()

    async def stream_slowly(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await begun.wait()
        await send({"type": "http.response.body", "body": b"piece"})

    with free_socket() as listening:
        async with serve_app(stream_slowly, listening), asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            begun.set()
            assert b"piece" in await reader.read()
            writer.close()

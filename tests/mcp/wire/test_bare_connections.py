"""What strangers can do with bare connections: every limit over raw sockets, each with a twin that stays below it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from server.http.connections import (
    HEAD,
    LINE,
    PIPELINED,
    BoundedConfig,
    BoundedProtocol,
    ConnectionLimits,
    capacity,
)
from server.runtime.uvicorn_server import server_config
from tests.support.harness import free_socket, serve_app
from tests.support.processes import Place, free_port
from tests.support.stalls import attempt_undisturbed

MEGABYTE = 1024 * 1024
PATIENCE = 30.0  # seconds: longer than any deadline here
QUICK = ConnectionLimits(total=100, per_address=100, head_time=0.3, body_time=0.3)
CLOSED = b"HTTP/1.1 %d"


async def _read_all(receive: Receive) -> int:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return size


async def answer_with_length(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body; `/stream` answers for longer than any deadline; `/slow` reads late."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    try:
        size = await _read_all(receive)
    except ConnectionError:
        return
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/stream":
        for _ in range(12):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"%d." % size})


Knock = Callable[..., Awaitable[bytes]]


@asynccontextmanager
async def place(bounds: ConnectionLimits = QUICK, app: ASGIApp = answer_with_length) -> AsyncGenerator[int]:
    """A server with these limits; returns its port."""
    with free_socket() as listening:
        async with serve_app(app, listening, bounds=bounds):
            yield listening.getsockname()[1]


async def knock(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send data and read until the server closes the connection; returns what the server sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = bytearray()

    async def listen() -> None:
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                said.extend(part)

    try:
        async with asyncio.timeout(PATIENCE):
            listening = asyncio.create_task(listen())
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    if pause:
                        await asyncio.sleep(pause)
            await listening
        return bytes(said)
    finally:
        writer.transport.abort()


async def knock_in_time(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send the pieces with these pauses, which a busy machine must not make longer."""
    return await attempt_undisturbed(lambda: knock(port, *pieces, pause=pause), within=0.1)


async def ordinary(port: int) -> float:
    """How many seconds an ordinary request takes."""
    started = asyncio.get_running_loop().time()
    said = await knock(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200"), said
    return asyncio.get_running_loop().time() - started


REST = b"Connection: close\r\n\r\n"
START = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def test_a_silent_connection_ends_without_a_word() -> None:
    async with place() as port:
        assert await knock(port) == b""
        assert await ordinary(port) < PATIENCE


async def test_half_a_head_ends_with_408_and_its_twin_in_time_is_answered() -> None:
    async with place() as port:
        assert (await knock(port, START)).startswith(b"HTTP/1.1 408")
        assert (await knock_in_time(port, START, REST, pause=0.1)).startswith(b"HTTP/1.1 200")


async def test_a_head_that_drips_does_not_earn_time_with_each_byte() -> None:
    async with place() as port:
        said = await knock(port, START + b"X-Slow: ", *[b"x"] * 12, REST, pause=0.05)
        assert said.startswith(b"HTTP/1.1 408")


async def test_half_a_body_ends_with_408_and_its_twin_in_time_is_answered() -> None:
    head = POST + b"Content-Length: 6\r\nConnection: close\r\n\r\n"
    async with place() as port:
        assert (await knock(port, head + b"abc")).startswith(b"HTTP/1.1 408")
        assert (await knock_in_time(port, head + b"abc", b"def", pause=0.1)).endswith(b"6.\r\n0\r\n\r\n")


async def test_a_chunked_body_that_stops_ends_with_408() -> None:
    head = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    async with place() as port:
        assert (await knock(port, head + b"3\r\nabc\r\n")).startswith(b"HTTP/1.1 408")
        said = await knock_in_time(port, head + b"3\r\nabc\r\n", b"0\r\n\r\n", pause=0.1)
        assert said.startswith(b"HTTP/1.1 200")


async def test_a_large_body_earns_the_time_that_it_takes() -> None:
    head = POST + b"Content-Length: 240000\r\nConnection: close\r\n\r\n"
    async with place() as port:
        said = await knock_in_time(port, head, *[b"x" * 20_000] * 12, pause=0.05)
        assert said.endswith(b"240000.\r\n0\r\n\r\n")


async def test_a_body_that_the_application_takes_late_is_waited_for() -> None:
    head = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\nConnection: close\r\n\r\n"
    async with place() as port:
        assert (await knock_in_time(port, head + b"x" * 500_000)).endswith(b"500000.\r\n0\r\n\r\n")


async def test_a_body_that_nobody_reads_any_more_ends_too() -> None:
    async def refuse_unread(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await answer_with_length(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with place(app=refuse_unread) as port:
        said = await knock(port, POST + b"Content-Length: 4000\r\n\r\n", *[b"x"] * 12, pause=0.05)
        assert said.startswith(b"HTTP/1.1 401")
        assert b"408" not in said


@pytest.mark.parametrize(
    ("start", "end", "status"),
    [
        pytest.param(b"GET /", b" HTTP/1.1\r\nHost: x\r\n" + REST, 414, id="request line"),
        pytest.param(START + b"X-Long: ", b"\r\n" + REST, 431, id="header line"),
        pytest.param(START + b"Cookie: a=", b"\r\n" + REST, 431, id="cookie"),
        pytest.param(START + b"X", b": y\r\n" + REST, 431, id="header name"),
    ],
)
async def test_an_endless_line_is_cut_off_and_its_twin_below_16_kib_is_answered(
    start: bytes, end: bytes, status: int
) -> None:
    room = LINE - len(start.rpartition(b"\n")[2]) - len(end.partition(b"\n")[0])
    async with place() as port:
        cut = asyncio.ensure_future(knock(port, start, *[b"a" * MEGABYTE] * 32))
        assert await ordinary(port) < PATIENCE
        assert (await cut).startswith(CLOSED % status) or await cut == b""  # data still being sent can reset it
        assert (await knock(port, start + b"a" * (room + 1) + end)).startswith(CLOSED % status)
        assert (await knock(port, start + b"a" * room + end)).startswith(b"HTTP/1.1 200")


async def test_endless_headers_are_cut_off_and_their_twin_below_64_kib_is_answered() -> None:
    line = b"X-Many: " + b"a" * 990 + b"\r\n"
    async with place() as port:
        cut = await knock(port, START, *[line * 1000] * 32)
        assert cut.startswith(b"HTTP/1.1 431") or cut == b""
        assert (await knock(port, START + line * 66 + REST)).startswith(b"HTTP/1.1 431")
        below = (HEAD - 100) // len(line)
        assert (await knock(port, START + line * below + REST)).startswith(b"HTTP/1.1 200")


async def test_an_endless_chunk_extension_is_cut_off_and_its_twin_below_16_kib_is_answered() -> None:
    head = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    rest = b"\r\nabc\r\n0\r\n\r\n"
    async with place() as port:
        cut = await knock(port, head, b"3;x=", *[b"a" * MEGABYTE] * 32)
        assert cut.startswith(b"HTTP/1.1 400") or cut == b""
        said = await knock(port, head, b"3;x=" + b"a" * (LINE - 100) + rest)
        assert said.endswith(b"3.\r\n0\r\n\r\n")


async def test_many_chunk_extensions_count_together_and_tiny_chunks_pass() -> None:
    head = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    async with place() as port:
        cut = await knock(port, head, *[(b"1;" + b"e" * 5000 + b"\r\nx\r\n") * 100] * 20)
        assert cut.startswith(b"HTTP/1.1 400") or cut == b""
        said = await knock(port, head, b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n")
        assert said.endswith(b"50000.\r\n0\r\n\r\n")


async def test_endless_trailers_are_cut_off() -> None:
    head = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n"
    line = b"X-Late: " + b"a" * 990 + b"\r\n"
    async with place() as port:
        cut = await knock(port, head, *[line * 1000] * 8)
        assert cut.startswith(b"HTTP/1.1 400") or cut == b""
        assert (await knock(port, head, line * 8 + b"\r\n")).startswith(b"HTTP/1.1 200")


async def test_only_so_many_requests_wait_behind_one_that_is_answered() -> None:
    one = b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"
    async with place() as port:
        assert await knock(port, one * 5000) == b""
        last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        said = await knock(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * (PIPELINED - 1) + last)
        assert said.count(b"HTTP/1.1 200") == PIPELINED


@pytest.mark.long
async def test_an_idle_connection_ends_after_its_answer() -> None:
    async with place() as port:
        said = await knock(port, START + b"\r\n")
        assert said.startswith(b"HTTP/1.1 200")
        assert said.count(b"HTTP/1.1") == 1


async def test_a_second_request_of_a_kept_connection_has_the_same_deadline() -> None:
    async with place() as port:
        said = await knock(port, START + b"\r\n", START, pause=0.1)
        assert said.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 408" in said


@pytest.mark.long
async def test_an_answer_takes_the_time_that_it_takes() -> None:
    async with place() as port:
        said = await knock(port, b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert said.count(b"1\r\nx\r\n") == 12
        behind = await knock(port, b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n\r\n")  # a stray line break at the end
        assert behind.count(b"1\r\nx\r\n") == 12


async def test_who_has_waited_longest_makes_room_and_answers_are_never_cut_for_it() -> None:
    answered = Counter[str]()

    async def count_and_answer(scope: Scope, receive: Receive, send: Send) -> None:
        answered[scope.get("path", "")] += 1
        await answer_with_length(scope, receive, send)

    bounds = ConnectionLimits(total=16, per_address=16, head_time=PATIENCE)
    async with place(bounds, count_and_answer) as port:
        streaming = [
            asyncio.ensure_future(knock(port, b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
            for _ in range(8)
        ]
        async with asyncio.timeout(PATIENCE):
            while answered["/stream"] < 8:
                await asyncio.sleep(0.01)
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
        assert await ordinary(port) < PATIENCE
        async with asyncio.timeout(PATIENCE):
            assert await silent[0][0].read() == b""
        for said in await asyncio.gather(*streaming):
            assert said.count(b"1\r\nx\r\n") == 12
        for _, writer in silent:
            writer.transport.abort()


class Far(asyncio.Transport):
    """A connection from an address that no socket of a test can have."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 50_000), "sockname": ("198.51.100.1", 443)})
        self.is_cut = False

    def abort(self) -> None:
        self.is_cut = True

    def close(self) -> None:
        self.is_cut = True

    def is_closing(self) -> bool:
        return self.is_cut

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Does nothing: nobody reads it."""


@dataclass
class Door:
    """Accepts connections without a socket."""

    bounds: ConnectionLimits
    config: BoundedConfig = field(init=False)
    protocols: list[BoundedProtocol] = field(default_factory=list[BoundedProtocol])

    def __post_init__(self) -> None:
        config = server_config(answer_with_length, self.bounds)
        assert isinstance(config, BoundedConfig)
        self.config = config

    def arrive(self, address: str, *, is_busy: bool = False) -> Far:
        """A new connection from this address; `is_busy`: with a request that is being answered."""
        made = BoundedProtocol(self.config, ServerState(), {})
        transport = Far(address)
        made.connection_made(transport)
        if is_busy:
            self.config.open_connections.work(made)
        self.protocols.append(made)
        return transport

    def close(self) -> None:
        for one in self.protocols:
            one.connection_lost(None)


@pytest.fixture
async def door() -> AsyncGenerator[Door]:
    made = Door(ConnectionLimits(total=32, per_address=4, proxies=("10.0.0.0/8",)))
    yield made
    made.close()


async def test_an_address_far_away_has_a_share(door: Door) -> None:
    first, *others = [door.arrive("192.0.2.1") for _ in range(5)]
    assert first.is_cut, "the one that waited longest makes room"
    assert not any(one.is_cut for one in others)
    network = [door.arrive(f"2001:db8::{number}", is_busy=True) for number in range(1, 6)]
    assert [one.is_cut for one in network] == [False] * 4 + [True], "a /64 is one, and answers are never cut"
    for near in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3"):  # the twins: many people may be behind one
        assert not any(door.arrive(near, is_busy=True).is_cut for _ in range(5))


async def test_this_machine_and_named_proxies_have_a_reserve(door: Door) -> None:
    far = [door.arrive(f"192.0.2.{number}", is_busy=True) for number in range(1, 32)]
    assert [one.is_cut for one in far] == [False] * 30 + [True]
    near = [door.arrive(address, is_busy=True) for address in ("127.0.0.1", "10.1.2.3", "127.0.0.1")]
    assert [one.is_cut for one in near] == [False, False, True]


async def test_who_is_far_takes_no_place_from_who_is_near(door: Door) -> None:
    near = [door.arrive("127.0.0.1") for _ in range(31)]
    assert door.arrive("192.0.2.1").is_cut
    assert not any(one.is_cut for one in near)
    assert [door.arrive("127.0.0.1").is_cut for _ in range(2)] == [False, False]
    assert [one.is_cut for one in near] == [True] + [
        False
    ] * 30  # the twin: nearby connections make room for each other


def test_half_of_few_files_and_all_but_256_of_many_are_for_connections() -> None:
    assert capacity(1024) == 768
    assert capacity(256) == 128
    assert capacity(1_000_000) == 10_000


async def test_1100_silent_connections_at_1024_files_shut_nobody_out(tmp_path: Path) -> None:
    vault = Place(tmp_path, free_port())
    vault.configure()
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        'ulimit -n 1024 && exec "$@"',
        "sh",
        *vault.arguments("serve"),
        stderr=asyncio.subprocess.DEVNULL,
        env=vault.environment(),
    )
    writers: list[asyncio.StreamWriter] = []
    try:
        await vault.healthy()
        for _ in range(1100):
            writers.append((await asyncio.open_connection("127.0.0.1", vault.port))[1])
        async with httpx2.AsyncClient(base_url=vault.url, timeout=PATIENCE, trust_env=False) as http:
            for path in ("/healthz", "/readyz", "/.well-known/oauth-authorization-server"):
                assert (await http.get(path)).status_code == 200, path
        assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < 1024
    finally:
        for writer in writers:
            writer.transport.abort()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await process.wait()

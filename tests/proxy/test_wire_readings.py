"""Raw bytes against the server and the proxy: each connection is read as by a strict reader, or refused.

`make fuzz` runs these with many more examples. The oracle is `tests.support.network.strict_http`, and
`tests.support.network.wire_bytes` makes the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from starlette.types import Receive, Scope, Send

from server.http.connections import ConnectionLimits
from tests.support.harness import free_socket, serve_app
from tests.support.network import strict_http, wire_bytes
from tests.support.rooms.proxy_room import proxy_room

_EXAMPLES = settings.default.max_examples if settings.default else 100
PATIENCE = 30.0  # seconds after which a connection that doesn't end counts as hung
DEADLINE = 0.15  # seconds that the server waits for the rest of a request
SHORT = settings(suppress_health_check=list(HealthCheck))
STARTS = (b"GET /a", b"POST /a", b"PUT /b?c=d", b"DELETE /b", b"OPTIONS /a", b"HEAD /a")
TARGETS = (
    *(b"/a", b"/b?c=d") * 4,
    *(
        b"/",
        b"//evil/a",
        b"/a/../b",
        b"/%2e%2e/b",
        b"http://HOST/abs",
        b"http://evil/abs",
        b"https://HOST/",
        b"ftp://HOST/a",
    ),
    *(b"HOST", b"*", b"?a", b"/a#b", b"/\xff", b"http://HOST", b"http:///a", b"http://HOST@evil/a", b"/a:80", b""),
)
KNOWN = {"GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"}


@dataclass
class Echo:
    """Counts the requests that it gets, by the client's port."""

    seen: dict[int, list[strict_http.ParsedRequest]] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        fields = tuple((name.decode(), value.decode("latin-1")) for name, value in scope["headers"])
        reading = strict_http.ParsedRequest(scope["method"], target.decode("latin-1"), fields, body)
        self.seen.setdefault(scope["client"][1], []).append(reading)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def talk(port: int, pieces: list[bytes]) -> tuple[int, bytes]:
    """Send, and read until the server ends the connection; returns our port and the answer. Raises TimeoutError."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        own: int = connection.getsockname()[1]
        said = bytearray()
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                if len(pieces) > 1:
                    time.sleep(0.001)  # otherwise the kernel may join them
            while part := connection.recv(65536):
                said += part
        return own, bytes(said)


def statuses(said: bytes) -> list[int]:
    return [int(line[9:12]) for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def _without_hop(one: strict_http.ParsedRequest) -> strict_http.ParsedRequest:
    """Leave `Connection` out: an upgrade that isn't made is removed from it."""
    return strict_http.ParsedRequest(
        one.method, one.target, tuple(pair for pair in one.fields if pair[0] != "connection"), one.body
    )


def judge(pieces: list[bytes], seen: list[strict_http.ParsedRequest], said: bytes) -> None:
    """The server saw what the bytes mean, from the first request on; correct requests were all seen."""
    data = b"".join(pieces)
    meant = strict_http.read(data)
    found = [_without_hop(one) for one in seen]
    expected = [_without_hop(one) for one in meant.requests]
    assert found == expected[: len(found)], (data, found, expected)
    assert not [status for status in statuses(said) if status >= 500], (data, said)
    is_refusable = _BLANK_IN_EXTENSION.search(data) is not None or any(
        one.method not in KNOWN or not _is_plain(one) for one in meant.requests
    )
    if meant.end in {"empty", "closed"} and not is_refusable:
        assert len(found) == len(expected), (data, found, expected, said)


# Bad whitespace, which a recipient must parse (RFC 9112 §7.1.1) but the parser refuses; nobody is misread because of
# that.
_BLANK_IN_EXTENSION = re.compile(rb"\n[0-9A-Fa-f]{1,15}[^\r\n]*(?:[ \t][;=]|[;=][ \t])")


def _is_plain(one: strict_http.ParsedRequest) -> bool:
    """Whether the parser accepts it: it refuses more than a strict reader must."""
    fields = dict(one.fields)
    return one.target.isascii() and fields.get("transfer-encoding", "chunked").lower() == "chunked"


def with_closing_request(pieces: list[bytes]) -> list[bytes]:
    """If everything is complete, add a last request that closes, so that the server needn't wait for more."""
    if strict_http.read(b"".join(pieces)).end == "empty":
        return [*pieces, b"GET /last HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"]
    return pieces


@asynccontextmanager
async def echo_server() -> AsyncGenerator[tuple[int, Echo]]:
    """A server with the product's protocol and only a counter behind it."""
    echo = Echo()
    with free_socket() as listening:
        async with serve_app(echo, listening, bounds=ConnectionLimits(head_time=DEADLINE, body_time=DEADLINE)):
            yield listening.getsockname()[1], echo


UPGRADED = b"POST /a HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n%s"
SMUGGLED = wire_bytes.SMUGGLED
TRAILER = b"Transfer-Encoding: chunked"


@pytest.mark.hypothesis  # marked so that make fuzz finds it, because the property is inside
async def test_every_connection_has_the_one_reading_of_a_strict_reader_or_is_refused() -> None:
    async with echo_server() as (port, echo):
        read = 0

        @SHORT
        @given(wire_bytes.connections(STARTS, TARGETS))
        @example((UPGRADED % (len(SMUGGLED), SMUGGLED), ()))
        @example((UPGRADED % (len(SMUGGLED), SMUGGLED), (700,)))
        @example((b"GET /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%s\r\n\r\n" % TRAILER, ()))
        @example((b"GET /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0; a=b\r\n\r\n", ()))
        @example((b"CONNECT HOST:80 HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\n" + SMUGGLED, ()))
        def check(connection: wire_bytes.Connection) -> None:
            pieces = with_closing_request(wire_bytes.pieces_of(connection, {b"HOST": b"localhost"}))
            is_whole = strict_http.read(b"".join(pieces)).end in {"empty", "closed"}
            for _ in range(10):
                started = time.monotonic()
                own, said = talk(port, pieces)
                seen = echo.seen.pop(own, [])
                if not is_whole or time.monotonic() - started < DEADLINE:
                    break  # otherwise the machine was too busy: a complete request waits for no deadline
            judge(pieces, seen, said)
            nonlocal read
            read += len(seen)

        await asyncio.to_thread(check)
        assert read > _EXAMPLES // 5  # enough of them were requests to be meaningful


@pytest.mark.parametrize("pause", [False, True], ids=["one packet", "two packets"])
@pytest.mark.parametrize("body", [b"", b"hello", SMUGGLED], ids=["without a body", "a body", "a request as body"])
async def test_an_upgrade_that_is_not_made_leaves_the_body_where_it_belongs(body: bytes, *, pause: bool) -> None:
    head, rest = (
        UPGRADED.partition(b"%s")[0] % len(body),
        body + b"GET /b HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
    )
    async with echo_server() as (port, echo):
        own, said = await asyncio.to_thread(talk, port, [head, rest] if pause else [head + rest])
    assert [(one.target, one.body) for one in echo.seen[own]] == [("/a", body), ("/b", b"")]
    assert statuses(said) == [200, 200]


CHUNKED = b"Host: HOST\r\nTransfer-Encoding: %s\r\nConnection: close\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("refused", "twin"),
    [
        (
            b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            b"OPTIONS /a HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n",
        ),
        (
            b"GET http://evil/a HTTP/1.1\r\nHost: HOST\r\n\r\n",
            b"GET http://host/a HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
        ),
        (b"GET ftp://HOST/a HTTP/1.1\r\nHost: HOST\r\n\r\n", b"GET http://HOST/a HTTP/1.0\r\nHost: HOST\r\n\r\n"),
        (b"GET http://HOST HTTP/1.1\r\nHost: HOST\r\n\r\n", b"GET http://HOST/?a HTTP/1.0\r\nHost: HOST\r\n\r\n"),
        (b"GET /a#b HTTP/1.1\r\nHost: HOST\r\n\r\n", b"GET /a%23b HTTP/1.0\r\nHost: HOST\r\n\r\n"),
        (b"GET * HTTP/1.1\r\nHost: HOST\r\n\r\n", b"OPTIONS * HTTP/1.0\r\nHost: HOST\r\n\r\n"),
        (b"GET /a HTTP/2.0\r\nHost: HOST\r\n\r\n", b"GET /a HTTP/1.0\r\nHost: HOST\r\n\r\n"),
        (b"GET /a\r\n\r\n", b"GET /a HTTP/1.0\r\n\r\n"),
        (b"POST /a HTTP/1.0\r\n" + CHUNKED % b"chunked", b"POST /a HTTP/1.1\r\n" + CHUNKED % b"chunked"),
        (b"POST /a HTTP/1.1\r\n" + CHUNKED % b"gzip, chunked", b"POST /a HTTP/1.1\r\n" + CHUNKED % b"Chunked"),
    ],
)
async def test_a_head_that_two_servers_could_read_differently_is_refused_with_400(refused: bytes, twin: bytes) -> None:
    async with echo_server() as (port, echo):
        for data, status in ((refused, 400), (twin, 200)):
            own, said = await asyncio.to_thread(talk, port, [data])
            assert statuses(said) == [status], (data, said)
            assert bool(echo.seen.get(own)) is (status == 200)


@dataclass
class Provider:
    """Accepts everything, reads it strictly, answers and closes. `arrived`: the bytes of each connection."""

    port: int
    arrived: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def provider_server() -> AsyncGenerator[Provider]:
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        raw = b""
        try:
            while part := await reader.read(65536):
                raw += part
                if strict_http.read(raw).end != "unfinished":
                    break
            provider.arrived.append(raw)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
            if not raw.startswith(b"HEAD "):
                writer.write(b"{}")
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            running.discard(task)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    provider = Provider(int(listening.sockets[0].getsockname()[1]))
    try:
        yield provider
    finally:
        listening.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await listening.wait_closed()


@pytest.mark.long
@pytest.mark.hypothesis
async def test_a_provider_gets_the_very_requests_that_a_strict_reader_finds(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    async with provider_server() as provider, proxy_room(data, apis_at=f"http://127.0.0.1:{provider.port}") as room:
        handle = await room.ready()
        port = int(handle.vault.url.rpartition(":")[2])
        base = f"/proxy/{handle.connection.id}/web".encode()
        paths = (
            b"/conversations.list",
            b"/chat.postMessage",
            b"/conversations.list?limit=1",
            b"/chat.delete",
            b"/a//b",
        )
        targets = (
            *[base + path for path in paths] * 3,
            b"http://HOST" + base + paths[0],
            b"http://evil" + base + paths[0],
        )
        starts = tuple(method + base + path for method, path in zip((b"GET ", b"POST ") * 2, paths, strict=False))
        line = b"Authorization: Bearer " + handle.value.encode()

        passed: list[tuple[str, str, bytes]] = []
        meant: dict[str, list[tuple[str, str, bytes]]] = {}  # by the connection's tag

        def requests_by_tag() -> dict[str, list[tuple[str, str, bytes]]]:
            """What the provider reads in each of its connections, by tag."""
            found: dict[str, list[tuple[str, str, bytes]]] = {}
            for raw in list(provider.arrived):
                read = strict_http.read(raw)
                assert (len(read.requests), read.end) in {
                    (1, "empty"),
                    (1, "closed"),
                    (0, "empty"),
                    (0, "unfinished"),
                }, raw
                for one in read.requests:
                    call = (one.method, one.target.removeprefix("/slack"), one.body)
                    agent = re.match(
                        r"connection-[0-9]+", dict(one.fields)["user-agent"]
                    )  # the tag may be followed directly by other text
                    assert agent is not None, raw
                    found.setdefault(agent[0], []).append(call)
            return found

        def judge_calls(tag: str, got: list[tuple[str, str, bytes]]) -> None:
            """They are in order, and none is invented; missing ones were refused."""
            left = iter(meant[tag])
            assert all(one in left for one in got), (tag, got, meant[tag])

        @settings(SHORT, max_examples=_EXAMPLES // 2)
        @given(wire_bytes.connections(starts, targets, (line, b"Content-Type: text/plain", b"User-Agent: TAG")))
        @example(((UPGRADED % (len(SMUGGLED), SMUGGLED)).replace(b"/a", base + paths[1]), (700,)))
        def check(connection: wire_bytes.Connection) -> None:
            tag = f"connection-{len(meant)}"
            names = {b"HOST": f"localhost:{port}".encode(), b"TAG": tag.encode()}
            pieces = with_closing_request(wire_bytes.pieces_of(connection, names))
            if strict_http.read(b"".join(pieces)).end == "unfinished":
                pieces = [*pieces, b"\x00"]  # refused at once, since the vault's own deadline is longer than a test
            readings = strict_http.read(b"".join(pieces))
            ours = [one for one in readings.requests if one.target.startswith(base.decode())]
            meant[tag] = [(one.method, one.target.removeprefix(base.decode()), one.body) for one in ours]
            if readings.end == "unfinished":
                return
            _, said = talk(port, pieces)
            assert not [status for status in statuses(said) if status >= 500 and status != 501], (pieces, said)
            got = requests_by_tag().get(tag, [])
            judge_calls(tag, got)
            passed.extend(got)
            provider.arrived[:] = [
                one for one in provider.arrived if re.search(rb"%s(?![0-9])" % tag.encode(), one) is None
            ]

        await asyncio.to_thread(check)
        for (
            tag,
            got,
        ) in requests_by_tag().items():  # requests that were answered although their connection was later refused
            judge_calls(tag, got)
        assert len(passed) > _EXAMPLES // 25  # enough reached the provider to be meaningful
        answer = await handle.call("GET", "/conversations.list")
        assert answer.status_code == 200

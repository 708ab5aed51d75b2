"""A real HTTP server on loopback that misbehaves as scripted, and counts what arrives.

It acts as a provider in tests.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, urlsplit

from providers.definitions.catalog import Provider, ProviderOverrides, load_catalog


@dataclass(frozen=True)
class Arrival:
    """One request as it was read from the socket."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    certificate: bytes | None = None  # the client's, DER

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {
            name: values[-1] for name, values in parse_qs(urlsplit(self.target).query, keep_blank_values=True).items()
        }

    @property
    def form(self) -> dict[str, str]:
        return _last(self.body.decode())

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)


def _last(text: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}


@dataclass(frozen=True)
class Reply:
    """What to answer. `raw`: exactly these bytes instead; `close`: before answering; `hang`: forever."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    close: bool = False
    hang: bool = False
    stall: bool = False  # send `body`, then hang
    claimed_length: int | None = None


def json_reply(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A JSON answer."""
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})


Answer = Callable[[Arrival], Reply]


@dataclass
class ScriptedServer:
    """Where it listens, what arrived, and the number of connections; `answer` may be changed at any time."""

    url: str
    port: int
    answer: Answer
    arrivals: list[Arrival] = field(default_factory=list)
    connections: int = 0

    def count_arrivals(self, method: str) -> int:
        return sum(1 for arrival in self.arrivals if arrival.method == method)

    @property
    def log(self) -> str:
        """Everything that arrived, as one text."""
        return "\n".join(f"{a.method} {a.target} {dict(a.headers)} {a.body!r}" for a in self.arrivals)


@asynccontextmanager
async def scripted_server(answer: Answer, *, tls: ssl.SSLContext | None = None) -> AsyncGenerator[ScriptedServer]:
    """Serve until the block ends."""
    ended = asyncio.Event()
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        server.connections += 1
        try:
            tls_of = writer.get_extra_info("ssl_object")
            shown = None if tls_of is None else tls_of.getpeercert(binary_form=True)
            while (arrival := await _read(reader)) is not None:
                arrival = replace(arrival, certificate=shown)
                server.arrivals.append(arrival)
                reply = server.answer(arrival)
                if reply.hang:
                    await ended.wait()
                if reply.hang or reply.close:
                    break
                writer.write(_reply_bytes(reply, arrival))
                await writer.drain()
                if reply.stall:
                    await ended.wait()
                if reply.claimed_length is not None or reply.raw is not None:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            running.discard(task)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = int(listening.sockets[0].getsockname()[1])
    server = ScriptedServer(f"{'https' if tls else 'http'}://127.0.0.1:{port}", port, answer)
    try:
        yield server
    finally:
        ended.set()
        listening.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await listening.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Arrival | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Arrival(method, target, headers, body)


def _reply_bytes(reply: Reply, arrival: Arrival) -> bytes:
    if reply.raw is not None:
        return reply.raw
    length = len(reply.body) if reply.claimed_length is None else reply.claimed_length
    lines = [f"HTTP/1.1 {reply.status} X", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    body = b"" if arrival.method == "HEAD" else reply.body
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def provider_at(name: str, url: str, *, secret: str | None = "client-secret-canary") -> Provider:
    """A built-in provider with all its URLs at a scripted server, and our registration there."""
    return providers_at([name], url, secret=secret)[name]


def providers_at(
    names: Collection[str], url: str, *, secret: str | None = "client-secret-canary"
) -> Mapping[str, Provider]:
    """Several of them; the files are read only once."""
    catalog = load_catalog()
    moved = load_catalog(overrides={name: _overrides_at(catalog.provider(name), url, secret) for name in names})
    return {name: moved.provider(name) for name in names}


def _overrides_at(shipped: Provider, url: str, secret: str | None) -> ProviderOverrides:
    return ProviderOverrides(
        client_id="our-client",
        client_secret=secret,
        authorize_url=f"{url}/authorize",
        token_url=f"{url}/token",
        refresh_url=None if shipped.hosts.refresh_url is None else f"{url}/token",
        revoke_url=f"{url}/revoke",
        userinfo_url=f"{url}/userinfo",
        long_lived_url=None if shipped.long_lived is None else f"{url}/longer",
        apis={key: f"{url}/{key}" for key in shipped.apis},
    )

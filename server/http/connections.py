"""Limits on a connection before its request is complete: time, bytes of head and framing, and slots.

These apply before the caller is known. A complete request is never cut off, so event streams and long polling aren't
limited. `server.runtime.uvicorn_server` serves; `server.http.guards` limits the size of bodies.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, Final

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from server.errors import status_of
from server.http.addresses import counting_key, parse_address
from server.http.joined_writes import JoinedWrites

if sys.platform == "win32":  # Windows has no such limit
    RLIMIT_NOFILE: Final = 0

    def getrlimit(resource: int) -> tuple[int, int]:
        """No limit."""
        return 0, 0
else:
    from resource import RLIMIT_NOFILE, getrlimit

BODY_RATE: Final = 16 * 1024  # bytes a second
LINGER: Final = 5.0  # seconds for a client to read the answer before its connection is reset
LINE: Final = 16 * 1024  # bytes of a request line, a header line, or the framing of chunks
HEAD: Final = 64 * 1024  # bytes of all of them together
FRAMING_PER_BYTE: Final = 8  # of a chunked body: "1\r\nx\r\n" is five
PIPELINED: Final = 16  # requests that wait behind the one being answered
MOST: Final = 10_000
_SPARE_FILES: Final = 256  # reserved for databases, providers, and the accept loop
_RESERVED: Final = 16  # one slot in this many is reserved for this machine and the proxies: health checks, the owner
_PAUSE: Final = 1.0
_REFUSALS: Final = {
    "unreadable_request": "The request can't be read.",
    "slow_request": "The request didn't arrive in time.",
    "long_request_line": "The request line is too long.",
    "long_header_section": "The headers are too long.",
}
logger = logging.getLogger("token_vault.connections")


def capacity(files: int | None = None) -> int:
    """How many connections fit into this process's open files (`ulimit -n`)."""
    if files is None:
        files = getrlimit(RLIMIT_NOFILE)[0]
    return MOST if files <= 0 else max(16, min(MOST, files - min(_SPARE_FILES, files // 2)))


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits on connections. Times are in seconds.

    `total` and `per_address`: how many may be open at once; `proxies`: addresses that each stand for many people.
    """

    total: int = field(default_factory=capacity)
    per_address: int = 200
    proxies: tuple[str, ...] = ()
    head_time: float = 10.0  # from the start of waiting to the end of the head
    body_time: float = 30.0  # for a body, plus one for each BODY_RATE bytes received

    def is_near(self, address: str) -> bool:
        """Whether many people may be behind the address: this machine, or a proxy that the settings name."""
        return _is_near(address, self.proxies)


@lru_cache(maxsize=1024)  # parsing the proxies' networks takes each connection 25 us
def _is_near(address: str, proxies: tuple[str, ...]) -> bool:
    peer = parse_address(address)
    if peer is None:
        return True  # a Unix socket of this machine
    return peer.is_loopback or any(peer in ip_network(proxy, strict=False) for proxy in proxies)


class Connections:
    """The open connections of one listener; those that wait for the rest of a request are kept in order."""

    def __init__(self, bounds: ConnectionLimits) -> None:
        self.bounds = bounds
        self._open: dict[str, int] = {}  # by `counting_key`
        self._total = 0
        self._waiting: dict[BoundedProtocol, None] = {}

    def __len__(self) -> int:
        return self._total

    def admit(self, one: BoundedProtocol, *, address: str) -> bool:
        """Give the connection a slot, if necessary by closing the one that has kept the server waiting longest."""
        bounds, near = self.bounds, self.bounds.is_near(address)
        one.counted, one.is_near = counting_key(address), near
        is_crowd = not near and self._open.get(one.counted, 0) >= bounds.per_address
        if is_crowd and not self._end_one(other for other in self._waiting if other.counted == one.counted):
            return False
        is_full = self._total >= (bounds.total if near else bounds.total - bounds.total // _RESERVED)
        if is_full and not self._end_one(other for other in self._waiting if near or not other.is_near):
            return False
        self._total += 1
        self._open[one.counted] = self._open.get(one.counted, 0) + 1
        self._waiting[one] = None
        one.is_admitted = True
        return True

    def leave(self, one: BoundedProtocol) -> None:
        """The connection has ended."""
        if not one.is_admitted:
            return
        one.is_admitted = False
        self._waiting.pop(one, None)
        self._total -= 1
        left = self._open[one.counted] - 1
        if left:
            self._open[one.counted] = left
        else:
            del self._open[one.counted]

    def wait(self, one: BoundedProtocol) -> None:
        """Mark the connection as waiting, so that it can be closed if slots are scarce."""
        if one.is_admitted:
            self._waiting[one] = None

    def work(self, one: BoundedProtocol) -> None:
        """Stop counting the connection as waiting: its request is complete and is being answered."""
        self._waiting.pop(one, None)

    def _end_one(self, others: Iterator[BoundedProtocol]) -> bool:
        oldest = next(others, None)
        if oldest is None:
            return False
        self.leave(oldest)
        oldest.transport.abort()
        return True


class _HeadRefused(Exception):
    """Stops the parser; the client already has the answer."""


_Fields = Sequence[tuple[bytes, bytes]]


def _is_ambiguous(method: bytes, target: bytes, version: str, fields: _Fields) -> bool:
    """Whether a head is ambiguous, or asks for something that none of our servers supports.

    RFC 9112 §3.2: the target must be a path, or name the same host as the Host field; this server isn't a proxy. §6.1:
    the only coding is `chunked`, which HTTP/1.0 doesn't have. Some parsers accept other versions (§2.3) as HTTP/1.
    """
    if method == b"CONNECT" or version not in {"1.0", "1.1"} or b"#" in target:
        return True
    for name, value in fields:
        if name == b"transfer-encoding" and (version == "1.0" or value.lower() != b"chunked"):
            return True
    if target.startswith(b"/"):
        return False
    if target == b"*":
        return method != b"OPTIONS"
    scheme, _, there = target.partition(b"://")
    hosts = [value.lower() for name, value in fields if name == b"host"]
    return scheme.lower() not in {b"http", b"https"} or hosts != [re.split(rb"[/?]", there, maxsplit=1)[0].lower()]


def _without_upgrade(method: bytes, target: bytes, version: str, fields: _Fields) -> bytes:
    """The same head without `upgrade` in `Connection` (RFC 9110 §7.8: a server may ignore it)."""
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    for name, value in fields:
        if name == b"connection":
            kept = [part for part in value.split(b",") if part.strip().lower() != b"upgrade"]
            lines += [b"connection:" + b",".join(kept)] if kept else []
        else:
            lines.append(name + b":" + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration with the connections of one listener."""

    open_connections: Connections


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with deadlines and limits; uvicorn has none before a request reaches the application.

    Drops trailers: they aren't headers (RFC 9110 §6.5.1), and must not be mistaken for a header that was checked or
    that a proxy in front has set.

    Refuses a head that a proxy in front could read differently. Ignores upgrades: the parser would take the body of an
    upgrade request as the next request, so it parses the head again without `upgrade`.
    """

    def __init__(
        self,
        config: BoundedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],  # uvicorn's type
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.counted = ""
        self.is_near = False
        self.is_admitted = False
        self._neighbors = config.open_connections
        self._bounds = config.open_connections.bounds
        self._timer: asyncio.TimerHandle | None = None
        self._is_in_head = True
        self._since = self.loop.time()  # when the head or body began
        self._head = 0  # bytes of this head so far
        self._line = 0  # bytes of its last line so far
        self._raw = 0  # bytes received for this body, with framing
        self._body = 0  # bytes of them that are the body's
        self._plain_head: bytes | None = None  # the head of an upgrade request, without `upgrade`

    # Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a slot, or close the connection immediately."""
        super().connection_made(transport)
        self.transport = JoinedWrites(transport, self.loop)
        if self._neighbors.admit(self, address="" if self.client is None else self.client[0]):
            self._expect()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the slot."""
        self._neighbors.leave(self)
        self._stop_timer()
        super().connection_lost(exc)

    # Incoming data

    def data_received(self, data: bytes) -> None:
        """Parse in pieces of at most LINE bytes, so that only the current line can become too long in one piece."""
        self._unset_keepalive_if_required()
        for start in range(0, len(data), LINE):
            self._take(data if len(data) <= LINE else data[start : start + LINE])
            if self.transport.is_closing():
                return

    def _take(self, data: bytes) -> None:
        if self._is_in_head:
            if self._timer is None:
                self._since = self.loop.time()
            end = data.find(b"\n")
            if self._line + (len(data) if end < 0 else end) > LINE:
                self._refuse("long_request_line" if self._head == self._line else "long_header_section")
                return
            self._line = self._line + len(data) if end < 0 else len(data) - data.rfind(b"\n") - 1
            self._head += len(data)
            if self._head > HEAD + LINE:  # the exact size is checked at the end of the head
                self._refuse("long_header_section")
                return
        else:
            self._raw += len(data)
        if self.parser is None:  # pyright: ignore[reportUnnecessaryComparison] -- the connection is gone
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse("unreadable_request")
            return
        except httptools.HttpParserUpgrade as upgrade:
            self._read_plainly(data[upgrade.args[0] :])
            return
        if self.transport.is_closing():
            return
        if not self._is_in_head and self._raw > LINE + (1 + FRAMING_PER_BYTE) * self._body:
            self._refuse("unreadable_request")
        elif self._head or not self._is_in_head:
            self._expect()

    def _read_plainly(self, rest: bytes) -> None:
        """Parse the head of an upgrade request again without `upgrade`, and then the data that follows it."""
        head, self._plain_head = self._plain_head or b"", None
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserError:
            self._refuse("unreadable_request")
            return
        if rest and not self.transport.is_closing():
            self._take(rest)
        elif not self._is_in_head:
            self._expect()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; ignore a trailer."""
        if self._is_in_head:
            super().on_header(name, value.strip(b" \t"))  # RFC 9110 §5.5; the parser keeps trailing blanks

    def on_headers_complete(self) -> None:
        """Check the head before the body arrives. An exception stops the parser."""
        if self._head > HEAD and len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers) > HEAD:
            self._refuse("long_header_section")  # body bytes received with it do not count
            raise _HeadRefused
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if len(self.pipeline) >= PIPELINED or _is_ambiguous(method, self.url, version, self.headers):
            self._refuse("unreadable_request")
            raise _HeadRefused
        if self.parser.should_upgrade():
            self._plain_head = _without_upgrade(method, self.url, version, self.headers)
            return
        super().on_headers_complete()
        self._is_in_head = False
        self._head = self._line = self._raw = self._body = 0
        self._since = self.loop.time()

    def on_body(self, body: bytes) -> None:
        """Count a piece of the body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the deadline: the request is complete, and its answer has no time limit here."""
        if self._plain_head is not None:
            return
        self._is_in_head = True
        self._stop_timer()
        self._neighbors.work(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Count the connection as idle, unless another request has already arrived."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._end()
        elif self._is_in_head and not self._is_answering():
            self._neighbors.wait(self)

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, even if the client hasn't read the last answer."""
        self._end()

    # Deadlines

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison] -- None until the first request

    def _expect(self) -> None:
        """Set the deadline for the rest of a head or body."""
        if self._timer is None:
            self._timer = self.loop.call_at(self._deadline(), self._look)
            if not (self._is_in_head and self._is_answering()):
                self._neighbors.wait(self)

    def _deadline(self) -> float:
        if self._is_in_head:
            return self._since + self._bounds.head_time
        return self._since + self._bounds.body_time + self._body / BODY_RATE

    def _look(self) -> None:
        self._timer, now = None, self.loop.time()
        if self._is_in_head and self._is_answering():  # bytes behind a request that is still being answered
            self._since = now
        elif not self._is_in_head and self.flow.read_paused:  # the application is slower than the client
            self._since += _PAUSE
        if now >= self._deadline():
            self._refuse("slow_request")
        else:
            self._timer = self.loop.call_at(max(self._deadline(), now + _PAUSE), self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Closing

    def _refuse(self, kind: str) -> None:
        """End the connection, and send the reason if a request has begun and its answer hasn't."""
        if self.transport.is_closing():
            return
        is_first = not self._is_answering()
        if (self._is_in_head and is_first and self._head) or (not self._is_in_head and not self._has_answered()):
            message = _REFUSALS[kind].encode()
            self.transport.write(
                STATUS_LINE[status_of(kind)]
                + b"content-type: text/plain; charset=utf-8\r\ncache-control: no-store\r\nconnection: close\r\n"
                + b"content-length: %d\r\n\r\n%s" % (len(message), message)
            )
        if not is_first:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        logger.debug("connection ended", extra={"status": status_of(kind)})
        self._end()

    def _has_answered(self) -> bool:
        return self.cycle.response_started

    def _end(self) -> None:
        """Close the connection, and reset it if the client doesn't read the rest in time."""
        self._stop_timer()
        self.transport.close()
        self.loop.call_later(LINGER, self.transport.abort)

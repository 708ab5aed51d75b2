"""What every request must pass before any route sees it: Origin, Host, body size. Pure header checks, in that order.

Refuses foreign browsers (DNS rebinding, CSRF) and oversized bodies before a byte of them is read, on all routes alike.
It also answers CORS preflights of the origins that are allowed. Who the caller is, is decided later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.cors import is_cross_origin_path
from server.http.fast_routes import PROXY
from server.settings import LOOPBACK_HOSTS, Settings

BODY_LIMIT: Final = 4 * 1024 * 1024  # bytes
_DRAIN_LIMIT: Final = 64 * 1024 * 1024  # bytes thrown away after a chunked body passed the limit
_DRAIN_TIMEOUT: Final = 2.0  # seconds
# A page of ours that sends no referrer posts its forms with `Origin: null`; these paths have no forms, so never there.
_FORMLESS: Final = ("/mcp", "/sse", "/messages")
_ALLOWED_METHODS: Final = b"GET, POST, DELETE, OPTIONS"
_EXPOSED_HEADERS: Final = b"WWW-Authenticate, Mcp-Session-Id, DPoP-Nonce"


@dataclass(frozen=True, slots=True)
class GuardRules:
    """Which hosts this deployment answers to and which browser origins may call it."""

    hosts: frozenset[str]  # lower case, as in the Host header
    origins: frozenset[str]
    any_loopback_port: bool
    body_limit: int = BODY_LIMIT
    proxied_limit: int = BODY_LIMIT  # below /proxy/: other people's APIs take files

    @classmethod
    def from_settings(cls, settings: Settings) -> GuardRules:
        """The public URL and what the operator added; on loopback its three names with any port."""
        public = urlsplit(settings.public_url)
        return cls(
            hosts=frozenset(_with_default_port((public.netloc, *settings.server.allowed_hosts), public.scheme)),
            origins=frozenset({settings.public_url.lower(), *(o.lower() for o in settings.server.allowed_origins)}),
            any_loopback_port=settings.is_loopback,
            proxied_limit=settings.proxy.body_limit,
        )

    def limit_of(self, path: str) -> int:
        """How long a body may be, in bytes."""
        return self.proxied_limit if path.startswith(PROXY) else self.body_limit

    def allows_host(self, host: str) -> bool:
        """Whether the Host header is one of ours."""
        return host in self.hosts or (self.any_loopback_port and _without_port(host) in LOOPBACK_HOSTS)

    def allows_origin(self, origin: str) -> bool:
        """Whether a browser page of this origin may call. Loopback names of one vault are one origin."""
        if origin in self.origins:
            return True
        if not self.any_loopback_port:
            return False
        parts = urlsplit(origin)
        own_ports = {urlsplit(known).port for known in self.origins}
        is_bare = origin == f"{parts.scheme}://{parts.netloc}"
        return is_bare and parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS and _port(origin) in own_ports


def _port(origin: str) -> int | None:
    try:
        return urlsplit(origin).port
    except ValueError:
        return -1


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _with_default_port(hosts: Iterable[str], scheme: str) -> Iterable[str]:
    default = ":443" if scheme == "https" else ":80"
    for host in hosts:
        yield host.lower()
        if _without_port(host) == host:
            yield host.lower() + default


class Guards:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, rules: GuardRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _collect(scope)
        origin = _origin_refused(headers, scope["path"], self._rules)
        if origin is not None:
            await _refuse(send, 403, origin)
        elif not _has_known_host(headers, self._rules):
            await _refuse(send, 421, "this server does not answer to that Host: see server.allowed_hosts")
        elif _announces_too_much(headers, self._rules.limit_of(scope["path"])):
            await _refuse(send, 413, _too_large(self._rules.limit_of(scope["path"])))
        else:
            await self._pass(scope, receive, send, headers)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, list[bytes]]) -> None:
        allowed = headers.get(b"origin", [b""])[0]
        if allowed and allowed != b"null" and not is_cross_origin_path(scope["path"]):
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await _preflight(send, allowed, headers.get(b"access-control-request-headers", [b""])[0])
                return
            send = _with_cors(send, allowed)
        if b"transfer-encoding" not in headers:  # the server enforces a Content-Length by itself
            with contextlib.suppress(ClientDisconnect):  # what a route makes of a client that left: no failure of ours
                await self._app(scope, receive, send)
            return
        bounded = _BoundedBody(receive, send, limit=self._rules.limit_of(scope["path"]))
        with contextlib.suppress(ClientDisconnect):  # or of a body that we ended
            await self._app(scope, bounded.receive, bounded.send)
        await bounded.finish()


def _collect(scope: Scope) -> dict[bytes, list[bytes]]:
    """Header values by lower-case name; repeated headers stay visible."""
    out: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        out.setdefault(name, []).append(value)
    return out


def _origin_refused(headers: dict[bytes, list[bytes]], path: str, rules: GuardRules) -> str | None:
    """Why the Origin is refused, or None. MCP 2025-11-25 Streamable HTTP: servers MUST validate it."""
    values = headers.get(b"origin")
    if values is None or is_cross_origin_path(path):  # those answer without credentials, to browser clients too
        return None
    if len(values) == 1:
        origin = values[0].decode("latin-1").lower()
        if rules.allows_origin(origin):
            return None
        # Browsers set Sec-Fetch-Site themselves: a sandboxed or foreign page says cross-site beside its null origin.
        is_own_form = origin == "null" and headers.get(b"sec-fetch-site") == [b"same-origin"]
        if is_own_form and not path.startswith(_FORMLESS):
            return None
    return "this Origin may not call: see server.allowed_origins"


def _has_known_host(headers: dict[bytes, list[bytes]], rules: GuardRules) -> bool:
    values = headers.get(b"host", [])
    return len(values) == 1 and rules.allows_host(values[0].decode("latin-1").lower())


def _announces_too_much(headers: dict[bytes, list[bytes]], limit: int) -> bool:
    for value in headers.get(b"content-length", []):
        if not value.isdigit() or len(value) > 12 or int(value) > limit:
            return True
    return False


def _too_large(limit: int) -> str:
    return f"the request body is larger than {limit // 1024 // 1024} MiB"


async def _refuse(send: Send, status: int, message: str) -> None:
    body = message.encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"no-store"),
                (b"content-security-policy", b"sandbox"),
                (b"x-content-type-options", b"nosniff"),
                (b"connection", b"close"),  # an unread body would be taken for the next request
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _preflight(send: Send, origin: bytes, wanted: bytes) -> None:
    headers = [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", _ALLOWED_METHODS),
        (b"access-control-allow-headers", wanted if len(wanted) < 1024 and b"\n" not in wanted else b""),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Origin"),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _with_cors(send: Send, origin: bytes) -> Send:
    async def add_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _EXPOSED_HEADERS),
                (b"vary", b"Origin"),
            ]
        await send(message)

    return add_headers


class _BoundedBody:
    """A chunked body that ends the request with 413 as soon as it passes the limit, whatever the route makes of it."""

    def __init__(self, receive: Receive, send: Send, *, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._left = limit
        self._is_started = False
        self._is_over = False

    async def receive(self) -> Message:
        if self._is_over:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self._is_over = True
                await self._drain(message)
                await self.finish()
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self._is_over:
            return
        self._is_started = self._is_started or message["type"] == "http.response.start"
        await self._send(message)

    async def _drain(self, message: Message) -> None:
        """Throw away some more: closing on a client that still writes would reset the answer away with it."""
        left = _DRAIN_LIMIT
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                while left > 0 and message["type"] == "http.request" and message.get("more_body", False):
                    message = await self._receive()
                    left -= len(message.get("body", b""))

    async def finish(self) -> None:
        """Answer 413 if the limit was passed and nothing was answered yet."""
        if self._is_over and not self._is_started:
            self._is_started = True
            await _refuse(self._send, 413, _too_large(self._limit))

"""Checks that every request must pass before it reaches a route: Origin, Host, and body size. Pure header checks, in
that order.

Refuses foreign browser pages (DNS rebinding, CSRF) and oversized bodies before reading them, on all routes. It
also knows the origins whose pages may read answers without a named client. `server.http.edge` calls these in order; the
caller is identified later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.types import Message, Receive, Scope, Send

from server.errors import status_of
from server.http import cors
from server.http.answers import WholeAnswer, is_start, text_answer
from server.http.bodies import drain
from server.http.cors import is_cross_origin_path
from server.settings import LOOPBACK_HOSTS, Settings

PROXY: Final = ("/proxy/", "/upload/")
BODY_LIMIT: Final = 4 * 1024 * 1024  # bytes
# Our own pages send no referrer and post forms with `Origin: null`. These paths have no forms, so they refuse null.
_FORMLESS: Final = ("/mcp", "/sse", "/messages")
# Kubernetes and many load balancers probe by address and can't send another Host. The answer is the same for everyone.
_PROBE: Final = "/readyz"
_ALLOWED_METHODS: Final = ("GET", "POST", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True)
class GuardRules:
    """Which hosts this deployment answers to and which browser origins may call it."""

    hosts: frozenset[str]  # lower case, as in the Host header
    origins: frozenset[str]
    any_loopback_port: bool
    body_limit: int = BODY_LIMIT

    @classmethod
    def from_settings(cls, settings: Settings) -> GuardRules:
        """The public URL and the operator's additions; on loopback, the three loopback names with any port."""
        public = urlsplit(settings.public_url)
        return cls(
            hosts=frozenset(_with_default_port((public.netloc, *settings.server.allowed_hosts), public.scheme)),
            origins=frozenset({settings.public_url.lower(), *(o.lower() for o in settings.server.allowed_origins)}),
            any_loopback_port=settings.is_loopback,
        )

    def limit_of(self, path: str) -> int | None:
        """The maximum length of a body, in bytes; None for the proxy, which refuses in its callers' own formats."""
        return None if path.startswith(PROXY) else self.body_limit

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


HeaderValues = Mapping[bytes, Sequence[bytes]]


def collect(scope: Scope) -> HeaderValues:
    """Header values by lower-case name; repeated headers stay visible."""
    out: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        out.setdefault(name, []).append(value)
    return out


def refusal(path: str, headers: HeaderValues, rules: GuardRules) -> WholeAnswer | None:
    """The refusal of the request, as an answer; None if it passes."""
    origin = _origin_refusal(headers, path, rules)
    if origin is not None:
        return _refuse("origin_not_allowed", origin)
    if not (_has_known_host(headers, rules) or (path == _PROBE and not rules.any_loopback_port)):
        return _refuse("unknown_host", "this server doesn't accept that Host header: see server.allowed_hosts")
    limit = rules.limit_of(path)
    return _too_large(limit) if limit is not None and _announces_too_much(headers, limit) else None


def allowed_origin(path: str, headers: HeaderValues) -> bytes | None:
    """The origin of a page that may read the answer, if `refusal` passed it; None for any other caller."""
    origin = headers.get(b"origin", (b"null",))[0]
    return None if origin in {b"", b"null"} or is_cross_origin_path(path) else origin


def preflight(scope: Scope, headers: HeaderValues, origin: bytes) -> WholeAnswer | None:
    """The answer to a preflight of a page from `origin`; None for other requests."""
    if scope["method"] != "OPTIONS" or b"access-control-request-method" not in headers:
        return None
    wanted = headers.get(b"access-control-request-headers", (b"",))[0]
    is_plain = len(wanted) < 1024 and b"\n" not in wanted
    return cors.preflight(
        origin.decode("latin-1"), methods=_ALLOWED_METHODS, headers=wanted.decode("latin-1") if is_plain else ""
    )


def _origin_refusal(headers: HeaderValues, path: str, rules: GuardRules) -> str | None:
    """Why the Origin is refused, or None. MCP 2025-11-25 Streamable HTTP: servers MUST validate it."""
    values = headers.get(b"origin")
    if values is None or is_cross_origin_path(path):  # these paths answer browser clients too, without credentials
        return None
    if len(values) == 1:
        origin = values[0].decode("latin-1").lower()
        if rules.allows_origin(origin):
            return None
        # Browsers set Sec-Fetch-Site themselves: a sandboxed or foreign page sends cross-site with its null origin.
        is_own_form = origin == "null" and headers.get(b"sec-fetch-site") == [b"same-origin"]
        if is_own_form and not path.startswith(_FORMLESS):
            return None
    return "this origin isn't allowed: see server.allowed_origins"


def _has_known_host(headers: HeaderValues, rules: GuardRules) -> bool:
    values = headers.get(b"host", [])
    return len(values) == 1 and rules.allows_host(values[0].decode("latin-1").lower())


def _announces_too_much(headers: HeaderValues, limit: int) -> bool:
    for value in headers.get(b"content-length", []):
        if not value.isdigit() or len(value) > 12 or int(value) > limit:
            return True
    return False


def _too_large(limit: int) -> WholeAnswer:
    return _refuse("body_too_large", f"the request body is larger than {limit // 1024} KiB")


def _refuse(name: str, message: str) -> WholeAnswer:
    # an unread body would be parsed as the next request
    return text_answer(message, status_of(name), [(b"connection", b"close")])


class BoundedBody:
    """A chunked body that ends the request with 413 once it passes the limit, whatever the route does with it."""

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
                if message.get("more_body", False):
                    await drain(self._receive)
                await self.finish()
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self._is_over:
            return
        self._is_started = self._is_started or is_start(message)
        await self._send(message)

    async def finish(self) -> None:
        """Send 413 if the limit was exceeded and no answer has started."""
        if self._is_over and not self._is_started:
            self._is_started = True
            await _too_large(self._limit).write(self._send)

"""The entry point of every request, where it gets an ID, is counted and checked, and is passed to its endpoint.

Busy endpoints and the proxy are called directly, past the web framework's layers and routes, which cost 15 to 40 us a
call; the framework keeps the same routes for look-ups. `server.http.guards` has the checks, `server.http.draining` what
a process still has to finish.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http import cors, failures, guards, request_ids
from server.http.answers import with_headers
from server.http.draining import CallInFlight, Drain, EndableStream, is_stream_request
from server.http.guards import PROXY, BoundedBody, GuardRules
from vault.spans import CALLER_ADDRESS, REQUEST_ID

_BUSY: Final = frozenset({"/mcp", "/mcp/", "/token", "/token/", "/oauth/token"})


class Edge:
    """ASGI: the whole application. `framework` has all routes; the busy paths and `proxy` are called directly.

    `takes_ids`: accept the requests' own ids; `server.http.addresses` keeps only those from trusted proxies.
    """

    def __init__(
        self, framework: ASGIApp, rules: GuardRules, drain: Drain, *, proxy: ASGIApp, takes_ids: bool = False
    ) -> None:
        self._framework = framework
        self._rules = rules
        self._drain = drain
        self._direct: dict[str, ASGIApp] = {}
        self._takes_ids = takes_ids
        self.proxy = proxy

    def call_directly(self, routes: Iterable[BaseRoute]) -> None:
        """From now on, call the busy ones of these routes directly, without the framework."""
        self._direct |= {route.path: route.app for route in routes if isinstance(route, Route) and route.path in _BUSY}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._framework(scope, receive, send)
            return
        identity = request_ids.request_id(scope, takes_given=self._takes_ids)
        reset = REQUEST_ID.set(identity)
        peer = CALLER_ADDRESS.set((scope["client"] or ("",))[0])
        try:
            with self._drain.call() as call:
                answer = request_ids.NamedAnswer(send, identity)
                channels = _Channels(receive, answer.send)
                app = self._admit(scope, channels, call)
                try:
                    await app(scope, channels.receive, channels.send)
                except ClientDisconnect:  # the client closed, or we ended the body
                    pass
                except Exception as error:  # the outermost handler
                    if answer.has_begun:  # cut off the answer, so that no client takes it for complete
                        raise
                    await failures.answer(error, scope, channels.receive, channels.send)
                for layer in reversed(channels.layers):
                    await layer.finish()
        finally:
            CALLER_ADDRESS.reset(peer)
            REQUEST_ID.reset(reset)

    def _admit(self, scope: Scope, channels: _Channels, call: CallInFlight) -> ASGIApp:
        """Answer with a guard or the endpoint, with channels limited as needed for the request."""
        path: str = scope["path"]
        headers = guards.collect(scope)
        if is_stream_request(scope):  # a stream learns when the process ends
            channels.add(EndableStream(channels.receive, channels.send, self._drain.over, on_stream=call.leave))
        if (refused := guards.refusal(path, headers, self._rules)) is not None:
            return refused
        if (origin := guards.allowed_origin(path, headers)) is not None:
            if (preflight := guards.preflight(scope, headers, origin)) is not None:
                return preflight
            channels.send = with_headers(channels.send, cors.answer_headers(origin.decode("latin-1")))
        limit = self._rules.limit_of(path)
        if limit is not None and b"transfer-encoding" in headers:  # the server enforces a Content-Length by itself
            channels.add(BoundedBody(channels.receive, channels.send, limit=limit))
        return self.proxy if path.startswith(PROXY) else self._direct.get(path, self._framework)


class _Channels:
    """The two channels of a request, with the layers around them, outermost first."""

    __slots__ = ("layers", "receive", "send")

    def __init__(self, receive: Receive, send: Send) -> None:
        self.receive = receive
        self.send = send
        self.layers: list[EndableStream | BoundedBody] = []

    def add(self, layer: EndableStream | BoundedBody) -> None:
        self.layers.append(layer)
        self.receive, self.send = layer.receive, layer.send

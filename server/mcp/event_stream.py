"""The two endpoints of the HTTP+SSE transport (MCP 2024-11-05). `server.mcp.transports` checks the caller."""

from __future__ import annotations

import asyncio
from typing import Final

from mcp.server.lowlevel import Server
from mcp.server.sse import SseServerTransport
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.bodies import read_body, replay
from server.http.draining import EndableStream
from server.http.guards import BODY_LIMIT
from server.mcp import mcp_bodies
from server.mcp.sessions import Owner, Roster, SessionLimits, owner_of

_BOUNDS: Final = SessionLimits()


class EventStream:
    """ASGI: one GET stream of the transport, which is a session."""

    def __init__(
        self, server: Server[dict[str, object]], transport: SseServerTransport, bounds: SessionLimits = _BOUNDS
    ) -> None:
        self._server = server
        self._transport = transport
        self._roster: Roster[asyncio.Event] = Roster(bounds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await mcp_bodies.refuse_method(allowed=b"GET").write(send)
            return
        owner, over = owner_of(scope), asyncio.Event()
        self._make_room(owner)
        key = str(id(over))
        self._roster.add(owner, key, over)
        stream = EndableStream(receive, send, over)
        try:
            async with self._transport.connect_sse(scope, stream.receive, stream.send) as (read, write):
                await self._server.run(read, write, self._server.create_initialization_options())
        finally:
            self._roster.remove(owner, key)
        await stream.finish()

    def _make_room(self, owner: Owner) -> None:
        """A caller that opens too many streams loses the oldest: it is unknown which of them still has a client."""
        while (crowd := self._roster.crowd(owner)) is not None:
            whose, streams = crowd
            key, stream = next(iter(streams))
            self._roster.remove(whose, key)
            stream.set()


class Messages:
    """ASGI: the POST half of HTTP+SSE; malformed bodies are refused here, in plain words."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await mcp_bodies.refuse_method(allowed=b"POST").write(send)
            return
        body = await read_body(receive, limit=BODY_LIMIT)
        message = mcp_bodies.parse(body)
        if isinstance(message, int):
            await mcp_bodies.refuse_message(message).write(send)
            return
        await self._app(scope, replay(body, receive), send)

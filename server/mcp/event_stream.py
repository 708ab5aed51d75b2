"""The two endpoints of the HTTP+SSE transport (MCP 2024-11-05). Who may call: `server.mcp.transports`."""

from __future__ import annotations

import asyncio
from typing import Final

from mcp.server.lowlevel import Server
from mcp.server.sse import SseServerTransport
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.mcp import mcp_bodies
from server.mcp.sessions import Owner, Roster, SessionLimits, owner_of
from server.runtime.draining import first_of

_BOUNDS: Final = SessionLimits()


class EventStream:
    """ASGI: one GET stream of the transport: a session."""

    def __init__(
        self, server: Server[dict[str, object]], transport: SseServerTransport, bounds: SessionLimits = _BOUNDS
    ) -> None:
        self._server = server
        self._transport = transport
        self._roster: Roster[asyncio.Event] = Roster(bounds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await mcp_bodies.refuse_method(send, allowed=b"GET")
            return
        owner, stream, is_open = owner_of(scope), asyncio.Event(), False
        self._make_room(owner)
        key = str(id(stream))
        self._roster.add(owner, key, stream)

        async def watch(message: Message) -> None:
            nonlocal is_open
            await send(message)
            is_open = message["type"] == "http.response.start" or bool(message.get("more_body"))

        async def receive_or_end() -> Message:
            return await first_of(receive, stream)

        try:
            async with self._transport.connect_sse(scope, receive_or_end, watch) as (read, write):
                await self._server.run(read, write, self._server.create_initialization_options())
        finally:
            self._roster.remove(owner, key)
        if stream.is_set() and is_open:  # it ends, it does not break
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _make_room(self, owner: Owner) -> None:
        """Whoever opens too many streams loses the oldest: which of them still has a client, nobody can tell."""
        while (crowd := self._roster.crowd(owner)) is not None:
            whose, streams = crowd
            key, stream = next(iter(streams))
            self._roster.remove(whose, key)
            stream.set()


class Messages:
    """ASGI: the POST half of HTTP+SSE; malformed bodies end here, in plain words."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await mcp_bodies.refuse_method(send, allowed=b"POST")
            return
        try:
            body = await mcp_bodies.read_body(receive)
        except ClientDisconnect:
            return
        message = mcp_bodies.parse(body)
        if isinstance(message, int):
            await mcp_bodies.refuse_message(send, message)
            return
        await self._app(scope, mcp_bodies.replay(body, receive), send)

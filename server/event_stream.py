"""The two endpoints of the HTTP+SSE transport (MCP 2024-11-05) around the SDK's. Who may call: `server.transports`."""

from __future__ import annotations

from mcp.server.lowlevel import Server
from mcp.server.sse import SseServerTransport
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from server import mcp_bodies


class EventStream:
    """ASGI: one GET stream of the transport: a session."""

    def __init__(self, server: Server[dict[str, object]], transport: SseServerTransport) -> None:
        self._server = server
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await mcp_bodies.refuse_method(send, allowed=b"GET")
            return
        async with self._transport.connect_sse(scope, receive, send) as (read, write):
            await self._server.run(read, write, self._server.create_initialization_options())


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

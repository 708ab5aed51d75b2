"""The two endpoints of the HTTP+SSE transport (MCP 2024-11-05). `server.mcp.transports` checks the caller."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from anyio import BrokenResourceError, ClosedResourceError
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.lowlevel import Server
from mcp.server.sse import SseServerTransport
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.answers import TEXT, WholeAnswer, piece
from server.http.bodies import read_body, replay
from server.http.draining import EndableStream
from server.http.guards import BODY_LIMIT
from server.mcp import mcp_bodies
from server.mcp.duplex import DuplexCalls
from server.mcp.sdk_server import KNOWN, Known, OpenVault
from server.mcp.sessions import Owner, Roster, SessionLimits, is_same_user, owner_of

_BOUNDS: Final = SessionLimits()
_SESSION: Final = re.compile(rb"event: endpoint\r\ndata: [^\r\n]*[?&]session_id=([0-9a-f]{32})\r\n")
_DATA: Final = re.compile(rb"event: message\r\ndata: ([^\r\n]*)\r\n")
_ACCEPTED: Final = WholeAnswer(HTTPStatus.ACCEPTED, [TEXT], b"Accepted")
Confirm = Callable[[Scope], Awaitable[WholeAnswer | None]]
_POSTED: ContextVar[Scope | None] = ContextVar("posted", default=None)  # the POST that brought a call


def _whole(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class OpenStreams:
    """The open GET streams, by the ID that their clients send in a POST."""

    def __init__(self) -> None:
        self._open: dict[str, _Stream] = {}

    def add(self, stream: _Stream) -> None:
        """Add a stream once its client knows where to POST."""
        self._open[stream.key] = stream

    def remove(self, stream: _Stream) -> None:
        """Remove a stream that has ended."""
        self._open.pop(stream.key, None)

    def find(self, scope: Scope) -> _Stream | None:
        """The stream that a POST names, if the same principal has opened it."""
        key = parse_qs(scope["query_string"]).get(b"session_id", [b""])[-1]
        found = self._open.get(key.decode("latin-1"))
        return found if found is not None and is_same_user(found.user, scope["user"]) else None


class _Stream:
    """One stream: what the SDK sends passes through, and answers of plain calls are sent alongside."""

    def __init__(self, user: AuthenticatedUser, send: Send, streams: OpenStreams) -> None:
        self.user = user
        self.key = ""
        self.calls: DuplexCalls | None = None
        self.group = asyncio.TaskGroup()
        self._send = send
        self._streams = streams

    async def send(self, message: Message) -> None:
        """A part of the SDK's answer; its first event has the id, and one of the next what the client can do."""
        await self._send(message)
        event: bytes = message.get("body", b"")
        if not self.key and (found := _SESSION.search(event)) is not None:
            self.key = found[1].decode()
            self._streams.add(self)
        elif self.calls is not None and self.calls.is_opening and (found := _DATA.search(event)) is not None:
            self.calls.watch(found[1].decode())

    async def write(self, message: bytes) -> None:
        """Send an event of ours; does nothing once the stream has ended."""
        if self.key:
            await piece(self._send, b"event: message\r\ndata: %b\r\n\r\n" % message)

    def end(self) -> None:
        """Handle a client that left."""
        self._streams.remove(self)
        self.key = ""
        if self.calls is not None:
            self.calls.close()


class EventStream:
    """ASGI: one GET stream of the transport, which is a session."""

    def __init__(
        self,
        server: Server[dict[str, object]],
        vault: OpenVault,
        transport: SseServerTransport,
        streams: OpenStreams,
        bounds: SessionLimits = _BOUNDS,
    ) -> None:
        self._server = server
        self._vault = vault
        self._transport = transport
        self._streams = streams
        self._stamp = server.server_info_stamp
        self._roster: Roster[asyncio.Event] = Roster(bounds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await mcp_bodies.refuse_method(allowed=b"GET").write(send)
            return
        owner, over = owner_of(scope), asyncio.Event()
        self._make_room(owner)
        key = str(id(over))
        self._roster.add(owner, key, over)
        channels = EndableStream(receive, send, over)
        stream = _Stream(scope["user"], channels.send, self._streams)
        stream.calls = DuplexCalls(
            self._open, write=stream.write, pass_on=self._hand_over, stamp=self._stamp, is_event=True
        )
        try:
            async with stream.group:
                async with self._transport.connect_sse(scope, channels.receive, stream.send) as (read, write):
                    await self._server.run(read, write, self._server.create_initialization_options())
                stream.end()
        finally:
            stream.end()
            self._roster.remove(owner, key)
        await channels.finish()

    async def _open(self) -> OpenVault:
        return self._vault

    async def _hand_over(self, body: bytes, known: Known) -> None:
        """Pass a message to the SDK as if it arrived now; its client has already received the 202."""
        KNOWN.set(known)
        scope = _POSTED.get()
        if scope is not None:
            with suppress(ClosedResourceError, BrokenResourceError):  # the stream has just ended
                await self._transport.handle_post_message(scope, _whole(body), _ignore)

    def _make_room(self, owner: Owner) -> None:
        """End the oldest stream of a caller that opens too many, since it is unknown which of them still has a
        client."""
        while (crowd := self._roster.crowd(owner)) is not None:
            whose, streams = crowd
            key, stream = next(iter(streams))
            self._roster.remove(whose, key)
            stream.set()


class Messages:
    """ASGI: the POST half of HTTP+SSE; malformed bodies are refused here, in plain words.

    The answer comes on the stream, so the grant is checked again after the body was read and before it has any effect.
    """

    def __init__(self, app: ASGIApp, streams: OpenStreams, confirm: Confirm) -> None:
        """`confirm` returns the answer for a caller whose grant has ended."""
        self._app = app
        self._streams = streams
        self._confirm = confirm

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await mcp_bodies.refuse_method(allowed=b"POST").write(send)
            return
        body = await read_body(receive, limit=BODY_LIMIT)
        if mcp_bodies.is_costly(body):
            await mcp_bodies.refuse_costly().write(send)
            return
        if (challenge := await self._confirm(scope)) is not None:
            await challenge.write(send)
            return
        stream = self._streams.find(scope)
        if stream is not None and stream.calls is not None:
            _POSTED.set(scope)
            if stream.calls.take(body, stream.group):
                await _ACCEPTED.write(send)
                return
        message = mcp_bodies.parse(body)
        if isinstance(message, int):
            await mcp_bodies.refuse_message(message).write(send)
            return
        await self._app(scope, replay(body, receive), send)


async def _ignore(message: Message) -> None:
    """The answer to our own POST, sent in place of a client's."""

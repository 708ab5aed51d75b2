"""End a process without failing calls: count and await calls in progress, then end the event streams.

A stream (a GET, or a subscription of MCP, answered with `text/event-stream`) never ends by itself, so it counts as a
call only until its answer starts; the code that runs a tool call over a stream counts that call.
`server.runtime.uvicorn_server` closes the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from server.http import answers

PATIENCE: Final = 30.0  # seconds for calls in flight to finish
_FLUSH: Final = 0.1  # seconds for the last answer to get through a stream


def is_stream_request(scope: Scope) -> bool:
    """Whether the answer may be a stream that never ends by itself, by the header that MCP 2026-07-28 requires."""
    return scope["method"] == "GET" or (b"mcp-method", b"subscriptions/listen") in scope["headers"]


class Drain:
    """The calls that a process still has to finish."""

    def __init__(self) -> None:
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_draining = False
        self.over = asyncio.Event()  # streams end now

    @property
    def is_draining(self) -> bool:
        """Whether the process is shutting down and should get no new work."""
        return self._is_draining

    def begin(self) -> None:
        """Report not ready from now on; requests are still answered."""
        self._is_draining = True

    def call(self) -> CallInFlight:
        """A context for work that shutdown waits for."""
        return CallInFlight(self)

    def enter(self) -> None:
        """Count one more call in flight."""
        self._calls += 1
        self._idle.clear()

    def leave(self) -> None:
        """Count one call fewer."""
        self._calls -= 1
        if self._calls == 0:
            self._idle.set()

    async def finish(self, *, patience: float = PATIENCE) -> None:
        """Wait, for a bounded time, until no call is in flight; then let the streams end."""
        self.begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._idle.wait()
                await asyncio.sleep(_FLUSH)
        self.over.set()


class CallInFlight:
    """Counts a call while its block runs. Requests enter it twice, and a generator would cost 5 us more."""

    __slots__ = ("_drain", "_is_counted")

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self._is_counted = False

    def __enter__(self) -> CallInFlight:
        self._is_counted = True
        self._drain.enter()
        return self

    def __exit__(self, *failure: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Stop counting the call, so that shutdown no longer waits for it."""
        if self._is_counted:
            self._is_counted = False
            self._drain.leave()


class EndableStream:
    """A request's two channels, whose event stream ends cleanly once `over` is set.

    `on_stream` is called when the answer turns out to be a stream.
    """

    def __init__(
        self, receive: Receive, send: Send, over: asyncio.Event, *, on_stream: Callable[[], None] | None = None
    ) -> None:
        self._receive = receive
        self._send = send
        self._over = over
        self._on_stream = on_stream
        self._is_open = False

    async def receive(self) -> Message:
        """The next message, or a disconnect as soon as `over` is set."""
        message = asyncio.ensure_future(self._receive())
        end = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({message, end}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            end.cancel()
            if not message.done():
                message.cancel()

    async def send(self, message: Message) -> None:
        """Pass on a message."""
        await self._send(message)
        self._is_open = answers.is_start(message) or bool(message.get("more_body"))
        if self._on_stream is not None and answers.is_stream(message):
            self._on_stream()

    async def finish(self) -> None:
        """End the answer if it is still open and `over` is set."""
        if self._is_open and self._over.is_set():
            await answers.piece(self._send, b"", is_last=True)

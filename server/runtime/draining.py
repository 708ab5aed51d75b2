"""Ending a process so that nobody notices: calls in flight are counted and waited for, then the event streams end.

A stream (a GET answered with `text/event-stream`) never ends by itself, so it counts as a call only until its answer
starts; a tool call that is answered over one is counted by whoever runs it. Closing the socket is
`server.runtime.serving`.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE: Final = 30.0  # seconds that calls in flight get
_FLUSH: Final = 0.1  # seconds for the last answer to get through a stream


class Drain:
    """What one process still has to finish."""

    def __init__(self) -> None:
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_draining = False
        self.over = asyncio.Event()  # streams end now

    @property
    def is_draining(self) -> bool:
        """Whether the process is on its way out and should get no new work."""
        return self._is_draining

    def begin(self) -> None:
        """Say `not ready` from now on; everything is still answered."""
        self._is_draining = True

    def call(self) -> AbstractContextManager[None]:
        """Work that the end of the process waits for."""
        return _Call(self)

    def enter(self) -> None:
        """One more call in flight."""
        self._calls += 1
        self._idle.clear()

    def leave(self) -> None:
        """One call less."""
        self._calls -= 1
        if self._calls == 0:
            self._idle.set()

    async def finish(self, *, patience: float = PATIENCE) -> None:
        """Wait, bounded, until no call is in flight; then let the streams end."""
        self.begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._idle.wait()
                await asyncio.sleep(_FLUSH)
        self.over.set()


class _Call:
    """Entered on each request twice; a generator would cost it 5 us more."""

    __slots__ = ("_drain",)

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    def __enter__(self) -> None:
        self._drain.enter()

    def __exit__(self, *failure: object) -> None:
        self._drain.leave()


class Counted:
    """ASGI middleware: every request is a call in flight, and a stream learns when the process ends."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "GET":
            await self._get(scope, receive, send)
        else:
            with self._drain.call():
                await self._app(scope, receive, send)

    async def _get(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_counted, is_open = True, False
        self._drain.enter()

        def leave() -> None:
            nonlocal is_counted
            if is_counted:
                is_counted = False
                self._drain.leave()

        async def note_and_send(message: Message) -> None:
            nonlocal is_open
            await send(message)
            is_open = message["type"] == "http.response.start" or bool(message.get("more_body"))
            if message["type"] == "http.response.start" and _is_stream(message):
                leave()

        async def receive_or_end() -> Message:
            return await first_of(receive, self._drain.over)

        try:
            await self._app(scope, receive_or_end, note_and_send)
            if is_open and self._drain.over.is_set():  # the stream ends, it does not break
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leave()


def _is_stream(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message.get("headers", ())
    )


async def first_of(receive: Receive, over: asyncio.Event) -> Message:
    """The next message, or a disconnect as soon as it is over."""
    message = asyncio.ensure_future(receive())
    end = asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait({message, end}, return_when=asyncio.FIRST_COMPLETED)
        return message.result() if message.done() else {"type": "http.disconnect"}
    finally:
        end.cancel()
        if not message.done():
            message.cancel()

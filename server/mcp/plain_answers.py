"""Sends the answer of a plain call: as JSON, or as an event stream once its tool reports progress.

The bytes of an answer are made in `server.mcp.fast_path`.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Final

from mcp.server.streamable_http import REQUEST_CANCELLED
from mcp_types import INTERNAL_ERROR
from pydantic_core import to_json
from starlette.types import Message, Receive, Send

from server.http.answers import JSON, Headers, is_start, piece, send_whole, start
from server.mcp import fast_path
from server.mcp.fast_path import PlainCall
from server.mcp.retry_later import RetryLater

WATCH_AFTER: Final = 0.1  # seconds; most calls are over by then and need no watch
_EVENTS: Final[Headers] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
)


class Stop(Enum):
    """Why a call was stopped."""

    LEFT = "its client closed the stream"  # MCP 2026-07-28, basic/transports: that is how a call is canceled
    CANCELED = "its client sent notifications/cancelled"
    ENDED = "its client ended the session"


class PlainAnswer:
    """The answer of one call. Made in the task that makes the call."""

    def __init__(self, call: PlainCall, receive: Receive, send: Send) -> None:
        self._call = call
        self._receive = receive
        self.later = RetryLater(send)
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._streams = False
        self.stopped: Stop | None = None

    def __enter__(self) -> None:
        """Start the call. A call that `stop` ended returns normally, with the reason in `stopped`."""
        self._task = asyncio.current_task()
        if self._call.session is None and self._call.progress_token is not None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._start_watching)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        is_stop = kind is not None and issubclass(kind, asyncio.CancelledError) and self.stopped is not None
        return is_stop and task is not None and not task.uncancel()  # otherwise cancelled from elsewhere

    def stop(self, why: Stop) -> None:
        """End the call, unless it has an answer already."""
        if self._task is not None and self.stopped is None:
            self.stopped = why
            self._task.cancel()

    def _start_watching(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.stop(Stop.LEFT)

    async def progress(self, done: int, total: int | None, message: str) -> None:
        """Report progress to the client; the first report starts the stream."""
        if self._call.progress_token is None:
            return
        await self._event(fast_path.progress(self._call, done, total, message), is_last=False)

    async def _event(self, content: bytes, *, is_last: bool) -> None:
        if not self._streams:
            self._streams = True
            await start(self.later.send, 200, [*_EVENTS, *self._session()])
        await piece(self.later.send, b"event: message\r\ndata: %b\r\n\r\n" % content, is_last=is_last)

    def _session(self) -> Headers:
        session = self._call.session
        return () if session is None else ((b"mcp-session-id", session.encode("latin-1")),)

    @property
    def is_stream(self) -> bool:
        """Whether progress was reported, so that the answer is an event."""
        return self._streams

    async def write(self, answer: bytes, *, status: int = 200) -> None:
        """The last of it."""
        if self._streams:
            await self._event(answer, is_last=True)
        else:
            await send_whole(self.later.send, status, (JSON, *self._session()), answer)

    async def write_stopped(self) -> None:
        """The answer to the client of a stopped call, if it still listens."""
        if self.stopped is Stop.LEFT:
            return
        is_canceled = self.stopped is Stop.CANCELED
        error: dict[str, object] = {"code": REQUEST_CANCELLED, "message": "Request cancelled"}
        if not is_canceled:
            error = {"code": INTERNAL_ERROR, "message": "Session terminated before the request completed"}
        identity = self._call.id if is_canceled or self._streams else None
        answer = to_json({"jsonrpc": "2.0", "id": identity, "error": error}, ensure_ascii=True)
        await self.write(answer, status=200 if is_canceled else 500)

    async def pass_on(self, message: Message) -> None:
        """A message of the SDK's whole answer."""
        if not self._streams:
            await self.later.send(message)
        elif not is_start(message):
            await self._event(message.get("body", b""), is_last=True)

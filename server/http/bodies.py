"""Reads a request's body: piece by piece or whole, and never longer than its reader can use.

`server.http.guards` has already limited every body but the proxy's; readers that need less say so here.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

_DRAIN_LIMIT: Final = 64 * 1024 * 1024  # bytes
_DRAIN_TIMEOUT: Final = 2.0  # seconds


class BodyTooLarge(Exception):
    """The body is longer than its reader accepts; the rest wasn't read."""


async def next_piece(receive: Receive) -> tuple[bytes, bool]:
    """The next part of the body, and whether there is more. Raises ClientDisconnect."""
    message = await receive()
    if message["type"] != "http.request":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def read_body(receive: Receive, *, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes. Raises ClientDisconnect or BodyTooLarge."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        part, more = await next_piece(receive)
        size += len(part)
        if size > limit:
            raise BodyTooLarge
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def drain(receive: Receive) -> None:
    """Read and discard more of a refused body: closing while the client still writes would reset the answer, too."""
    left, more = _DRAIN_LIMIT, True
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DRAIN_TIMEOUT):
            while left > 0 and more:
                part, more = await next_piece(receive)
                left -= len(part)


def replay(body: bytes, receive: Receive) -> Receive:
    """A receive channel that delivers the body again."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again

"""A provider's API whose answers a test writes as ASGI functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope, Send


class Upstream:
    """A provider whose next answer is an ASGI function."""

    def __init__(self) -> None:
        self.answer: Callable[[Scope, Receive, Send], object] | None = None
        self.left = asyncio.Event()
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert self.answer is not None
        await self.answer(scope, receive, send)


def reply_in_pieces(
    *pieces: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> Callable[[Scope, Receive, Send], object]:
    """Send an answer in pieces, each one separately."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status, "headers": headers or []})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    return answer

"""503 with `Retry-After` for an MCP request during a storage outage, instead of the usual 200.

The body stays a JSON-RPC error, so that a client that reads it can tell its model what to do; a proxy or load balancer
sees the status. Nothing was done at a provider, so the caller can safely retry: a call that wrote before the storage
failed is answered as a failure of its tool. Streams, which have already answered 200, carry only text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

from starlette.types import Message, Send

from server.errors import status_of
from server.http.answers import is_start

STORAGE_AWAY: Final = -32053  # of the codes that JSON-RPC 2.0 §5.1 leaves to servers
ON_AWAY: ContextVar[Callable[[int], None] | None] = ContextVar("on_away", default=None)


class RetryLater:
    """Passes one answer on, as a 503 once `mark` was called."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._after: int | None = None

    def mark(self, seconds: int) -> None:
        """The storage is unavailable; retry after this many seconds."""
        self._after = seconds

    def send(self, message: Message) -> Awaitable[None]:
        if self._after is not None and is_start(message):
            headers = [*message.get("headers", ()), (b"retry-after", str(self._after).encode())]
            message = {**message, "status": status_of("temporarily_unavailable"), "headers": headers}
        return self._send(message)

"""Sends answers: whole or piece by piece, with headers in the form in which they are written.

The caller decides the content and the status.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

from pydantic_core import to_json
from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.http.request_ids import request_member

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case

JSON: Final = (b"content-type", b"application/json")
PROBLEM: Final = (b"content-type", b"application/problem+json")
TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
UNSTORED: Final = (b"cache-control", b"no-store")
SECRET: Final[Headers] = (UNSTORED, (b"pragma", b"no-cache"), (b"x-content-type-options", b"nosniff"))
SANDBOXED: Final[Headers] = (  # whatever the content is, no browser treats it as one of our pages
    UNSTORED,
    (b"content-security-policy", b"sandbox"),
    (b"x-content-type-options", b"nosniff"),
)
_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


def raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers in the form in which they are written."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def start(send: Send, status: int, headers: Headers) -> Awaitable[None]:
    """Send the status and headers; `piece` sends the body."""
    return send({"type": "http.response.start", "status": status, "headers": headers})


def piece(send: Send, body: bytes, *, is_last: bool = False) -> Awaitable[None]:
    """Send a part of the body."""
    return send({"type": "http.response.body", "body": body, "more_body": not is_last})


async def send_whole(send: Send, status: int, headers: Headers = (), body: bytes = b"") -> None:
    """Send an answer in one piece."""
    if status not in _BODILESS:
        headers = [(b"content-length", b"%d" % len(body)), *headers]
    await start(send, status, headers)
    await piece(send, body, is_last=True)


class WholeAnswer(Response):
    """An answer in one piece with headers that need no parsing, at half the cost of the framework's."""

    def __init__(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        self.status_code = status
        self.raw_headers = list(headers)
        self.body = body
        self.background: BackgroundTask | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.write(send)
        if self.background is not None:
            await self.background()

    async def write(self, send: Send) -> None:
        """Send the answer."""
        await send_whole(send, self.status_code, self.raw_headers, self.body)


def json_answer(
    content: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> WholeAnswer:
    """A JSON answer that must not be stored."""
    return WholeAnswer(status, [JSON, *SECRET, *(raw(headers) if headers else ())], to_json(dict(content)))


def message_error(
    status: int,
    code: int,
    message: str,
    *,
    identity: str | int | None = None,
    data: Mapping[str, object] | None = None,
    headers: Headers = (),
) -> WholeAnswer:
    """A JSON-RPC error (JSON-RPC 2.0 §5), without the id of a request that was not read."""
    error: dict[str, object] = {"code": code, "message": message}
    if named := {**(data or {}), **request_member()}:
        error["data"] = named
    return WholeAnswer(status, [JSON, *headers], to_json({"jsonrpc": "2.0", "id": identity, "error": error}))


def too_often(wait: int, *, limit: int, now: int) -> dict[str, str]:
    """Headers of a 429 after `limit` requests: seconds to wait (RFC 9110 §10.2.3), and those that Auth0's SDKs read."""
    return {
        "Retry-After": str(wait),
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(now + wait),
    }


def problem_answer(status: int, content: Mapping[str, object], headers: Mapping[str, str] | None = None) -> WholeAnswer:
    """A problem document (RFC 9457)."""
    return WholeAnswer(status, [PROBLEM, *SECRET, *raw(headers or {})], to_json(dict(content)))


def text_answer(text: str, status: int, headers: Headers = ()) -> WholeAnswer:
    """A plain sentence as the answer."""
    return WholeAnswer(status, [TEXT, *SANDBOXED, *headers], text.encode())


# Answers that other code sends


def is_start(message: Message) -> bool:
    """Whether the message is status and headers."""
    return message["type"] == "http.response.start"


def is_stream(message: Message) -> bool:
    """Whether it starts an event stream, which never ends by itself."""
    return is_start(message) and any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message.get("headers", ())
    )


def with_headers(send: Send, headers: Headers, *, instead_of: Iterable[bytes] = ()) -> Send:
    """Wrap `send` to add headers to the answer; they replace those in `instead_of`."""
    dropped = frozenset(instead_of)

    def send_with_headers(message: Message) -> Awaitable[None]:
        if is_start(message):
            kept = [one for one in message.get("headers", ()) if one[0].lower() not in dropped]
            message = {**message, "headers": [*kept, *headers]}
        return send(message)

    return send_with_headers

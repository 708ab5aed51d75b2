"""Wrong answers: each fault kind as a response, including closing the connection during it."""

from __future__ import annotations

import json
from asyncio import Transport

from pydantic import JsonValue, TypeAdapter
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from providers.simulator.accounts import Face
from providers.simulator.state.faults import Fault

TRANSPORT = "simulator.transport"  # where the server's protocol stores the connection in the ASGI state
_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
_PROXY_PAGE = (
    "<!doctype html><html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)


class DroppedConnection(Response):
    """No answer at all: the connection is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _close(scope, receive)


class _Cut(Response):
    """Announces the whole body, and closes the connection after half of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await _close(scope, receive)


class _Huge(Response):
    """A well-formed beginning of JSON that continues endlessly; stops when the caller does."""

    def __init__(self, size: int) -> None:
        super().__init__(media_type="application/json", headers={"content-length": str(size)})
        self._size = size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        left, chunk = self._size, b'{"ok":true,"padding":"' + b"x" * 65514
        while left > 0:
            piece = chunk[:left]
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            chunk = b"x" * 65536


def distort(fault: Fault, answer: Response | None, *, face: Face, trap: str) -> Response:
    """The response that the fault asks for; `answer` is the true one, where the request took effect."""
    match fault.kind:
        case "drop":
            return DroppedConnection()
        case "cut" if answer is not None:
            return _Cut(bytes(answer.body), answer.status_code, headers=dict(answer.headers))
        case "alter" if answer is not None:
            return _alter(fault, answer)
        case "huge":
            return _Huge(fault.size)
        case "empty":
            return Response(status_code=200, media_type="application/json")
        case "html":
            return Response(fault.body or _PROXY_PAGE, fault.status or 502, media_type="text/html")
        case "redirect":
            return Response(status_code=307, headers={"location": fault.location or trap})
        case "status":
            return Response(fault.body or "", fault.status or 500, media_type="application/json")
        case _:
            return _refusal(fault, face)


def _refusal(fault: Fault, face: Face) -> Response:
    """The kinds that use the provider's own error format."""
    if fault.kind == "rate_limited":
        headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
        body: dict[str, JsonValue] = (
            {"ok": False, "error": "ratelimited"}
            if face == "slack"
            else {"error": {"code": 429, "message": "Rate Limit Exceeded", "status": "RESOURCE_EXHAUSTED"}}
        )
        return JSONResponse(body, status_code=fault.status or 429, headers=headers)
    if fault.kind == "invalid_grant":
        if face == "slack":
            return JSONResponse({"ok": False, "error": fault.error or "invalid_refresh_token"})
        return JSONResponse(
            {"error": fault.error or "invalid_grant", "error_description": "Bad Request"}, status_code=400
        )
    if face == "slack":
        return JSONResponse({"ok": False, "error": fault.error or "internal_error"})
    return JSONResponse({"error": fault.error or "backendError"})


def _alter(fault: Fault, answer: Response) -> Response:
    body = _OBJECT.validate_json(bytes(answer.body))
    for path, value in fault.change.items():
        _parent(body, path)[path.rsplit(".", 1)[-1]] = value
    for path in fault.remove:
        _parent(body, path).pop(path.rsplit(".", 1)[-1], None)
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Response(json.dumps(body), answer.status_code, headers=headers)


def _parent(body: dict[str, JsonValue], path: str) -> dict[str, JsonValue]:
    where = body
    for name in path.split(".")[:-1]:
        inner = where.setdefault(name, {})
        if not isinstance(inner, dict):
            inner = where[name] = {}
        where = inner
    return where


async def _close(scope: Scope, receive: Receive) -> None:
    transport = scope["state"][TRANSPORT]
    if isinstance(transport, Transport):
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass

"""Bodies of MCP requests before the SDK sees them: read whole, handed on again, or refused in plain words.

Which of them go to which part of the SDK is decided in `server.mcp.transports`.
"""

from __future__ import annotations

import json

from mcp_types import INVALID_REQUEST, PARSE_ERROR, JSONRPCNotification, jsonrpc_message_adapter
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send


def header(scope: Scope, name: bytes) -> str:
    """The first header of that lower-case name; empty when there is none."""
    found: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return found.decode("latin-1")


async def read_body(receive: Receive) -> bytes:
    """The whole body; `server.http.guards` has bounded it."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """A receive channel on which the body comes once more."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def parse(body: bytes) -> object:
    """One JSON-RPC message, or the JSON-RPC error code that says what is wrong with the body."""
    try:
        content: object = from_json(body)
    except ValueError:
        return PARSE_ERROR
    try:
        message = jsonrpc_message_adapter.validate_python(content, by_name=False)
    except ValidationError:
        return INVALID_REQUEST
    # A request whose id has a wrong type would pass for a notification, and its sender wait for ever.
    has_id = isinstance(content, dict) and "id" in content
    return INVALID_REQUEST if has_id and isinstance(message, JSONRPCNotification) else message


async def refuse_message(send: Send, code: int) -> None:
    """The JSON-RPC error for a body whose id nobody has read."""
    message = "Parse error" if code == PARSE_ERROR else "The body must be one JSON-RPC message with an unused id"
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 400,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def refuse_method(send: Send, *, allowed: bytes) -> None:
    """405 with the one method that is allowed."""
    headers = [(b"allow", allowed), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 405, "headers": headers})
    await send({"type": "http.response.body", "body": b""})

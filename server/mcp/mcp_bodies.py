"""Bodies of MCP requests before the SDK sees them: parsed, or refused in plain words.

`server.mcp.transports` decides which of them go to which part of the SDK.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcp_types import INVALID_REQUEST, PARSE_ERROR, JSONRPCNotification, jsonrpc_message_adapter
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from starlette.types import Scope

from server.errors import status_of
from server.http.answers import JSON, Headers, WholeAnswer


def header(scope: Scope, name: bytes) -> str:
    """The first header of that lower-case name; empty when there is none."""
    found: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return found.decode("latin-1")


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
    # A request whose id has a wrong type would pass for a notification, and its sender would wait for ever.
    has_id = isinstance(content, dict) and "id" in content
    return INVALID_REQUEST if has_id and isinstance(message, JSONRPCNotification) else message


def refuse_message(code: int) -> WholeAnswer:
    """The JSON-RPC error for a body whose id was not read."""
    message = "Parse error" if code == PARSE_ERROR else "The body must be one JSON-RPC message with an unused id"
    return error_answer(status_of("invalid_request"), code, message)


def error_answer(
    status: int, code: int, message: str, *, data: Mapping[str, object] | None = None, headers: Headers = ()
) -> WholeAnswer:
    """A JSON-RPC error without the id of a request."""
    error = {"code": code, "message": message, **({} if data is None else {"data": data})}
    return WholeAnswer(status, [JSON, *headers], to_json({"jsonrpc": "2.0", "id": None, "error": error}))


def refuse_method(*, allowed: bytes) -> WholeAnswer:
    """405 with the one allowed method."""
    return WholeAnswer(status_of("method_not_allowed"), [(b"allow", allowed)])

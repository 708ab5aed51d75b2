"""Bodies of MCP requests before the SDK sees them: parsed, or refused in plain words.

`server.mcp.transports` decides which of them go to which part of the SDK.
"""

from __future__ import annotations

from typing import Final

from mcp_types import INVALID_REQUEST, PARSE_ERROR, JSONRPCNotification, jsonrpc_message_adapter
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.types import Scope

from providers.outbound.json_values import is_object
from server.errors import status_of
from server.http.answers import WholeAnswer, message_error
from server.http.strict_json import has_more_parts

# A larger message delays every other caller while it is read, and again for each check that finds it invalid.
_SMALL: Final = 64 * 1024  # bytes; shorter messages can't exceed the limits
_MOST_NESTED: Final = 20_000  # objects and arrays
_MOST_VALUES: Final = 50_000
_MOST_NAMES: Final = 1000  # members of the message, its parameters, or a tool's arguments


def header(scope: Scope, name: bytes) -> str:
    """The first header of that lower-case name; empty when there is none."""
    found: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return found.decode("latin-1")


def parse(body: bytes) -> object:
    """A JSON-RPC message, or the JSON-RPC error code for an invalid body."""
    try:
        content: object = from_json(body)
    except ValueError:
        return PARSE_ERROR
    try:
        message = jsonrpc_message_adapter.validate_python(content, by_name=False)
    except ValidationError:
        return INVALID_REQUEST
    # A request with an ID of the wrong type would pass for a notification, and its sender would wait forever.
    has_id = isinstance(content, dict) and "id" in content
    return INVALID_REQUEST if has_id and isinstance(message, JSONRPCNotification) else message


def is_costly(body: bytes) -> bool:
    """Whether a message has so many parts that it must not be read."""
    if len(body) <= _SMALL:
        return False
    if has_more_parts(body, nested=_MOST_NESTED, values=_MOST_VALUES):
        return True
    try:
        content: object = from_json(body)
    except ValueError:
        return False  # the reader reports it
    params = content.get("params") if is_object(content) else None
    arguments = params.get("arguments") if is_object(params) else None
    return any(is_object(one) and len(one) > _MOST_NAMES for one in (content, params, arguments))


def refuse_costly() -> WholeAnswer:
    """The JSON-RPC error for a costly message."""
    limits = f"{_MOST_NESTED} objects and arrays, {_MOST_VALUES} values, and {_MOST_NAMES} arguments"
    return message_error(status_of("invalid_request"), INVALID_REQUEST, f"The message may have at most {limits}")


def refuse_message(code: int) -> WholeAnswer:
    """The JSON-RPC error for a body if its id was not read."""
    message = "Parse error" if code == PARSE_ERROR else "The body must be one JSON-RPC message with an unused id"
    return message_error(status_of("invalid_request"), code, message)


def refuse_method(*, allowed: bytes) -> WholeAnswer:
    """405 with the one allowed method."""
    return WholeAnswer(status_of("method_not_allowed"), [(b"allow", allowed)])

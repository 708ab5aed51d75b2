"""The answer if our own code raises an exception, at every interface, in the format that the path's callers expect.

The log gets the cause under the request's id, and the caller gets the id. `server.http.edge` calls this, and cuts off
an answer that has begun. The proxy and the tools answer their own failures, with their knowledge of the call.
"""

from __future__ import annotations

import logging
from typing import Final

from pydantic_core import from_json
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from providers.outbound.json_values import is_object
from server.errors import status_of
from server.http import cors
from server.http.answers import SECRET, WholeAnswer, json_answer, message_error, problem_answer
from server.http.request_ids import request_member
from vault.spans import REQUEST_ID

MESSAGE: Final = "token_vault.message"  # of an ASGI scope: the body with the JSON-RPC message that is answered
_INTERNAL_ERROR: Final = -32603  # JSON-RPC 2.0 §5.1
_PROBLEM_PATH: Final = "/admin/v1/"
_MESSAGE_PATHS: Final = ("/mcp", "/sse", "/messages")

logger = logging.getLogger("token_vault.http")


async def answer(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Log the error, and answer with where to find it. Nothing was answered yet."""
    logger.error("request failed", extra={"request_id": REQUEST_ID.get()}, exc_info=error)
    path: str = scope["path"]
    if path.startswith(_MESSAGE_PATHS):
        await _for_client(scope).write(send)
    elif "text/html" in (request := Request(scope)).headers.get("accept", ""):
        from server.http.pages import failure_page  # imported here: pages load a lot, and failures are rare

        await failure_page(request)(scope, receive, send)
    else:
        await _for_program(path).write(send)


def _words() -> str:
    return f"The vault failed. Try again; its operator can find the cause in the log under {REQUEST_ID.get()}."


def _for_client(scope: Scope) -> WholeAnswer:
    """A JSON-RPC error, which names the request if it was read."""
    try:
        message: object = from_json(scope.get(MESSAGE, b""))
    except ValueError:
        message = None
    identity = message.get("id") if is_object(message) else None
    named = identity if isinstance(identity, str | int) else None
    status = status_of("server_error")
    return message_error(status, _INTERNAL_ERROR, _words(), identity=named, headers=SECRET)


def _for_program(path: str) -> WholeAnswer:
    """An error in the form of RFC 6749 §5.2, readable by pages of other origins like other refusals, or of RFC 9457."""
    content: dict[str, object] = {"error": "server_error", "error_description": _words(), **request_member()}
    if path.startswith(_PROBLEM_PATH):
        status = status_of("server_error")
        told: dict[str, object] = {"type": "about:blank", "title": "Server error", "status": status}
        none: list[object] = []
        rest = {"detail": _words(), "code": "server_error", "errors": none, **request_member()}
        return problem_answer(status, told | rest)
    made = json_answer(content, status=status_of("server_error"))
    if cors.is_cross_origin_path(path):
        made.raw_headers.extend(cors.answer_headers(cors.ANY))
    return made

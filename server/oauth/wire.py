"""HTTP at the edge of the authorization server: reading bounded bodies, JSON answers, refusals, CORS, both spellings.

Which request is right is decided elsewhere; this module makes sure that every answer has the same strict form.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from server.deployment import Deployment
from server.errors import answer_for, retry_after
from server.oauth.rules import OAuthError, Parameters, json_object, parse_parameters
from vault.refusals import VaultError

FORM_LIMIT: Final = 32 * 1024  # bytes
NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"}
_JSON_HEADERS: Final = (
    (b"content-type", b"application/json"),
    *((name.lower().encode(), value.encode()) for name, value in NO_STORE.items()),
)
_CORS: Final = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "WWW-Authenticate, DPoP-Nonce"}
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_log = logging.getLogger("token_vault.oauth")

Handler = Callable[[Deployment, Request], Awaitable[Response]]


class _Whole(Response):
    """An answer whose headers need no reading: half of what the framework's costs."""

    def __init__(self, body: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.body = body
        self.status_code = status
        self.raw_headers = headers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


def json_answer(
    content: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer that nobody may store."""
    body = to_json(dict(content))
    raw = [(b"content-length", b"%d" % len(body)), *_JSON_HEADERS]
    if headers:
        raw.extend((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items())
    return _Whole(body, status, raw)


def cached_answer(content: Mapping[str, object], *, seconds: int) -> Response:
    """A public document."""
    headers = {"Cache-Control": f"public, max-age={seconds}", "X-Content-Type-Options": "nosniff"}
    return JSONResponse(dict(content), headers=headers)


def refusal_answer(error: OAuthError) -> Response:
    """RFC 6749 §5.2."""
    _log.debug("request refused", extra={"code": error.code, "detail": error.detail})
    content = {"error": error.code, "error_description": error.description, **error.members}
    return json_answer(content, status=error.status, headers=error.headers)


def as_oauth_error(refusal: VaultError) -> OAuthError:
    """A refusal of the vault in OAuth's words."""
    answer = answer_for(refusal)
    wait = retry_after(refusal)
    headers = {} if wait is None else {"Retry-After": str(wait)}
    return OAuthError(
        answer.oauth_error, refusal.description, status=answer.status, detail=refusal.detail, headers=headers
    )


async def read_body(request: Request, *, limit: int) -> bytes:
    """The body; refused as soon as it is known to be longer than `limit`."""
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or len(announced) > 12 or int(announced) > limit:
        raise _too_large()
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size > limit:
            raise _too_large()
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large() -> OAuthError:
    return OAuthError("invalid_request", "the request body is too large", status=413)


def _content_type(request: Request) -> str:
    found = [value for name, value in request.scope["headers"] if name == b"content-type"]
    if len(found) != 1:  # of two, nobody could say which counts
        return ""
    return found[0].decode("latin-1").split(";", 1)[0].strip().lower()


async def read_form(request: Request) -> Parameters:
    """Form parameters of a POST (RFC 6749 §3.2): body only, UTF-8, nothing repeated."""
    return form_of(await read_form_body(request))


async def read_form_body(request: Request) -> bytes:
    """The body that holds form parameters, as it came."""
    if request.scope["query_string"]:
        raise OAuthError("invalid_request", "send parameters in the body, never in the URL")
    if _content_type(request) != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "send the parameters as application/x-www-form-urlencoded")
    return await read_body(request, limit=FORM_LIMIT)


def form_of(body: bytes) -> Parameters:
    """The parameters of such a body."""
    try:
        text = body.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise OAuthError("invalid_request", "the parameters cannot be read") from error
    form = parse_parameters(text)
    form.refuse_repeated()
    return form


def is_json(request: Request) -> bool:
    """Whether the body says to be JSON, and is all that the request says."""
    return _content_type(request) == "application/json" and not request.scope["query_string"]


async def read_json_parameters(request: Request) -> Parameters:
    """Parameters of a POST as a JSON object of strings."""
    content = await read_json_object(request, limit=FORM_LIMIT, code="invalid_request")
    values = {name: value for name, value in content.items() if isinstance(value, str)}
    if any(value is not None for name, value in content.items() if name not in values):
        raise OAuthError("invalid_request", "every parameter in a JSON body is a string")
    if any("\0" in name or "\0" in value for name, value in values.items()):
        raise OAuthError("invalid_request", "the parameters cannot be read")
    return Parameters(values)


async def read_json_object(request: Request, *, limit: int, code: str) -> dict[str, object]:
    """A JSON object; `code` names the refusal of what is not one."""
    if _content_type(request) != "application/json":
        raise OAuthError(code, "send the body as application/json")
    body = await read_body(request, limit=limit)
    try:
        return json_object(body)
    except (ValueError, RecursionError) as error:
        raise OAuthError(code, "the body is not a JSON object that can be read") from error


def endpoint(
    deployment: Deployment,
    path: str,
    handlers: Mapping[str, Handler],
    *,
    is_cross_origin: bool = False,
    decides_origin: bool = False,
) -> list[Route]:
    """Routes for both spellings of `path`. Refusals become JSON; other methods get 405 in the same form.

    `is_cross_origin`: any page may read the answers, with `decides_origin` only refusals: the handler sees to its own.
    """
    if "GET" in handlers:
        handlers = {**handlers, "HEAD": handlers["GET"]}
    allowed = ", ".join(sorted({*handlers, *(("OPTIONS",) if is_cross_origin else ())}))

    async def refuse_method(_: Deployment, __: Request) -> Response:
        raise OAuthError("invalid_request", "this method is not supported", status=405, headers={"Allow": allowed})

    async def dispatch(request: Request) -> Response:
        if request.method == "OPTIONS" and is_cross_origin:
            return _preflight(allowed)
        handler = handlers.get(request.method, refuse_method)
        try:
            answer = await handler(deployment, request)
            if decides_origin:
                return answer
        except OAuthError as error:
            answer = refusal_answer(error)
        except VaultError as refusal:
            answer = refusal_answer(as_oauth_error(refusal))
        if is_cross_origin:
            answer.headers.update(_CORS)
        return answer

    spellings = (path,) if path.startswith("/.well-known/") else (path, f"{path}/")
    return [Route(spelling, dispatch, methods=list(_METHODS)) for spelling in spellings]


def _preflight(allowed: str) -> Response:
    """Any origin, never with credentials: cookies play no part at these endpoints."""
    headers = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": allowed,
        "Access-Control-Allow-Headers": "Authorization, Content-Type, DPoP, MCP-Protocol-Version",
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers=headers)

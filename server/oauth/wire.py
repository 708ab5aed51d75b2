"""HTTP at the edge of the authorization server: bounded bodies, JSON answers, refusals, CORS, both spellings.

Other modules decide about requests; this one gives every answer the same strict form.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from server.connecting.agent_refusals import AgentRefusal, plain
from server.deployment import Deployment
from server.http import cors
from server.http.answers import JSON, WholeAnswer, json_answer
from server.http.bodies import BodyTooLarge, read_body
from server.http.request_ids import request_member
from server.http.strict_json import json_object
from server.oauth.parameters import Parameters, parse_parameters
from server.oauth.rules import OAuthError
from vault.refusals import VaultError

FORM_LIMIT: Final = 32 * 1024  # bytes
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_log = logging.getLogger("token_vault.oauth")

Handler = Callable[[Deployment, Request], Awaitable[Response]]


def cached_answer(content: Mapping[str, object] | bytes, *, seconds: int) -> Response:
    """A public document, perhaps in JSON already."""
    cached = (b"cache-control", f"public, max-age={seconds}".encode())
    body = content if isinstance(content, bytes) else to_json(dict(content))
    return WholeAnswer(HTTPStatus.OK, [JSON, cached, (b"x-content-type-options", b"nosniff")], body)


def refusal_answer(error: OAuthError) -> Response:
    """RFC 6749 §5.2."""
    _log.debug("request refused", extra={"code": error.code, "detail": error.detail})
    content = {"error": error.code, "error_description": error.description, **error.members, **request_member()}
    return json_answer(content, status=error.status, headers=error.headers)


def as_oauth_error(refusal: VaultError) -> OAuthError:
    """A vault refusal as an OAuth error."""
    return told_error(plain(refusal))


def told_error(told: AgentRefusal) -> OAuthError:
    """The same, with the text for agents."""
    return OAuthError(told.answer, told.description, detail=told.detail, headers=told.headers, members=told.members)


async def _read_body(request: Request, *, limit: int) -> bytes:
    """The body; refused once it is longer than `limit`."""
    try:
        return await read_body(request.receive, limit=limit)
    except BodyTooLarge as error:
        raise OAuthError("body_too_large", "the request body is too large") from error


def _content_type(request: Request) -> str:
    """The body's type; empty if the request names none, or two, because it would be unclear which one applies."""
    found: list[bytes] = [value for name, value in request.scope["headers"] if name == b"content-type"]
    return found[0].decode("latin-1").partition(";")[0].strip().lower() if len(found) == 1 else ""


async def read_form(request: Request) -> Parameters:
    """Form parameters of a POST (RFC 6749 §3.2): body only, UTF-8, nothing repeated."""
    return form_of(await read_form_body(request))


async def read_form_body(request: Request) -> bytes:
    """The body with the form parameters, as received."""
    if request.scope["query_string"]:
        raise OAuthError("invalid_request", "send the parameters in the body, not in the URL")
    if _content_type(request) != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "send the parameters as application/x-www-form-urlencoded")
    return await _read_body(request, limit=FORM_LIMIT)


def form_of(body: bytes) -> Parameters:
    """The parameters of a form body."""
    try:
        text = body.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise OAuthError("invalid_request", "the parameters can't be read") from error
    form = parse_parameters(text)
    form.refuse_repeated()
    return form


def is_json(request: Request) -> bool:
    """Whether the body claims to be JSON, and the URL has no parameters."""
    return _content_type(request) == "application/json" and not request.scope["query_string"]


async def read_json_parameters(request: Request) -> Parameters:
    """Parameters of a POST as a JSON object of strings."""
    content = await read_json_object(request, limit=FORM_LIMIT, code="invalid_request")
    values = {name: value for name, value in content.items() if isinstance(value, str)}
    if any(value is not None for name, value in content.items() if name not in values):
        raise OAuthError("invalid_request", "every parameter in a JSON body must be a string")
    if any("\0" in name or "\0" in value for name, value in values.items()):
        raise OAuthError("invalid_request", "the parameters can't be read")
    return Parameters(values)


async def read_json_object(request: Request, *, limit: int, code: str) -> dict[str, object]:
    """A JSON object; `code` names the refusal of anything else."""
    if _content_type(request) != "application/json":
        raise OAuthError(code, "send the body as application/json")
    body = await _read_body(request, limit=limit)
    try:
        return json_object(body)
    except (ValueError, RecursionError) as error:
        raise OAuthError(code, "the body isn't a valid JSON object") from error


class Endpoint:
    """ASGI: the handlers of one path. Refusals become JSON; other methods get 405 in the same form.

    `is_cross_origin`: any page may read the answers, or with `decides_origin` only the refusals: the handler then
    decides for its own answers.
    """

    def __init__(
        self, deployment: Deployment, handlers: Mapping[str, Handler], *, is_cross_origin: bool, decides_origin: bool
    ) -> None:
        self._deployment = deployment
        self.handlers: Final = {**handlers, "HEAD": handlers["GET"]} if "GET" in handlers else handlers
        self.is_open_to_pages: Final = is_cross_origin and not decides_origin
        self._is_cross_origin = is_cross_origin
        self._decides_origin = decides_origin
        self._allowed = sorted({*self.handlers, *(("OPTIONS",) if is_cross_origin else ())})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, method = Request(scope, receive, send), scope["method"]
        handler = self.handlers.get(method, self._refuse_method)
        is_readable = self._is_cross_origin
        if method == "OPTIONS" and self._is_cross_origin:
            handler = self._preflight
            is_readable = False  # it sets this itself
        try:
            answer = await handler(self._deployment, request)
            is_readable = is_readable and not self._decides_origin
        except OAuthError as error:
            answer = refusal_answer(error)
        except VaultError as refusal:
            answer = refusal_answer(as_oauth_error(refusal))
        if is_readable:
            answer.raw_headers.extend(cors.answer_headers(cors.ANY))
        await answer(scope, receive, send)

    async def _refuse_method(self, deployment: Deployment, request: Request) -> Response:
        headers = {"Allow": ", ".join(self._allowed)}
        raise OAuthError("method_not_allowed", "this method isn't supported", headers=headers)

    async def _preflight(self, deployment: Deployment, request: Request) -> Response:
        """Any origin, never with credentials: these endpoints do not use cookies."""
        return cors.preflight(cors.ANY, methods=self._allowed)


def endpoint(
    deployment: Deployment,
    path: str,
    handlers: Mapping[str, Handler],
    *,
    is_cross_origin: bool = False,
    decides_origin: bool = False,
) -> list[Route]:
    """Routes for both spellings of `path`; see `Endpoint`."""
    app = Endpoint(deployment, handlers, is_cross_origin=is_cross_origin, decides_origin=decides_origin)
    spellings = (path,) if path.startswith("/.well-known/") else (path, f"{path}/")
    return [Route(spelling, app, methods=_METHODS) for spelling in spellings]

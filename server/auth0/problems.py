"""The answers of the My Account API: JSON, and problems in Auth0's format (RFC 7807 with numbered types)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.deployment import Deployment
from server.errors import RefusalKind, status_of
from server.http import cors
from server.http.answers import SECRET, WholeAnswer, json_answer
from server.oauth import dpop, tokens, wire
from server.oauth.rules import OAuthError
from server.sign_in.callers import AgentCaller
from vault.records import Principal
from vault.refusals import TransitionRefused, VaultError

_BODY_LIMIT: Final = 64 * 1024
_TITLES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Payload Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    503: "Service Unavailable",
}
Handler = Callable[[Deployment, Request, Principal], Awaitable[Response]]


class MeProblem(Exception):
    """A request refused with a status of `server.errors.KINDS`.

    `number` distinguishes problems with the same status; `fields` are errors by JSON pointer.
    """

    def __init__(
        self,
        kind: str | RefusalKind,
        detail: str,
        *,
        number: int = 1,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status_of(kind) if isinstance(kind, str) else kind.status
        self.detail = detail
        self.number = number
        self.fields = dict(fields or {})
        self.headers = dict(headers or {})

    def answer(self) -> Response:
        content: dict[str, object] = {
            "type": f"https://auth0.com/api-errors/A0E-{self.status}-{self.number:04d}",
            "status": self.status,
            "title": _TITLES.get(self.status, "Error"),
            "detail": self.detail,
        }
        if self.fields:
            content["validation_errors"] = [
                {"detail": text, "field": name, "pointer": f"/{name}", "source": "body"}
                for name, text in self.fields.items()
            ]
        return json_answer(content, status=self.status, headers=self.headers)


def as_me_problem(refusal: VaultError) -> MeProblem:
    """A vault refusal as a problem."""
    if isinstance(refusal, TransitionRefused):
        return MeProblem("not_found", refusal.description)
    error = wire.as_oauth_error(refusal)
    return MeProblem(error.answer, error.description, headers=error.headers)


def no_content() -> Response:
    return WholeAnswer(204, SECRET)


async def read_object(
    deployment: Deployment, request: Request, principal: Principal, known: frozenset[str]
) -> dict[str, object]:
    """The members of a JSON body. Raises MeProblem, including for members that this API doesn't have, and if the token
    ended while the body arrived."""
    try:
        content = await wire.read_json_object(request, limit=_BODY_LIMIT, code="invalid_request")
    except OAuthError as error:
        kind = "unsupported_form" if "application/json" in error.description else error.answer
        raise MeProblem(kind, error.description, number=3) from error
    try:
        await tokens.check_live(deployment, principal)
    except tokens.TokenRefused as error:
        raise _invalid_token() from error
    if unknown := sorted(content.keys() - known):
        raise invalid({name: f"unknown; the members are {', '.join(sorted(known))}" for name in unknown})
    return content


def _invalid_token() -> MeProblem:
    return MeProblem("invalid_token", "Invalid Token", number=3, headers={"WWW-Authenticate": "Bearer"})


def invalid(fields: Mapping[str, str]) -> MeProblem:
    return MeProblem("invalid_request", "Invalid request payload input", number=3, fields=fields)


class MeRoute:
    """ASGI app for one path of the My Account API, with a handler for each method and a scope for each handler."""

    def __init__(self, deployment: Deployment, audience: str, handlers: Mapping[str, tuple[str, Handler]]) -> None:
        self._deployment = deployment
        self._audience = audience
        self.handlers: Final = handlers

    async def __call__(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return cors.preflight(cors.ANY, methods=(*self.handlers, "OPTIONS"))
        try:
            answer = await self._answer(request)
        except MeProblem as problem:
            answer = problem.answer()
        except VaultError as refusal:
            answer = as_me_problem(refusal).answer()
        answer.raw_headers.extend(cors.answer_headers(cors.ANY))
        return answer

    async def _answer(self, request: Request) -> Response:
        found = self.handlers.get("GET" if request.method == "HEAD" else request.method)
        if found is None:
            raise MeProblem(
                "method_not_allowed", "This method isn't supported", headers={"Allow": ", ".join(self.handlers)}
            )
        scope, handler = found
        try:
            principal = await tokens.authenticate(
                self._deployment,
                request.headers,
                method=request.method,
                path=dpop.sent_path(request.scope),
                audiences=frozenset({self._audience}),
            )
        except tokens.TokenRefused as error:
            raise _invalid_token() from error
        if scope not in principal.scopes:
            raise MeProblem("insufficient_scope", f"Insufficient scope, expected {scope}", number=2)
        caller = AgentCaller(principal, _invalid_token)
        return await handler(self._deployment.for_caller(caller), request, principal)


def me_route(deployment: Deployment, path: str, audience: str, handlers: Mapping[str, tuple[str, Handler]]) -> Route:
    """`handlers`: the required token scope and the function, by method."""
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Route(path, MeRoute(deployment, audience, handlers).__call__, methods=methods)

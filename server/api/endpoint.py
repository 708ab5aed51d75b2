"""HTTP at the edge of the Admin API: who calls, what they may do, and the request as its declared models.

The checks of every operation, in this order: token, admin, scope, rate, recent sign-in, then headers, query, and body.
While the body arrived, the token may have ended: after it, token, admin, and recent sign-in are checked again, and each
change checks the token in its transaction, too. No operation can skip one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from providers.definitions.suggestions import what_is_wrong
from providers.outbound.json_values import is_array, is_object
from server.administration.actor import RECENT
from server.api.operations import AdminCall, AdminOperation, TaggedAnswer
from server.api.problems import ApiRefused, ApplyStopped, FieldProblem, problem_of
from server.deployment import Deployment
from server.http.answers import JSON, SECRET, WholeAnswer
from server.http.bodies import BodyTooLarge, read_body
from server.http.strict_json import json_object
from server.oauth import tokens
from server.oauth.dpop import sent_path
from server.oauth.rules import ADMIN_ACCESS, ADMIN_READ, ADMIN_WRITE, admin_resource
from server.oauth.service_accounts import is_service_account
from server.sign_in import roles
from server.sign_in.callers import AgentCaller
from server.signatures.jose import FOREIGN_ALGORITHMS
from vault import clients, users
from vault.records import Client, Principal, User
from vault.refusals import VaultError

_MOST_PARAMETERS: Final = 40
_log = logging.getLogger("token_vault.api")


class AdminEndpoint:
    """ASGI: the operations of one path."""

    def __init__(self, deployment: Deployment, operations: Sequence[AdminOperation]) -> None:
        self._deployment = deployment
        self._by_method = {one.method: one for one in operations}
        self._allowed = sorted({*self._by_method, *(("HEAD",) if "GET" in self._by_method else ())})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        method = "GET" if request.method == "HEAD" else request.method
        found = next((one for one in self._by_method.values() if one.method == method), None)
        try:
            if found is None:
                raise ApiRefused(
                    "method_not_allowed",
                    f"This path accepts only {', '.join(self._allowed)}.",
                    headers={"Allow": ", ".join(self._allowed)},
                )
            answer = await answer_operation(self._deployment, request, found)
        except (VaultError, ApplyStopped) as refusal:
            answer = problem_of(self._deployment, refusal)
        await answer(scope, receive, send)


def refuse_path(deployment: Deployment) -> Response:
    """The answer for an unknown path below `/admin/v1`."""
    refusal = ApiRefused("not_found", f"No operation has this path: see {deployment.url('/admin/v1')}.")
    return problem_of(deployment, refusal)


async def answer_operation(deployment: Deployment, request: Request, operation: AdminOperation) -> Response:
    """Check the request, run the operation, and write what it returns."""
    principal = await _authenticate(deployment, request, operation)
    user, client = await _admin(deployment, operation, principal)
    _check_scope(deployment, operation, principal)
    _check_rate(deployment, principal)
    _check_sign_in(deployment, request, operation, principal, client)
    ended = partial(_challenge, deployment, request, operation, tokens.TokenRefused("the grant has ended"))
    call = AdminCall(
        deployment.for_caller(AgentCaller(principal, ended)),
        principal,
        user,
        client,
        {name: str(value) for name, value in request.path_params.items()},
        if_match=_entity_tag(request) if operation.has_etag else None,
        idempotency_key=_idempotency_key(request) if operation.is_repeatable else None,
    )
    given: dict[str, BaseModel] = {}
    if operation.query is not None:
        given["query"] = _parse_query(operation.query, request)
    elif request.scope["query_string"]:
        raise ApiRefused("invalid_request", "This operation takes no query.")
    if operation.body is not None:
        sent = await _body(request, operation.body_limit)
        await _check_live(deployment, request, operation, principal)
        user, client = await _admin(deployment, operation, principal)
        _check_sign_in(deployment, request, operation, principal, client)
        call = replace(call, user=user, client=client)
        given["body"] = _parse_body(operation.body, sent)
    result = await operation.run(call, **given)
    return _write_answer(operation, result)


def _write_answer(operation: AdminOperation, result: object) -> Response:
    if isinstance(result, Response):
        return result
    if result is None:
        return WholeAnswer(HTTPStatus.NO_CONTENT, list(SECRET))
    headers = [JSON, *SECRET]
    content = result
    if isinstance(result, TaggedAnswer):
        tagged: TaggedAnswer[BaseModel] = result  # pyright: ignore[reportUnknownVariableType] -- of whichever model
        headers.append((b"etag", f'"{tagged.etag}"'.encode()))
        content = tagged.content
    if not isinstance(content, BaseModel):
        raise TypeError(f"{operation.name} returned no model")
    return WholeAnswer(operation.status, headers, to_json(content.model_dump(mode="json")))


# Who calls


async def _authenticate(deployment: Deployment, request: Request, operation: AdminOperation) -> Principal:
    try:
        return await tokens.authenticate(
            deployment,
            request.headers,
            method=request.method,
            path=sent_path(request.scope),
            audiences=frozenset({admin_resource(deployment.public_url)}),
        )
    except tokens.TokenRefused as refused:
        raise _challenge(deployment, request, operation, refused) from refused


async def _check_live(
    deployment: Deployment, request: Request, operation: AdminOperation, principal: Principal
) -> None:
    try:
        await tokens.check_live(deployment, principal)
    except tokens.TokenRefused as refused:
        raise _challenge(deployment, request, operation, refused) from refused


async def _admin(deployment: Deployment, operation: AdminOperation, principal: Principal) -> tuple[User, Client]:
    """The admin behind the token, and the client, from current data."""
    user = await users.get_user(deployment.database, principal.user_id)
    client = await clients.get_client(deployment.database, principal.client_id)
    if user is not None:
        user = await roles.with_groups(deployment, user)
    if user is None or client is None or not user.role.audits:
        raise ApiRefused("forbidden", "This token's person isn't an admin of this vault.", detail="not an admin")
    if operation.changes and not user.role.administers:
        raise ApiRefused("forbidden", "An auditor can't change anything.", detail="auditor")
    return user, client


def _challenge(
    deployment: Deployment, request: Request, operation: AdminOperation, refused: tokens.TokenRefused
) -> ApiRefused:
    """The refusal of a token (RFC 6750 §3, RFC 9728 §5.1)."""
    _log.debug("token refused", extra={"detail": refused.detail})
    kind = {"": "no_token", "invalid_dpop_proof": "key_not_proved"}.get(refused.code, refused.code)
    said = {
        "no_token": f"Send an access token for {admin_resource(deployment.public_url)}.",
        "key_not_proved": "Send a fresh DPoP proof for this address, method and token, made with the token's key.",
        "invalid_request": "Send exactly one Authorization header.",
    }.get(kind, "The access token is invalid, expired, revoked, or for another resource: get a new one.")
    parts = {"scope": operation.scope}
    if refused.code:
        parts = {"error": refused.code, **parts}
    return ApiRefused(kind, said, headers=_authenticate_header(deployment, request, parts))


def _authenticate_header(deployment: Deployment, request: Request, parts: Mapping[str, str]) -> dict[str, str]:
    is_dpop = request.headers.get("authorization", "").lower().startswith("dpop")
    metadata = deployment.url("/.well-known/oauth-protected-resource/admin/v1")
    members = {**parts, "resource_metadata": metadata}
    if is_dpop:
        members["algs"] = " ".join(sorted(FOREIGN_ALGORITHMS))  # RFC 9449 §7.1
    said = ", ".join(f'{name}="{value}"' for name, value in members.items())
    return {"WWW-Authenticate": f"{'DPoP' if is_dpop else 'Bearer'} {said}"}


def sufficient_scopes(operation: AdminOperation) -> frozenset[str]:
    """The scopes; any one of them is enough."""
    if operation.scope in {ADMIN_READ, ADMIN_ACCESS}:
        return frozenset({operation.scope})
    return frozenset({operation.scope, ADMIN_WRITE})


def _check_scope(deployment: Deployment, operation: AdminOperation, principal: Principal) -> None:
    if principal.scopes & sufficient_scopes(operation):
        return
    challenge = f'Bearer error="insufficient_scope", scope="{operation.scope}"'
    raise ApiRefused(
        "insufficient_scope",
        f"This needs a token with the scope {operation.scope}.",
        headers={"WWW-Authenticate": challenge},
    )


def _check_rate(deployment: Deployment, principal: Principal) -> None:
    wait = deployment.admin_requests.spend(principal.user_id, principal.client_id, now=time.monotonic())
    if wait:
        raise ApiRefused(
            "too_many_requests", f"Too many requests: try again in {wait} s.", headers={"Retry-After": str(wait)}
        )


def _check_sign_in(
    deployment: Deployment, request: Request, operation: AdminOperation, principal: Principal, client: Client
) -> None:
    """Require a recent sign-in for a change (RFC 9470), with a passkey if the pages require one."""
    if not operation.changes or is_service_account(client):
        return
    settings = deployment.settings.sign_in
    needs_passkey = "administration" in settings.passkey_for
    longest = min(RECENT, settings.recent_lifetime) if needs_passkey else RECENT
    is_recent = principal.auth_time is not None and deployment.now() - principal.auth_time < longest
    if is_recent and (principal.is_strong or not needs_passkey):
        return
    parts = {"error": "insufficient_user_authentication", "max_age": str(longest)}
    raise ApiRefused(
        "sign_in_again",
        f"A change needs a sign-in{' with a passkey' if needs_passkey else ''} within the last {longest // 60} "
        f"minutes: ask for authorization again with max_age={longest}.",
        headers=_authenticate_header(deployment, request, parts),
    )


# What is asked


def _query(request: Request) -> dict[str, object]:
    try:
        text = request.scope["query_string"].decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except (UnicodeError, ValueError) as error:
        raise ApiRefused("invalid_request", "The query can't be read.") from error
    found: dict[str, object] = dict(pairs)
    if len(found) != len(pairs):
        raise ApiRefused("invalid_request", "A parameter was sent more than once.")
    return found


async def _body(request: Request, limit: int) -> bytes:
    types = request.headers.getlist("content-type")
    if len(types) != 1 or types[0].split(";", 1)[0].strip().lower() not in {"application/json", _MERGE_PATCH}:
        raise ApiRefused("unsupported_body", "Send the body as application/json.")
    try:
        return await read_body(request.receive, limit=limit)
    except BodyTooLarge as error:
        raise ApiRefused("body_too_large", f"The body is larger than {limit // 1024} KiB.") from error
    except ClientDisconnect as error:
        raise ApiRefused("invalid_request", "The body is incomplete.") from error


_MERGE_PATCH: Final = "application/merge-patch+json"  # RFC 7396


def _parse_query(model: type[BaseModel], request: Request) -> BaseModel:
    content = _query(request)
    _check_storable(content)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _wrong_values(model, error, place="query") from None


def _parse_body(model: type[BaseModel], raw: bytes) -> BaseModel:
    """Parse the body strictly: no number in place of a string, no repeated member."""
    try:
        _check_storable(json_object(raw))
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise _wrong_values(model, error, place="body") from None
    except (ValueError, RecursionError) as error:
        raise ApiRefused("invalid_request", "The body isn't a valid JSON object.") from error


def _wrong_values(model: type[BaseModel], error: ValidationError, *, place: str) -> ApiRefused:
    found = [
        FieldProblem(
            pointer=("/" if place == "body" else "") + "/".join(str(part) for part in one["loc"]),
            message=what_is_wrong(model, one),
        )
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    said = f"The {place} has {'a wrong value' if len(found) == 1 else 'wrong values'}."
    return ApiRefused("invalid_request", said, errors=found[:50])


def _check_storable(content: Mapping[str, object]) -> None:
    if (name := _unstorable(content)) is not None:
        problem = FieldProblem(pointer=name, message="NUL characters can't be stored")
        raise ApiRefused("invalid_request", "The request has a NUL character.", errors=[problem])


def _unstorable(value: object, name: str = "") -> str | None:
    """The place of a NUL character, which databases can't store; None if there is none."""
    if isinstance(value, str):
        return name if "\0" in value else None
    found: Iterable[str | None] = ()
    if is_object(value):
        found = (_unstorable(one, f"{name}/{key}") or _unstorable(key, name) for key, one in value.items())
    elif is_array(value):
        found = (_unstorable(one, f"{name}/{place}") for place, one in enumerate(value))
    return next((one for one in found if one is not None), None)


def _entity_tag(request: Request) -> str | None:
    """The one tag of `If-Match`; empty for `*`. None without the header."""
    values = request.headers.getlist("if-match")
    if not values:
        return None
    tag = values[0].strip()
    if len(values) > 1 or not (tag == "*" or (len(tag) > 2 and tag[0] == tag[-1] == '"')):
        raise ApiRefused("invalid_request", 'Send one strong entity tag in If-Match, in quotation marks, or "*".')
    return None if tag == "*" else tag.strip('"')


def _idempotency_key(request: Request) -> str | None:
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    key = values[0].strip('" ')
    if len(values) > 1 or not 16 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise ApiRefused("invalid_request", "Send one Idempotency-Key of 16 to 255 visible characters.")
    return key

"""HTTP at the edge of SCIM: the directory's token, the request as typed values, answers and errors (RFC 7644 §3.12).

The checks of every request, in this order: token, rate, method, body, and the token again, since it may have ended
while the body arrived. Each change checks it in its transaction, too. No operation can skip one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError
from scim2_models import (
    Context,
    Error,
    InvalidSyntaxException,
    InvalidValueException,
    NotFoundException,
    PatchOp,
    PreconditionFailedException,
    Resource,
    ResponseParameters,
    SCIMException,
    UniquenessException,
)
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from providers.outbound.json_values import is_array, is_object
from server import errors
from server.administration.actor import Actor, ChangeRefused
from server.deployment import Deployment
from server.errors import status_of, words_of
from server.http.answers import SECRET, WholeAnswer
from server.http.bodies import BodyTooLarge, read_body
from server.http.strict_json import json_object
from server.scim.resources import POLICY
from vault import directory, users
from vault.directory import DirectoryToken, UserNameTaken
from vault.groups import GroupNameRefused, GroupNameTaken
from vault.refusals import VaultError
from vault.storage.database import Transaction

BODY_LIMIT: Final = 1024 * 1024  # bytes: a group of 10,000
MOST_OPERATIONS: Final = 100  # operations of one PATCH; each goes through all values of its attribute
_TYPE: Final = (b"content-type", b"application/scim+json")
_TYPES: Final = frozenset({"application/scim+json", "application/json"})
_MOST_PARAMETERS: Final = 20
_log = logging.getLogger("token_vault.scim")
Some = TypeVar("Some", bound=Resource[Any])


@dataclass(frozen=True, slots=True)
class ScimCall:
    """A request of a directory, after the checks that every operation shares."""

    deployment: Deployment
    request: Request
    actor: Actor
    secret: str = field(repr=False)

    def param(self, name: str) -> str:
        """A part of the path. One with NUL, which no database stores, is nothing's name."""
        found = str(self.request.path_params[name])
        if "\0" in found or len(found) > 200:
            raise NotFoundException
        return found

    def query(self) -> dict[str, object]:
        """The query's parameters, each at most once."""
        try:
            text = self.request.scope["query_string"].decode("ascii")
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
        except (UnicodeError, ValueError) as error:
            raise InvalidValueException(detail="The query can't be read.") from error
        found: dict[str, object] = dict(pairs)
        if len(found) != len(pairs) or any("\0" in str(value) for value in found.values()):
            raise InvalidValueException(detail="A parameter was sent twice, or has a NUL character.")
        return found

    def response_parameters(self) -> ResponseParameters[Any]:
        """Which attributes the answer has (RFC 7644 §3.9)."""
        wanted = {name: value for name, value in self.query().items() if name in {"attributes", "excludedAttributes"}}
        return ResponseParameters[Any].model_validate(wanted)

    async def body(self) -> dict[str, object]:
        """The JSON object that was sent."""
        types = self.request.headers.getlist("content-type")
        if len(types) != 1 or types[0].split(";", 1)[0].strip().lower() not in _TYPES:
            raise InvalidSyntaxException(detail="Send the body as application/scim+json.")
        try:
            sent = await read_body(self.request.receive, limit=BODY_LIMIT)
            await _find_token(self.deployment, self.secret)
            content = json_object(sent)
            _check_storable(content)
        except BodyTooLarge as error:
            raise ScimRefused("body_too_large", f"The body is larger than {BODY_LIMIT // 1024} KiB.") from error
        except (ValueError, RecursionError, ClientDisconnect) as error:
            raise InvalidSyntaxException(detail="The body isn't a JSON object that can be stored.") from error
        return content

    def check_version(self, found: Resource[Any]) -> None:
        """RFC 7644 §3.14: a change with `If-Match` is for this version only."""
        wanted = self.request.headers.get("if-match")
        version = None if found.meta is None else found.meta.version
        if wanted is not None and wanted.strip() != "*" and version not in _tags(wanted):
            raise PreconditionFailedException(detail="The resource has changed: read it again.")


class ScimRefused(SCIMException):
    """A refusal for which SCIM has no keyword, with a status of `server.errors.KINDS`."""

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail=detail)
        self.status = status_of(kind)
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class DirectoryCaller:
    """A directory with its token."""

    deployment: Deployment
    secret: str = field(repr=False)

    async def check(self, transaction: Transaction) -> None:
        """Raises ScimRefused."""
        if not await directory.hold_token(transaction, self.secret, now=self.deployment.now()):
            raise _refused_token(self.secret)


Operation = Callable[[ScimCall], Awaitable[Response]]


async def answer(deployment: Deployment, request: Request, operations: Mapping[str, Operation]) -> Response:
    """Check who calls, run the operation, and write what it returns or refuses."""
    try:
        secret = _sent_token(request)
        name = await _caller(deployment, secret)
        _check_rate(deployment, name)
        operation = _operation(request, operations)
        own = deployment.for_caller(DirectoryCaller(deployment, secret))
        return await operation(ScimCall(own, request, Actor(own, None, "scim", directory=name), secret))
    except ScimRefused as refused:
        return _error(refused.to_error(), refused.headers)
    except SCIMException as refused:
        return _error(refused.to_error())
    except ValidationError as refused:
        return _error(Error.from_validation_errors(refused)[0])
    except VaultError as refused:
        return _error(_error_of(refused))


def _check_rate(deployment: Deployment, name: str) -> None:
    wait = deployment.admin_requests.spend("scim", name, now=time.monotonic())
    if wait:
        headers = {"Retry-After": str(wait)}
        raise ScimRefused("too_many_requests", f"Too many requests: try again in {wait} s.", headers)


def _operation(request: Request, operations: Mapping[str, Operation]) -> Operation:
    if not operations:
        raise NotFoundException
    found = operations.get("GET" if request.method == "HEAD" else request.method)
    if found is None:
        headers = {"Allow": ", ".join(sorted(operations))}
        raise ScimRefused("method_not_allowed", "This path has no such method.", headers)
    return found


def _check_storable(value: object) -> None:
    """Raises ValueError where a text has NUL, which no database stores."""
    if isinstance(value, str) and "\0" in value:
        raise ValueError("NUL")
    if is_object(value):
        for key, one in value.items():
            _check_storable(key)
            _check_storable(one)
    elif is_array(value):
        for one in value:
            _check_storable(one)


def _sent_token(request: Request) -> str:
    """The bearer token of the one Authorization header (RFC 6750 §2.1); empty if there is none."""
    sent = request.headers.getlist("authorization")
    scheme, _, secret = (sent[0] if len(sent) == 1 else "").partition(" ")
    if scheme.lower() != "bearer":
        raise _refused_token(secret)
    return secret.strip()


async def _caller(deployment: Deployment, secret: str) -> str:
    """The name of the directory's token."""
    token, now = await _find_token(deployment, secret), deployment.now()
    if token.used_at is None or token.used_at < now - directory.USED_EVERY:
        async with deployment.transaction() as transaction:
            await directory.note_use(transaction, token.name, now=now)
    return token.name


async def _find_token(deployment: Deployment, secret: str) -> DirectoryToken:
    token = await directory.find_token(deployment.database, secret, now=deployment.now())
    if token is None:
        raise _refused_token(secret)
    return token


def _refused_token(secret: str) -> ScimRefused:
    challenge = 'Bearer realm="scim"' + (', error="invalid_token"' if secret else "")
    headers = {"WWW-Authenticate": challenge}
    return ScimRefused("invalid_token", "Send the bearer token of a directory.", headers)


def _error_of(refusal: VaultError) -> Error:
    match refusal:
        case users.NameTaken() | UserNameTaken() | GroupNameTaken():
            detail = words_of(refusal)
            if isinstance(refusal, users.NameTaken):
                detail += (
                    " If it is the same person, an admin can let the directory manage them: token-vault scim adopt"
                )
            return UniquenessException(detail=detail).to_error()
        case users.NameRefused() | GroupNameRefused():
            return InvalidValueException(detail=words_of(refusal)).to_error()
        case ChangeRefused():
            if refusal.kind == "invalid_request":
                return InvalidValueException(detail=refusal.description).to_error()
            return Error(status=status_of(refusal.kind), detail=refusal.description)
        case _:
            return Error(status=errors.wording_of(refusal).paged_status, detail=words_of(refusal))


def _error(error: Error, headers: Mapping[str, str] | None = None) -> Response:
    _log.debug("refused", extra={"detail": error.detail})
    more = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return WholeAnswer(error.status or 400, [_TYPE, *SECRET, *more], error.model_dump_json().encode())


# Answers


def resource_answer(call: ScimCall, found: Resource[Any], context: Context, *, status: int = 200) -> Response:
    """A resource with its address and version (RFC 7644 §3.1, §3.14)."""
    version = None if found.meta is None else found.meta.version
    headers = [_TYPE, *SECRET]
    if version is not None:
        headers.append((b"etag", version.encode()))
        if context is Context.RESOURCE_QUERY_RESPONSE and version in _tags(
            call.request.headers.get("if-none-match", "")
        ):
            return WholeAnswer(HTTPStatus.NOT_MODIFIED, headers)
    if found.meta is not None and found.meta.location is not None:
        name = b"location" if status == HTTPStatus.CREATED else b"content-location"
        headers.append((name, found.meta.location.encode()))
    content = found.model_dump_json(scim_ctx=context, response_parameters=call.response_parameters())
    return WholeAnswer(status, headers, content.encode())


def document_answer(content: str) -> Response:
    """A message as it stands."""
    return WholeAnswer(HTTPStatus.OK, [_TYPE, *SECRET], content.encode())


def empty_answer() -> Response:
    """RFC 7644 §3.6: deleted."""
    return WholeAnswer(HTTPStatus.NO_CONTENT, list(SECRET))


async def read_patch(call: ScimCall, model: type[Some]) -> PatchOp[Some]:
    """The operations of a PATCH (RFC 7644 §3.5.2), a bounded number. Raises ScimRefused."""
    content = await call.body()
    if any(is_array(value) and len(value) > MOST_OPERATIONS for value in content.values()):
        raise ScimRefused("body_too_large", f"Send at most {MOST_OPERATIONS} operations at a time.")
    return PatchOp[model].model_validate(content, scim_ctx=Context.RESOURCE_PATCH_REQUEST, scim_policy=POLICY)


def parse(model: type[Some], content: Mapping[str, object], context: Context) -> Some:
    """What was sent, as the resource."""
    return model.model_validate(dict(content), scim_ctx=context, scim_policy=POLICY)


def _tags(header: str) -> frozenset[str]:
    return frozenset(one.strip() for one in header.split(","))

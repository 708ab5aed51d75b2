"""Refusals of the Admin API as problem documents (RFC 9457), from the one table of refusals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from server import errors
from server.administration.actor import ChangeRefused
from server.deployment import Deployment
from server.errors import KINDS, PersonRefused
from server.http.answers import WholeAnswer, problem_answer
from server.oauth.rules import admin_resource
from vault.refusals import VaultError
from vault.spans import REQUEST_ID

_log = logging.getLogger("token_vault.api")


class FieldProblem(BaseModel):
    """One value of a request that must be corrected."""

    model_config = ConfigDict(frozen=True)

    pointer: str = Field(description="The value in the body, as a JSON pointer, or the query parameter's name")
    message: str = Field(description="What is wrong with it")


class DifferenceRecord(BaseModel):
    """One value that changes; never a secret."""

    model_config = ConfigDict(frozen=True)

    name: str
    before: object
    after: object


class ChangeRecord(BaseModel):
    """One thing that is created, changed, or removed."""

    model_config = ConfigDict(frozen=True)

    change: Literal["create", "update", "remove"]
    kind: Literal["person", "group", "agent", "api", "provider", "mcp_server", "imported_api"]
    name: str
    differences: list[DifferenceRecord]
    secret: str | None = Field(repr=False, description="A new sign-in link or client secret. Shown only here")


class Problem(BaseModel):
    """A refusal (RFC 9457)."""

    type: str = Field(description="Address of the kind of problem; `code` is easier to compare")
    title: str = Field(description="The kind of problem in words")
    status: int = Field(description="The HTTP status")
    detail: str = Field(description="What happened, and what to do")
    code: str = Field(description="Stable name of the problem")
    errors: list[FieldProblem] = Field(default=[], description="Values to correct")
    changes: list[ChangeRecord] | None = Field(
        default=None, repr=False, description="Only when applying: the changes that were made before; they stay"
    )
    request_id: str = Field(default="", description="The ID of this request in the log and the activity")


class ApiRefused(PersonRefused):
    """A request that the API does not carry out. `kind` is one of `server.errors.KINDS`."""

    code = "request_refused"

    def __init__(
        self,
        kind: str,
        description: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(description, kind=kind, detail=detail)
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class ApplyStopped(Exception):
    """A refusal after changes were made, which stay."""

    def __init__(self, refusal: VaultError, changes: Sequence[ChangeRecord]) -> None:
        super().__init__(refusal.description)
        self.refusal = refusal
        self.changes = changes


def title_of(kind: str) -> str:
    """A kind of refusal in words."""
    return kind.replace("_", " ").capitalize()


def problem_of(deployment: Deployment, refusal: VaultError | ApplyStopped) -> WholeAnswer:
    """The answer to a refused request."""
    changes: list[ChangeRecord] | None = None
    if isinstance(refusal, ApplyStopped):
        refusal, changes = refusal.refusal, list(refusal.changes)
    match refusal:
        case ApiRefused():
            kind, code, fields, headers = refusal.kind, refusal.kind, refusal.errors, refusal.headers
        case ChangeRefused():
            pointer = "/" + refusal.field.replace(".", "/")
            fields = (FieldProblem(pointer=pointer, message=refusal.description),) if refusal.field else ()
            kind, code, headers = refusal.kind, refusal.reason, dict[str, str]()
        case PersonRefused():
            kind, code, fields, headers = refusal.kind, refusal.code, (), dict[str, str]()
        case _:
            wording = errors.wording_of(refusal)
            kind = wording.paged or wording.kind
            code, fields, headers = refusal.code, (), dict[str, str]()
    wait = errors.retry_after(refusal)
    if wait is not None:
        headers = {**headers, "Retry-After": str(wait)}
    status = KINDS[kind].status
    _log.log(
        logging.ERROR if status >= 500 else logging.DEBUG,
        "request refused",
        extra={"code": code, "detail": refusal.detail, "status": status},
    )
    problem = Problem(
        type=f"{admin_resource(deployment.public_url)}#{kind}",
        title=title_of(kind),
        status=status,
        detail=errors.words_of(refusal),
        code=code,
        errors=list(fields),
        changes=changes,
        request_id=REQUEST_ID.get() or "",
    )
    return problem_answer(status, problem.model_dump(exclude={"changes"} if changes is None else None), headers)

"""How an operation of the Admin API is declared: as a typed function, whose signature is its schema.

`query` and `body` are the models of the request, and the result is the model of the answer. The docstring is the
description. The route table and the OpenAPI document are made from the declarations, so neither can differ from the
code that runs.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

from server.administration.actor import Actor
from server.api.problems import ApiRefused, FieldProblem
from server.deployment import Deployment
from vault.records import Client, Principal, User

Item = TypeVar("Item")
Content = TypeVar("Content", bound=BaseModel)
Verb = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CLIENT_ID: Final = re.compile(r"[!-~]{1,2048}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")
_CONVERTER: Final = re.compile(r"\{(\w+)(:path)?\}")
MOST: Final = 200  # items of a page
BODY_LIMIT: Final = 256 * 1024  # bytes


class Strict(BaseModel):
    """A model of a request: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=4096)


class ApiOutput(BaseModel):
    """A model of an answer."""

    model_config = ConfigDict(frozen=True)


class ListPage(ApiOutput, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(default=None, description="`cursor` of the next page; null at the end")


class PageQuery(Strict):
    """Which page of a list."""

    limit: int = Field(default=50, ge=1, le=MOST, description="The maximum number of items on a page")
    cursor: str | None = Field(default=None, max_length=2048, description="`next_cursor` of the previous page")


@dataclass(frozen=True, slots=True)
class TaggedAnswer(Generic[Content]):
    """An answer with an entity tag, for `If-Match`."""

    content: Content
    etag: str


@dataclass(frozen=True, slots=True)
class AdminCall:
    """A request of an admin's client, after all checks that every operation shares."""

    deployment: Deployment
    principal: Principal
    user: User
    client: Client
    parameters: Mapping[str, str]
    if_match: str | None = None
    idempotency_key: str | None = None

    @property
    def actor(self) -> Actor:
        """The admin who makes the change."""
        return Actor(self.deployment, self.user, "admin_api", agent=self.client)

    def param(self, name: str) -> str:
        """A part of the path. Raises ApiRefused if it can't be an ID."""
        value = self.parameters[name]
        if _pattern(name).fullmatch(value) is None:
            raise ApiRefused("not_found", "Nothing has this ID.")
        return value


_PLAIN: Final = frozenset(
    {"person_id", "group_id", "connection_id", "standing_id", "provider", "webhook_id", "request_id"}
)


def _pattern(name: str) -> re.Pattern[str]:
    return _NUMBER if name == "sequence" else _ID if name in _PLAIN else _CLIENT_ID


@dataclass(frozen=True, slots=True)
class AdminOperation:
    """One method of one path, below `/admin/v1`. With an empty `scope`, no token is needed."""

    method: Verb
    path: str
    scope: str
    name: str
    summary: str
    description: str
    run: Callable[..., Awaitable[object]]
    status: int
    query: type[BaseModel] | None
    body: type[BaseModel] | None
    answer: object
    refusals: tuple[str, ...]
    media_types: tuple[str, ...]
    has_etag: bool
    is_repeatable: bool
    only_reads: bool
    body_limit: int  # bytes

    @property
    def changes(self) -> bool:
        return self.method != "GET" and not self.only_reads

    @property
    def template(self) -> str:
        """The path in OpenAPI's form."""
        return _CONVERTER.sub(r"{\1}", self.path)

    @property
    def parameters(self) -> Sequence[str]:
        """The names of the parts of the path."""
        return [found[1] for found in _CONVERTER.finditer(self.path)]

    @staticmethod
    def schema_of(name: str) -> dict[str, object]:
        """The schema of a part of the path."""
        if name == "sequence":
            return {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}
        return {"type": "string", "pattern": f"^{_pattern(name).pattern}$"}


def operation(
    method: Verb,
    path: str,
    *,
    scope: str,
    status: int = 200,
    refusals: Sequence[str] = (),
    media_types: Sequence[str] = ("application/json",),
    has_etag: bool = False,
    is_repeatable: bool = False,
    only_reads: bool = False,
    body_limit: int = BODY_LIMIT,
) -> Callable[[Callable[..., Awaitable[object]]], AdminOperation]:
    """Declare a function as an operation. `refusals` are kinds in addition to those that every operation has.

    `has_etag`: its answer has one, or it takes `If-Match`; `is_repeatable`: it takes an `Idempotency-Key`;
    `only_reads`: it changes nothing although its method isn't GET, so auditors can use it.
    """

    def declare(run: Callable[..., Awaitable[object]]) -> AdminOperation:
        hints = get_type_hints(run)
        lines = (run.__doc__ or "").strip().split("\n\n", 1)
        return AdminOperation(
            method=method,
            path=path,
            scope=scope,
            name=run.__name__,
            summary=" ".join(lines[0].split()).rstrip("."),
            description=" ".join(lines[1].split()) if len(lines) > 1 else "",
            run=run,
            status=status,
            query=model_of(hints.get("query")),
            body=model_of(hints.get("body")),
            answer=_answer_of(hints["return"]),
            refusals=tuple(refusals),
            media_types=tuple(media_types),
            has_etag=has_etag,
            is_repeatable=is_repeatable,
            only_reads=only_reads,
            body_limit=body_limit,
        )

    return declare


def _answer_of(hint: object) -> object:
    """The model of the answer, without its entity tag."""
    return get_args(hint)[0] if get_origin(hint) is TaggedAnswer else hint


def model_of(hint: object) -> type[BaseModel] | None:
    """The model that an annotation names, if it is one."""
    return hint if isinstance(hint, type) and issubclass(hint, BaseModel) else None


def instant(at: int | None) -> str | None:
    """An instant in the format of RFC 3339."""
    return None if at is None else instant_of(at)


def instant_of(at: int) -> str:
    """The same for an instant that is never None."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_cursor(*place: str | int) -> str:
    """A cursor for a place in a list."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, *kinds: type) -> tuple[str | int, ...] | None:
    """The place of a cursor; None without one. Raises ApiRefused for a cursor that we didn't write."""
    if cursor is None:
        return None
    try:
        place: object = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        place = None
    if not isinstance(place, list) or [type(one) for one in place] != list(kinds):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- parsed JSON
        raise _bad_cursor()
    for one in place:  # pyright: ignore[reportUnknownVariableType] -- as above
        if isinstance(one, int) and not -(2**62) < one < 2**62:
            raise _bad_cursor()
        if isinstance(one, str) and ("\0" in one or not one.isprintable()):
            raise _bad_cursor()
    return tuple(place)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- checked above


def _bad_cursor() -> ApiRefused:
    problem = FieldProblem(pointer="cursor", message="pass the `next_cursor` of the previous page, unchanged")
    return ApiRefused("invalid_request", "This cursor isn't valid.", errors=[problem])

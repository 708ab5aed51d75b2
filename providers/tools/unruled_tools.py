"""Two tools for a service without request rules: one reads, one makes any other call. They exist only if the operator's
setting `unruled_calls` adds the scopes `any:read` and `any:call` to a provider, or if the rules of a service with a
credential allow every path. `providers.api.api` sends to that provider's APIs only, follows no redirect, and masks the
token in answers.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, create_model
from pydantic_core import to_json

from providers.api.api import RuleRefused, UpstreamAPI, UpstreamRefused
from providers.api.rules import changes_method, is_credential, is_credential_in_query, of_path
from providers.definitions.model import Method, Provider
from providers.definitions.paths import path_problem
from providers.definitions.unruled_calls import ANY_CALL, ANY_READ, EVERYTHING, UNRULED
from providers.tools.spec import Call, Progress, ToolInput, ToolOutput, ToolSpec

_LONGEST: Final = 60_000  # characters of JSON in one answer
_PARAMETERS: Final = 100
_WRITES: Final[tuple[Method, ...]] = ("POST", "PUT", "PATCH", "DELETE")


class ApiAnswer(ToolOutput):
    """The answer of the API, unchanged; a list is in `items`."""

    answer: Annotated[dict[str, object], Field(description="JSON of the API; a list is in `items`")]


class _Arguments(ToolInput):
    path: Annotated[
        str,
        Field(
            pattern=r"^/[^?#]*$",
            max_length=2000,
            description="Path below the API's address, percent-encoded, without a query",
        ),
    ]
    query: Annotated[
        dict[str, str | int | bool] | None,
        Field(default=None, max_length=_PARAMETERS, description="Query parameters"),
    ]


def unruled_tools(provider: Provider, *, asks: bool) -> tuple[ToolSpec, ...]:
    """The tools for the calls that the operator allows there; none by default. `asks`: the person approves each
    write."""
    found: list[ToolSpec] = []
    if ANY_READ in provider.unruled_scopes:
        found.append(_tool(provider, ANY_READ, (), asks=False))
    if ANY_CALL in provider.unruled_scopes:
        reads: tuple[Method, ...] = ("GET",) if provider.unruled.unsafe_reads else ()
        found.append(_tool(provider, ANY_CALL, (*reads, *_WRITES), asks=asks))
    return tuple(found)


def open_tools(provider: Provider) -> tuple[ToolSpec, ...]:
    """The same two tools for a service with a credential whose own rules allow every path, once it is turned on.

    The person decides for each agent whether they approve its writes.
    """
    if provider.credential is None or not provider.registration.is_on or provider.unruled_scopes:
        return ()
    first = next(iter(provider.apis), "")
    found: list[ToolSpec] = []
    reading = _scope_of(provider, first, "GET")
    if reading and provider.scopes[reading].reads:
        found.append(_tool(provider, reading, (), asks=False))
    writes: tuple[Method, ...] = tuple(one for one in _WRITES if _scope_of(provider, first, one))
    if writes and (writing := _scope_of(provider, first, writes[0])):
        found.append(_tool(provider, writing, ("GET", *writes), asks=False))  # some GETs need the scope for changes
    return tuple(found)


def _scope_of(provider: Provider, api: str, method: Method) -> str | None:
    """The scope that allows every path with these methods; None if the rules name paths."""
    for rule in provider.rules_by_call.get((api, method), ()):
        if rule.path == EVERYTHING and not rule.where and not rule.needs and not rule.tells_secrets:
            return min(rule.scopes)
    return None


def _tool(provider: Provider, scope: str, methods: tuple[Method, ...], *, asks: bool) -> ToolSpec:
    verb = "call" if methods else "get"
    what = "Send any other request to" if methods else "GET anything from"
    addresses = ", ".join(f"{key} {url}" if len(provider.apis) > 1 else url for key, url in provider.apis.items())
    model = _input(provider, methods)
    checked = (
        "host and method only" if scope in UNRULED else "host and method, and keeps back what sounds like a credential"
    )
    return ToolSpec(
        name=f"{provider.name.replace('-', '_')}_api_{verb}",
        title=f"{'Call' if methods else 'Read from'} the API of {provider.title}",
        description=f"{what} the API of {provider.title} ({addresses}), as its documentation describes. "
        f"Use another tool where one fits. The vault checks {checked}.",
        provider=provider.name,
        scopes=frozenset({scope}),
        effect="delete" if methods else "read",  # it may be a deletion, so clients get the worst case
        input=model,
        output=ApiAnswer,
        call=_caller(provider, model, is_write=bool(methods)),
        approval=asks,
    )


def _input(provider: Provider, methods: tuple[Method, ...]) -> type[_Arguments]:
    fields: dict[str, Any] = {}  # pydantic takes types as values
    keys = tuple(provider.apis)
    if len(keys) > 1:
        fields["api"] = (Literal[keys], Field(default=keys[0], description="Which API"))
    if methods:
        fields["method"] = (Literal[methods], Field(description="HTTP method"))
        fields["body"] = (
            dict[str, object] | None,
            Field(default=None, max_length=_PARAMETERS, description="JSON object to send"),
        )
    name = "ApiCallInput" if methods else "ApiGetInput"
    return create_model(name, __base__=_Arguments, **fields)


def _caller(provider: Provider, model: type[_Arguments], *, is_write: bool) -> Call:
    first = next(iter(provider.apis))

    async def call(api: UpstreamAPI, arguments: BaseModel, progress: Progress) -> BaseModel:
        if not isinstance(arguments, model):
            raise TypeError(f"this tool takes {model.__name__}")
        method: Method = getattr(arguments, "method", "GET")
        body: dict[str, object] | None = getattr(arguments, "body", None)
        _check(provider, arguments.path, query=set(arguments.query or {}), body=set(body or {}))
        place = getattr(arguments, "api", first)
        if any(rule.tells_secrets for rule in of_path(provider, api=place, method=method, path=arguments.path)):
            raise RuleRefused("Nothing was sent: the answer would contain a credential.")
        answer = await api.send(
            method,
            place,
            arguments.path,
            params=arguments.query,
            body=body,
            is_write=is_write or bool(provider.unruled.unsafe_reads),
        )
        if len(to_json(answer)) > _LONGEST:
            raise UpstreamRefused(
                "too_large",
                f"The answer of {provider.title} is longer than {_LONGEST} characters. Ask for less, with the API's "
                "parameters for fields or page size.",
            )
        return ApiAnswer(answer=dict(answer))

    return call


def _check(provider: Provider, path: str, *, query: set[str], body: set[str]) -> None:
    """Refuse a path that two servers could read differently, and parameters with a credential or a method."""
    problem = path_problem(path) or ("the path has an encoded slash" if "%2f" in path.lower() else None)
    if problem is not None:
        raise RuleRefused(f"Nothing was sent: {problem}. Percent-encode it as RFC 3986 says.")
    for name in sorted(query | body):
        if is_credential(provider, name) or (name in query and is_credential_in_query(provider, name)):
            raise RuleRefused(f"Nothing was sent: omit {name[:40]}. It's a credential, and the vault adds its own.")
        if changes_method(provider, name):
            raise RuleRefused(f"Nothing was sent: omit {name[:40]}. It would change the method.")

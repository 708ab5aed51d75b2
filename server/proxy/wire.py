"""Parsing of requests, and what the proxy lets through in both directions. Pure: bytes in, typed values or refusals
out.

Anything that two servers could parse differently is refused, never corrected: the provider must see the call that was
checked. `server.proxy.endpoint` decides who may make the call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

from starlette.datastructures import Headers

from providers.api.masking import Replacer
from providers.api.rules import changes_method, header_changes_method, is_credential, is_credential_in_query
from providers.credentials.aws import header_passes
from providers.definitions.catalog import Provider
from providers.definitions.paths import path_problem
from providers.outbound.json_values import is_array, is_object
from server.errors import status_of
from server.http.strict_json import decode, has_more_parts

# Limits for one JSON body: parts that cost more to parse than their size suggests, and block all other calls meanwhile.
_MOST_NESTED: Final = 50_000  # objects and arrays
_MOST_VALUES: Final = 200_000
_MOST_NAMES: Final = 1000  # parameters, as in a form
_DEPTH: Final = 100
_SHOWN: Final = 40  # characters of a name
_UPLOAD: Final = "/upload/"  # where Google's SDKs send files: below the origin of the given address
_TARGET_LIMIT: Final = 8192
_QUERY: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@%/?;\[\]{}|^`\"<>\\-]*")
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = frozenset({"application/json", "application/x-amz-json-1.0", "application/x-amz-json-1.1"})
_LENGTH: Final = re.compile(r"[0-9]{1,20}")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_.$-]*")
_PLAIN_MEMBER: Final = re.compile(r"@?" + _PLAIN_NAME.pattern)  # OData's annotations of a JSON object begin with `@`

# The headers that carry a call's meaning; all others are dropped. Not `Range`: parts of a repeated credential could be
# too short to be recognized. Hosts of downloads get it, because they get no credential.
_PASSED: Final = frozenset(
    {
        *("accept", "accept-language", "content-language", "content-type", "idempotency-key", "if-match"),
        *("if-modified-since", "if-none-match", "if-unmodified-since", "prefer", "user-agent"),
    }
)
_PREFERENCES: Final = frozenset({"return", "respond-async", "wait", "handling"})  # RFC 7240 section 4
_SINGLE: Final = frozenset({"content-type", "content-length"})
# All headers of an answer pass, except those about this hop, about the provider's own pages, or ours to set.
_KEPT_BACK: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "trailers", "transfer-encoding", "upgrade"),
        *("set-cookie", "set-cookie2", "clear-site-data", "www-authenticate", "authentication-info", "dpop-nonce"),
        *("authorization", "cookie", "forwarded", "via", "x-real-ip", "alt-svc", "strict-transport-security"),
        *("content-security-policy", "content-security-policy-report-only", "x-content-type-options", "nel"),
        *("report-to", "reporting-endpoints", "service-worker-allowed", "sourcemap", "x-sourcemap", "refresh"),
        *("content-encoding", "content-length", "cache-control", "expires", "pragma", "age", "vary", "date", "server"),
        *("location", "x-accel-redirect", "x-sendfile", "public-key-pins", "x-guploader-uploadid"),
    }
)
_KEPT_BACK_PREFIXES: Final = ("access-control-", "x-forwarded-", "token-vault-", "sec-", "x-accel-")
DECODED: Final = frozenset({"identity", "gzip", "deflate", "br", "zstd"})  # by the outbound client


def shown_name(name: str) -> str:
    """As much of a sent name as a refusal repeats."""
    return name[:_SHOWN]


class ProxyRefused(Exception):
    """The proxy's own refusal; nothing reached the provider unless the text says so. `detail` is for the log.

    `kind` is one of `server.errors.KINDS`, if that is not `code` itself.
    """

    def __init__(
        self,
        code: str,
        description: str,
        *,
        kind: str = "",
        detail: str = "",
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.description = description
        self.status = status_of(kind or code)
        self.detail = detail
        self.headers: Mapping[str, str] = headers or {}
        self.more: Mapping[str, object] = more or {}  # further members of the problem


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a request line: `path` below the API's base, as it was sent.

    For an upload at the origin, `path` is the whole path; the handle determines the rest.
    """

    connection_id: str
    api: str
    path: str


# The request line


@lru_cache(maxsize=1024)
def read_target(raw_path: bytes) -> Target:
    """Connection, API, and path. Raises ProxyRefused for anything ambiguous."""
    path = raw_path.decode("latin-1")
    if len(path) > _TARGET_LIMIT:
        raise _ambiguous("the path is too long")
    if path.startswith(_UPLOAD):
        connection, api, below = "", "", path
    else:
        match path.split("/", 4):
            case ["", "proxy", connection, api, *rest] if connection and api:
                below = "/" + "".join(rest)
            case _:
                raise _no_target()
    if below == "/":  # `aim` judges that
        return Target(connection, api, below)
    if (problem := path_problem(below.removesuffix("/") or below)) is not None:  # `aim` judges a slash at the end
        raise _ambiguous(problem)
    if "%2f" in below.lower():
        raise _ambiguous("the path has an encoded slash")
    return Target(connection, api, below)


def aim(target: Target, provider: Provider, connection_id: str) -> Target | None:
    """The target as the provider's APIs have it; None for another account or API.

    Some SDKs append the whole path of their API to the given address. Raises ProxyRefused for a trailing slash if the
    provider's paths have none, and for an empty path if no rule covers that.
    """
    if target.path == "/":
        if not any(rule.path == "/" and rule.api == target.api for rule in provider.rules):
            raise _no_target()
        return target if target.connection_id == connection_id and target.api in provider.apis else None
    if target.path.endswith("/") and not provider.trailing_slash:
        raise _ambiguous("the path ends with a slash")
    if target.connection_id and (target.connection_id != connection_id or target.api not in provider.apis):
        return None
    path = target.path.removesuffix("/") + "/" * provider.trailing_slash
    for base, api in provider.proxied.longest_paths:
        if path.startswith(base + "/"):
            return Target(connection_id, api, path.removeprefix(base))
    return Target(connection_id, target.api, path) if target.connection_id else None


def _no_target() -> ProxyRefused:
    return ProxyRefused("unknown_target", "Use the path /proxy/CONNECTION/API/PATH.")


def _ambiguous(detail: str) -> ProxyRefused:
    return ProxyRefused(
        "ambiguous_path", f"Two servers could read this path differently: {detail}. Nothing was sent.", detail=detail
    )


# CallParameters


@dataclass(frozen=True, slots=True)
class CallParameters:
    """Names and values of a query or a body. `repeated`: names where the provider chooses which value applies.
    `sent`: the names as they were sent, where a name like `a[b]` is a path. `is_split`: some servers would find more of
    them, after a `;`.
    """

    values: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    repeated: frozenset[str] = frozenset()
    sent: frozenset[str] = frozenset()
    is_split: bool = False


def read_query(raw_query: bytes, provider: Provider) -> CallParameters:
    """The parameters of a query. Raises ProxyRefused for one that carries a credential or another method."""
    if not raw_query:
        return CallParameters()
    query = raw_query.decode("latin-1")
    if len(query) > _TARGET_LIMIT or _QUERY.fullmatch(query) is None or _BAD_ESCAPE.search(query) is not None:
        raise ProxyRefused("invalid_query", "The query is too long or has characters that must be escaped.")
    found = _form(query, provider)
    for name in found.sent:
        if is_credential_in_query(provider, name):
            raise _credential(name)
    return found


def query_pairs(raw_query: bytes) -> list[tuple[str, str]]:
    """All names and values of a query that `read_query` accepted."""
    return parse_qsl(raw_query.decode("latin-1"), keep_blank_values=True)


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a form, in any spelling of the type."""
    return content_type.lower().startswith(_FORM)


def is_json(content_type: str) -> bool:
    """Whether a body of this type is JSON and nothing else."""
    return content_type.partition(";")[0].strip().lower() in _JSON


def read_body(content_type: str, body: bytes, provider: Provider, *, is_judged: bool) -> CallParameters | None:
    """The parameters of a JSON object or a form; None for other JSON.

    Raises ProxyRefused if the body is neither, or is other JSON while rules need parameters.
    """
    kind, _, parameters = content_type.partition(";")
    named = [one.strip().lower().partition("=") for one in parameters.split(";")]
    charsets = {value.strip().strip('"') for name, _, value in named if name.strip() == "charset"}
    try:
        if not body:
            return CallParameters()
        if not content_type.isascii():  # a blank that we would strip, and others would not
            raise ProxyRefused("unsupported_body", "The content type has invalid characters.")
        if not charsets <= {"utf-8", "us-ascii"}:
            raise ProxyRefused("unsupported_body", "Encode the body as UTF-8.")
        text = body.decode("utf-8")
        match kind.strip().lower():
            case found if found in _JSON:
                if has_more_parts(body, nested=_MOST_NESTED, values=_MOST_VALUES):
                    return _leave_unread("too many objects, arrays, or values", is_judged=is_judged)
                return _json(text, provider, is_judged=is_judged)
            case found if found == _FORM:
                return _form(text, provider)
            case _:
                raise ProxyRefused(
                    "unsupported_body",
                    "The vault checks the parameters of this call: send them as JSON or as a form.",
                )
    except (ValueError, RecursionError) as error:
        raise ProxyRefused("invalid_body", "The body doesn't match its content type.") from error


def _form(text: str, provider: Provider) -> CallParameters:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError as error:
        raise ProxyRefused("invalid_query", "The parameters can't be read.") from error
    return _parameters(pairs, provider, has_paths=provider.nested_names)


def _json(text: str, provider: Provider, *, is_judged: bool) -> CallParameters | None:
    content = decode(text)
    _check_depth(content)
    if content is None:
        return CallParameters()
    if not isinstance(content, dict):
        if not is_judged:
            return None
        raise ProxyRefused(
            "unsupported_body", "The vault checks the parameters of this call: send a single JSON object."
        )
    members: dict[str, object] = content  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
    if len(members) > _MOST_NAMES:
        return _leave_unread(f"more than {_MOST_NAMES} members", is_judged=is_judged)
    return _parameters(list(members.items()), provider)


def parse_fields(parameters: CallParameters, names: frozenset[str]) -> CallParameters:
    """The parameters with the JSON in these texts parsed. Raises ProxyRefused if one isn't JSON that all parsers read
    alike."""
    values = dict(parameters.values)
    for name in names & values.keys():
        text = values[name]
        if not isinstance(text, str) or not text:
            continue
        if has_more_parts(text.encode("utf-8", "surrogatepass"), nested=_MOST_NESTED, values=_MOST_VALUES):
            _leave_unread(f"too many objects, arrays, or values in {name}", is_judged=True)
        try:
            values[name] = content = decode(text)
            _check_depth(content)
        except (ValueError, RecursionError) as error:
            raise ProxyRefused("invalid_body", f"The text of {name} isn't valid JSON.") from error
    return replace(parameters, values=values)


def _leave_unread(why: str, *, is_judged: bool) -> None:
    """None for a body that needn't be checked. Raises ProxyRefused."""
    if is_judged:
        raise ProxyRefused("body_too_large", f"The body has {why}, and the vault must check them. Split the call.")


def _check_depth(content: object) -> None:
    """Check the body level by level, so that later recursion can't exceed its limit. Raises ValueError."""
    level: list[object] = [content]
    for _ in range(_DEPTH):
        level = [
            value
            for one in level
            for value in (one.values() if is_object(one) else one if is_array(one) else ())
            if isinstance(value, (dict, list))
        ]
        if not level:
            return
    raise ValueError("too deep")


def _parameters(pairs: Sequence[tuple[str, object]], provider: Provider, *, has_paths: bool = False) -> CallParameters:
    values: dict[str, object] = {}
    repeated: set[str] = set()
    for name, value in pairs:
        if is_credential(provider, name):
            raise _credential(name)
        if changes_method(provider, name):
            told = f"Omit the parameter {shown_name(name)}: it would change the method."
            raise ProxyRefused("method_override", told)
        if has_paths:
            first, *inner = _steps(name)
            value, name = _wrap(inner, value), first
        if name not in values:
            values[name] = value
            continue
        values[name], is_repeated = _join(values[name], value) if has_paths else (value, True)
        if is_repeated:
            repeated.add(name)
    is_split = any(";" in value for _, value in pairs if isinstance(value, str))
    return CallParameters(values, frozenset(repeated), frozenset(name for name, _ in pairs), is_split)


def _steps(name: str) -> list[str]:
    """The steps of a name like `a[b][0]`. Raises ProxyRefused for one that servers could divide in another way."""
    first, *inner = name.split("[")
    if (
        len(inner) > _DEPTH
        or not first
        or "]" in first
        or any(not one or one.find("]") != len(one) - 1 for one in inner)
    ):
        raise _two_ways(name)
    return [first, *(one[:-1] for one in inner)]


def _wrap(steps: Sequence[str], value: object) -> object:
    """The value inside the objects and arrays that the steps name; an array's step is empty or a number."""
    for step in reversed(steps):
        value = [value] if not step or step.isdecimal() else {step: value}
    return value


def _join(known: object, value: object) -> tuple[object, bool]:
    """Both values in one, and whether the provider chooses which one applies. Nothing is dropped."""
    if is_array(known) and is_array(value):
        return [*known, *value], False
    if not is_object(known) or not is_object(value):
        return [known, value], True
    members, is_repeated = dict(known), False
    for name, inner in value.items():
        members[name], chooses = _join(members[name], inner) if name in members else (inner, False)
        is_repeated |= chooses
    return members, is_repeated


def _credential(name: str) -> ProxyRefused:
    return ProxyRefused(
        "credential_refused", f"Omit the parameter {shown_name(name)}: it's a credential, and the vault adds its own."
    )


def merge(query: CallParameters, body: CallParameters, judged: Iterable[str]) -> Mapping[str, object]:
    """All parameters, where each of the `judged` ones has one value for every reader. Raises ProxyRefused."""
    names = frozenset(judged)
    if names:
        first = {name.partition("/")[0] for name in names}
        small = {name.lower() for name in first}
        for pattern, values in ((_PLAIN_NAME, query.values), (_PLAIN_MEMBER, body.values)):
            for name in values:
                if pattern.fullmatch(name) is None or (name not in first and name.lower() in small):
                    raise _two_ways(name)
        for name in first & (query.repeated | body.repeated | (query.values.keys() & body.values.keys())):
            raise _two_ways(name)
        if query.is_split:
            raise _two_ways(";")
    return {**query.values, **body.values}


def query_names(query: CallParameters) -> frozenset[str]:
    """The names in a query, with `;` where some servers would find more of them."""
    return query.sent | (frozenset({";"}) if query.is_split else frozenset[str]())


def _two_ways(name: str) -> ProxyRefused:
    return ProxyRefused(
        "ambiguous_parameter",
        f"Two servers could read the parameter {shown_name(name)!r} differently. Nothing was sent.",
    )


# Headers


def announces_more(headers: Headers, limit: int) -> bool:
    """Whether the body is longer than the limit, or its length isn't a number."""
    return any(_LENGTH.fullmatch(value) is None or int(value) > limit for value in headers.getlist("content-length"))


def request_headers(headers: Iterable[tuple[bytes, bytes]], provider: Provider) -> dict[str, str]:
    """The headers of a request that are passed on, by lowercase name.

    Raises ProxyRefused for a repeated header that must be unique, for one that would change the method, and for an AWS
    header that isn't passed on, because without it the call would have a different meaning.
    """
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    named = {part.strip().lower() for name, value in fields if name == "connection" for part in value.split(",")}
    found: dict[str, str] = {}
    for name, value in fields:
        if header_changes_method(provider, name):
            raise ProxyRefused("method_override", f"Omit the header {name}: it would change the method.")
        if name in _SINGLE and (name in named or name in found):
            raise ProxyRefused("ambiguous_header", f"The header {name} appears twice, or is hop-by-hop.")
        if name in named or not _passes(name, provider):
            continue
        found[name] = f"{found[name]}, {value}" if name in found else value
    if "prefer" in found:
        kept = _known_preferences(found.pop("prefer"), provider)
        found |= {"prefer": kept} if kept else {}
    return found


def _passes(name: str, provider: Provider) -> bool:
    credential = provider.credential
    if credential is None or credential.send.aws is None:
        return name in _PASSED or name in provider.proxied.headers
    passes = header_passes(name, _PASSED | provider.proxied.headers)
    if passes is None:
        raise ProxyRefused(
            "header_refused", f"Omit the header {shown_name(name)}: the vault doesn't pass it on to AWS."
        )
    return passes


def _known_preferences(value: str, provider: Provider) -> str:
    """The preferences that are passed on.

    A server may ignore any of them (RFC 7240 §2), so leaving one out changes nothing else.
    """
    known = _PREFERENCES | provider.proxied.preferences
    parts = (part.strip() for part in value.split(","))
    return ", ".join(part for part in parts if _preference_name(part) in known and part.count('"') % 2 == 0)


def _preference_name(part: str) -> str:
    return part.partition("=")[0].partition(";")[0].strip().lower()


def response_headers(headers: Iterable[tuple[str, str]], replacer: Replacer) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that pass, with secrets masked."""
    fields = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in fields if name == "connection" for part in value.split(",")}
    return [
        (name.encode("latin-1", "replace"), replacer.text(value).encode("utf-8", "surrogateescape"))
        for name, value in fields
        if name not in _KEPT_BACK and name not in named and not name.startswith(_KEPT_BACK_PREFIXES)
    ]

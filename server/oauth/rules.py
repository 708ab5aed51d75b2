"""The OAuth rules that need no I/O: redirect URIs, PKCE, resources, scopes, and strict reading of parameters and JSON.

Everything here is pure. What a client is, what is stored and what goes over the wire is left to the other modules.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes, urlencode, urlsplit

from server.errors import KINDS, RefusalKind
from vault.records import Client, parse_scope

MCP_PATHS: Final = ("/mcp", "/sse")

SCOPES: Final = frozenset({"tools", "exchange", "connections", "openid", "offline_access"})
# What ordinary use needs: named by the first challenge, and given to a client that asks for nothing in particular.
ORDINARY_SCOPES: Final = frozenset({"tools", "connections"})
EXCHANGE_SCOPE: Final = "exchange"  # tokens that their client, or the API they are for, may exchange
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # RFC 8693 §2.1

MAX_PARAMETERS: Final = 60
MAX_JSON_DEPTH: Final = 30


class OAuthError(Exception):
    """A request refused with a registered error code: `kind` is one of `server.errors.KINDS`, or its name.

    `description` may be shown, `detail` goes to the log only.
    """

    def __init__(
        self,
        kind: str | RefusalKind,
        description: str,
        *,
        detail: str = "",
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        answer = KINDS[kind] if isinstance(kind, str) else kind
        self.code = answer.oauth_error
        super().__init__(f"{self.code}: {description}")
        self.description = description
        self.status = answer.status
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})  # further members of the JSON answer


# Parameters and JSON ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parameters:
    """Request parameters. A parameter without a value counts as absent (RFC 6749 §3.1)."""

    values: Mapping[str, str] = field(repr=False)
    repeated: frozenset[str] = frozenset()

    def get(self, name: str) -> str | None:
        return self.values.get(name) or None

    def require(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise OAuthError("invalid_request", f"{name} is missing")
        return value

    def refuse_repeated(self) -> None:
        """RFC 6749 §3.1, §3.2: parameters MUST NOT be included more than once."""
        if self.repeated:
            code = "invalid_target" if self.repeated == frozenset({"resource"}) else "invalid_request"
            raise OAuthError(code, "a parameter was sent more than once")


def parse_parameters(raw: str) -> Parameters:
    """`application/x-www-form-urlencoded` text. Raises OAuthError for what is not clean UTF-8 or holds NUL."""
    parts = raw.split("&")
    if len(parts) > MAX_PARAMETERS:
        raise _unreadable()
    values: dict[str, str] = {}
    repeated: set[str] = set()
    for part in parts:
        if not part:
            continue
        name, _, value = part.partition("=")
        name, value = _decode(name), _decode(value)
        if name in values:
            repeated.add(name)
        else:
            values[name] = value
    return Parameters(values, frozenset(repeated))


def _unreadable() -> OAuthError:
    return OAuthError("invalid_request", "the parameters cannot be read")


def _decode(text: str) -> str:
    """One name or value; most have nothing to decode."""
    if "+" in text:
        text = text.replace("+", " ")
    if "%" in text:
        try:
            text = unquote_to_bytes(text).decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise _unreadable() from error
    if "\0" in text:
        raise _unreadable()
    return text


def with_parameters(uri: str, parameters: Mapping[str, str]) -> str:
    """`uri` with parameters appended to its query; everything is percent-encoded, so nothing can be injected."""
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(parameters)}"


_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a member is repeated")
    return out


def _no_constant(name: str) -> object:
    raise ValueError(name)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_no_constant)


def _check_depth(raw: bytes) -> None:
    depth = 0
    for byte in _JSON_STRING.sub(b"", raw):
        if byte in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise ValueError("too deep")
        elif byte in b"]}":
            depth -= 1


def parse_json(raw: bytes) -> object:
    """Strict JSON: UTF-8, no repeated members, no NaN, at most 30 levels. Raises ValueError."""
    if raw.count(b"[") + raw.count(b"{") > MAX_JSON_DEPTH:  # else it cannot be that deep
        _check_depth(raw)
    text = raw.decode("utf-8", "strict")
    if text.startswith("\ufeff"):
        raise ValueError("a byte order mark")
    parsed: object = _DECODER.decode(text)
    return parsed


def json_object(raw: bytes) -> dict[str, object]:
    """As `parse_json`, for an object. Raises ValueError."""
    parsed = parse_json(raw)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")  # noqa: TRY004 -- of the input, not of the caller
    if b"\\u" in raw:  # an unpaired surrogate can be written only so, and be stored nowhere: ValueError
        json.dumps(parsed, ensure_ascii=False).encode()
    return {str(key): value for key, value in parsed.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- json.loads


# Redirect URIs ---------------------------------------------------------------------------------------------------

_URI = re.compile(r"(?:[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_HIDDEN = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff]|5[Cc])")  # encoded control bytes and back-slash
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.\-]*[a-z0-9])?|[0-9a-f:.]+")
_LOOPBACK = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(?::([0-9]{1,5}))?((?:[/?].*)?)")
_DOTS = re.compile(r"(?:^|/)(?:\.|%2[Ee]){1,2}(?:/|$)")


def check_redirect_uri(uri: str, *, private_use_schemes: Iterable[str]) -> None:
    """Whether a client may register this URI: https, http on loopback, or an allowed private-use scheme.

    OAuth 2.1 §2.3.1, RFC 8252 §7, RFC 9700 §4.1. Raises OAuthError("invalid_redirect_uri").
    """
    reason = _redirect_uri_fault(uri, frozenset(private_use_schemes))
    if reason is not None:
        raise OAuthError("invalid_redirect_uri", reason)


def _redirect_uri_fault(uri: str, private_use_schemes: frozenset[str]) -> str | None:
    if len(uri) > 2048 or not _URI.fullmatch(uri) or _HIDDEN.search(uri):
        return "a redirect URI must be a plain absolute URI without a fragment"
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return "a redirect URI must be a plain absolute URI without a fragment"
    if "@" in parts.netloc or port == 0 or _DOTS.search(parts.path):
        return "a redirect URI must have no user information, port 0 or dot segments"
    match parts.scheme:
        case "https" if parts.hostname and _HOST.fullmatch(parts.hostname) and uri.startswith("https://"):
            return None
        case "http" if _LOOPBACK.fullmatch(uri):
            return None
        case "http":
            return "plain http is for loopback only: use https"
        case scheme if scheme in private_use_schemes and (parts.netloc or len(parts.path) > 1) and "*" not in uri:
            return None
        case _:
            return "the scheme of this redirect URI is not allowed"


def is_loopback_redirect(uri: str) -> bool:
    return _LOOPBACK.fullmatch(uri) is not None


def without_loopback_port(uri: str) -> str:
    """The URI with a loopback port removed: what stays the same for an app that binds a new port each run."""
    found = _LOOPBACK.fullmatch(uri)
    return f"http://{found[1]}{found[3]}" if found else uri


def redirect_matches(registered: Iterable[str], asked: str) -> bool:
    """Exact match; on loopback only the port is free (RFC 8252 §7.3; RFC 9700 §4.1.3)."""
    known = tuple(registered)
    if asked in known:
        return True
    found = _LOOPBACK.fullmatch(asked)
    if found is None or not _URI.fullmatch(asked) or (found[2] is not None and not 0 < int(found[2]) < 65536):
        return False
    bare = without_loopback_port(asked)
    return any(is_loopback_redirect(uri) and without_loopback_port(uri) == bare for uri in known)


def redirect_host(uri: str) -> str:
    """What a person is shown of a redirect URI: its host, or the scheme of an installed app."""
    parts = urlsplit(uri)
    return parts.hostname or parts.scheme if parts.scheme in {"http", "https"} else f"{parts.scheme}:"


# PKCE ------------------------------------------------------------------------------------------------------------

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


def check_challenge(challenge: str | None, method: str | None) -> str:
    """The code challenge; S256 only (OAuth 2.1 §4.1.1, RFC 9700 §2.1.1). Absence of the method means `plain`."""
    if challenge is None:
        raise OAuthError("invalid_request", "code_challenge is missing")
    if method != "S256":
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge is not a SHA-256 in base64url")
    return challenge


def verifier_matches(verifier: str, challenge: str) -> bool:
    """RFC 7636 §4.6."""
    if not _VERIFIER.fullmatch(verifier):
        return False
    digest = urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=")
    return hmac.compare_digest(digest, challenge.encode("utf-8"))


# Resources and scopes --------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def own_resources(public_url: str) -> frozenset[str]:
    """The audiences that our own MCP endpoints answer to. Clients disagree whether to name endpoint or origin."""
    return frozenset({public_url, f"{public_url}/", *(public_url + path for path in MCP_PATHS)})


def default_resource(public_url: str) -> str:
    return f"{public_url}/mcp"


def canonical_resource(resource: str, *, public_url: str) -> str:
    """One of ours spelled with a trailing slash is the one without; anything else is returned as it is."""
    bare = resource.removesuffix("/")
    return bare if bare in own_resources(public_url) else resource


def choose_scopes(
    asked: frozenset[str] | None, *, client: Client, api_scopes: frozenset[str] = frozenset()
) -> frozenset[str]:
    """The scopes that the person is asked about: what was asked, less what is unknown or beyond this client.

    `api_scopes` are those of the registered API that the token is for. Nothing asked means ordinary use. Asking only
    for what cannot be had is `invalid_scope` (RFC 6749 §3.3).
    """
    if not asked:
        return ORDINARY_SCOPES
    chosen = asked & (known_scopes(client.grant_types) | api_scopes)
    if not chosen:
        raise OAuthError("invalid_scope", "none of the requested scopes can be granted to this client")
    return chosen


def known_scopes(grant_types: frozenset[str]) -> frozenset[str]:
    """The scopes of ours that a client with these grant types can hold: `exchange` only beside the grant."""
    return SCOPES if TOKEN_EXCHANGE in grant_types else SCOPES - {EXCHANGE_SCOPE}


# Names -----------------------------------------------------------------------------------------------------------

_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff0-\uffff\ud800-\udfff]|[\U000e0000-\U000e0fff]"
)


def clean_name(name: str, *, limit: int = 100) -> str:
    """A name without control, bidirectional and invisible characters, which could disguise it on the consent page."""
    return " ".join(_UNPRINTABLE.sub("", name).split())[:limit].strip()


# Signing in (OpenID Connect Core §3.1.2.1)


def parse_prompt(prompt: str | None) -> frozenset[str]:
    """The values of `prompt`. Raises invalid_request for `none` beside another."""
    values = parse_scope(prompt or "")
    if "none" in values and len(values) > 1:
        raise OAuthError("invalid_request", "prompt=none stands alone")
    return values


def parse_max_age(max_age: str | None) -> int | None:
    """The greatest age of a sign-in in seconds; zero asks for a new one, as `prompt=login` does. Digits only."""
    if max_age is None:
        return None
    if not max_age.isascii() or not max_age.isdigit() or len(max_age) > 10:
        raise OAuthError("invalid_request", "max_age is a number of seconds")
    return int(max_age)

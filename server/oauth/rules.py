"""Resources, scopes, names, and the error of every refusal (`OAuthError`). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from server.errors import KINDS, RefusalKind
from vault.records import Client, parse_scope

MCP_PATHS: Final = ("/mcp", "/sse")

SCOPE_MEANINGS: Final = {
    "tools": "Call the MCP endpoints",
    "connections": "See every connected account",
    "offline_access": "Stay signed in, as clients that registered `refresh_token` do",
    "openid": "ID token and `/userinfo`",
    "exchange": "Use token exchange, if registered",
}
SCOPES: Final = frozenset(SCOPE_MEANINGS)
# The scopes for ordinary use: named in the first challenge, and given to a client that requests none.
ORDINARY_SCOPES: Final = frozenset({"tools", "connections"})
EXCHANGE_SCOPE: Final = "exchange"  # tokens that their client or their API can exchange
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # RFC 8693 §2.1
CLIENT_CREDENTIALS: Final = "client_credentials"  # RFC 6749 §4.4; only operators can allow it

# Scopes of tokens for the Admin API, which are valid while their person is an admin.
ADMIN_READ: Final = "admin:read"
ADMIN_WRITE: Final = "admin:write"  # includes all changes with their own scope below, except `admin:access`
ADMIN_ACCESS: Final = "admin:access"  # people's connections and permissions, which `admin:read` doesn't show
ADMIN_SCOPES: Final = frozenset(
    {ADMIN_READ, ADMIN_WRITE, ADMIN_ACCESS, "admin:people", "admin:agents", "admin:providers", "admin:keys"}
)


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
        self.answer = answer = KINDS[kind] if isinstance(kind, str) else kind
        self.code = answer.oauth_error
        super().__init__(f"{self.code}: {description}")
        self.description = description
        self.status = answer.status
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})  # further members of the JSON answer


# Resources and scopes --------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def own_resources(public_url: str) -> frozenset[str]:
    """The audiences that our own MCP endpoints accept. Clients disagree whether to name endpoint or origin."""
    return frozenset({public_url, f"{public_url}/", *(public_url + path for path in MCP_PATHS)})


def admin_resource(public_url: str) -> str:
    """The audience of the Admin API, for which only clients that an operator bound to it get tokens."""
    return f"{public_url}/admin/v1"


def default_resource(public_url: str) -> str:
    return f"{public_url}/mcp"


def canonical_resource(resource: str, *, public_url: str) -> str:
    """One of our resources without its trailing slash; anything else unchanged."""
    bare = resource.removesuffix("/")
    return bare if bare in own_resources(public_url) or bare == admin_resource(public_url) else resource


def choose_scopes(
    asked: frozenset[str] | None,
    *,
    client: Client,
    api_scopes: frozenset[str],
    ordinary: frozenset[str],
) -> frozenset[str]:
    """The scopes to ask the person about: those requested, minus unknown ones and those beyond this client.

    `api_scopes` are those of the registered API that the token is for. An empty request means `ordinary` use.
    Requesting only unavailable scopes is `invalid_scope` (RFC 6749 §3.3).
    """
    if not asked:
        return ordinary
    chosen = asked & (known_scopes(client.grant_types) | api_scopes)
    if not chosen:
        raise OAuthError("invalid_scope", "this client can't get any of the requested scopes")
    return chosen


def known_scopes(grant_types: frozenset[str]) -> frozenset[str]:
    """The scopes of ours that a client with these grant types can hold: `exchange` only with that grant."""
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
    """The values of `prompt`. Raises invalid_request for `none` with another value."""
    values = parse_scope(prompt or "")
    if "none" in values and len(values) > 1:
        raise OAuthError("invalid_request", "prompt=none must be the only value")
    return values


def parse_max_age(max_age: str | None) -> int | None:
    """The maximum age of a sign-in in seconds; zero asks for a new one, like `prompt=login`. Digits only."""
    if max_age is None:
        return None
    if not max_age.isascii() or not max_age.isdigit() or len(max_age) > 10:
        raise OAuthError("invalid_request", "max_age must be a number of seconds")
    return int(max_age)

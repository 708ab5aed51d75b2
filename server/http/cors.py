"""Decides which browser pages may read an answer to a client: pages of its own origins, and of the operator's.

An origin is a client's if it belongs to one of its redirect URIs or was registered for it. No answer ever allows
credentials: these endpoints do not use cookies. `server.http.guards` refuses foreign origins on all other paths.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from server.http.answers import Headers, WholeAnswer, raw
from server.settings import LOOPBACK_HOSTS, Settings
from vault.records import Client

ORIGINS: Final = "origins"  # the member of a client's metadata that lists further origins
ANY: Final = "*"
EXPOSED: Final = "WWW-Authenticate, DPoP-Nonce, Retry-After, Mcp-Session-Id, X-Request-Id"
# Auth0-Client: Auth0's single-page applications name their SDK in it
ALLOWED_HEADERS: Final = "Authorization, Auth0-Client, Content-Type, DPoP, MCP-Protocol-Version"
_VARY: Final = (b"vary", b"Origin")


def origin_of(uri: str) -> str | None:
    """The web origin (RFC 6454 §4) of a URI; None if it has none that a page could have."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{host}" + ("" if port in {None, default} else f":{port}")


def may_read(settings: Settings, client: Client, origin: str) -> bool:
    """Whether a page of this origin may read an answer to this client."""
    if origin in {settings.public_url, *settings.server.allowed_origins}:
        return True
    named = client.metadata.get(ORIGINS)
    if isinstance(named, list) and origin in named:
        return True
    return any(_is_of(origin, uri) for uri in client.redirect_uris)


def _is_of(origin: str, uri: str) -> bool:
    """Whether the origin is the URI's; on loopback, any port counts, as for redirects (RFC 8252 §7.3)."""
    registered = origin_of(uri)
    if registered is None or origin_of(origin) != origin:
        return False
    if registered == origin:
        return True
    ours, other = urlsplit(registered), urlsplit(origin)
    return ours.scheme == other.scheme == "http" and ours.hostname == other.hostname and ours.hostname in LOOPBACK_HOSTS


def answer_headers(origin: str, *, is_allowed: bool = True, exposed: str = EXPOSED) -> Headers:
    """The headers that let this origin (`*`: any page) read an answer; `Vary` lets caches keep answers apart."""
    if not is_allowed:
        return [_VARY]
    allowed = (b"access-control-allow-origin", origin.encode("latin-1", "replace"))
    return [allowed, (b"access-control-expose-headers", exposed.encode()), *([] if origin == ANY else [_VARY])]


def preflight(origin: str, *, methods: Iterable[str], headers: str = ALLOWED_HEADERS) -> WholeAnswer:
    """The answer to a preflight. It names no client, so any page may ask; the actual answer limits who may read it."""
    allowed = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": ", ".join(methods),
        "access-control-allow-headers": headers,
        "access-control-max-age": "600",
    }
    return WholeAnswer(HTTPStatus.NO_CONTENT, [*raw(allowed), *([] if origin == ANY else [_VARY])])


# Paths whose answers any web page may read (without credentials); never /authorize or a page.
CROSS_ORIGIN_PATHS: Final = frozenset(
    {"/token", "/register", "/revoke", "/par", "/oauth/token", "/oauth/revoke", "/oidc/register", "/oauth/userinfo"}
)
CROSS_ORIGIN_PREFIXES: Final = ("/.well-known/", "/register/", "/proxy/", "/upload/", "/me/v1/")


def is_cross_origin_path(path: str) -> bool:
    """Whether a page of any origin may call this path, without credentials."""
    return path.rstrip("/") in CROSS_ORIGIN_PATHS or path.startswith(CROSS_ORIGIN_PREFIXES)

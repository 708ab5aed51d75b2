"""Which browser pages may read an answer that was made for a client: those of its own origins, and the operator's.

An origin is a client's when it is one of its redirect URIs', or was named for it. No answer ever allows credentials:
cookies play no part at these endpoints. Refusing foreign origins on all other paths is `server.http.guards`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from server.settings import LOOPBACK_HOSTS, Settings
from vault.records import Client

ORIGINS: Final = "origins"  # the member of a client's metadata that names further ones
EXPOSED: Final = "WWW-Authenticate, DPoP-Nonce, Retry-After"
ALLOWED_HEADERS: Final = "Authorization, Content-Type, DPoP, MCP-Protocol-Version"


def origin_of(uri: str) -> str | None:
    """The web origin (RFC 6454 §4) of a URI; None where it has none that a page could have."""
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
    """Whether a page of this origin may read what was answered to this client."""
    if origin in {settings.public_url, *settings.server.allowed_origins}:
        return True
    named = client.metadata.get(ORIGINS)
    if isinstance(named, list) and origin in named:
        return True
    return any(_is_of(origin, uri) for uri in client.redirect_uris)


def _is_of(origin: str, uri: str) -> bool:
    """On loopback any port, as for redirects (RFC 8252 §7.3)."""
    registered = origin_of(uri)
    if registered is None or origin_of(origin) != origin:
        return False
    if registered == origin:
        return True
    ours, other = urlsplit(registered), urlsplit(origin)
    return ours.scheme == other.scheme == "http" and ours.hostname == other.hostname and ours.hostname in LOOPBACK_HOSTS


def answer_headers(origin: str | None, *, is_allowed: bool) -> Mapping[str, str]:
    """The headers of an answer: the one origin, or nothing; caches must not mix them up."""
    if origin is None:
        return {}
    if not is_allowed:
        return {"Vary": "Origin"}
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED, "Vary": "Origin"}


def preflight_headers(origin: str, *, methods: Iterable[str], headers: str = ALLOWED_HEADERS) -> Mapping[str, str]:
    """The answer to a preflight, which names no client: any page may ask; who may read is decided by the answer."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Allow-Headers": headers,
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }


# Paths whose answers any web page may read (no credentials are involved there); never /authorize or a page.
CROSS_ORIGIN_PATHS: Final = frozenset({"/token", "/register", "/revoke", "/par"})


CROSS_ORIGIN_PREFIXES: Final = ("/.well-known/", "/register/", "/proxy/")


def is_cross_origin_path(path: str) -> bool:
    """Whether a page of any origin may call this path, without credentials."""
    return path.rstrip("/") in CROSS_ORIGIN_PATHS or path.startswith(CROSS_ORIGIN_PREFIXES)

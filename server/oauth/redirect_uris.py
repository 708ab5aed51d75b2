"""Decides which redirect URIs clients can register and use. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from server.oauth.rules import OAuthError

_URI = re.compile(r"(?:[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_HIDDEN = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff]|5[Cc])")  # encoded control bytes and backslash
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
        return "a redirect URI must be an absolute URI without a fragment"
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return "a redirect URI must be an absolute URI without a fragment"
    if "@" in parts.netloc or port == 0 or _DOTS.search(parts.path):
        return "a redirect URI can't have user information, port 0, or dot segments"
    match parts.scheme:
        case "https" if parts.hostname and _HOST.fullmatch(parts.hostname) and uri.startswith("https://"):
            return None
        case "http" if _LOOPBACK.fullmatch(uri):
            return None
        case "http":
            return "use https for the redirect URI; plain http works for loopback only"
        case scheme if scheme in private_use_schemes and (parts.netloc or len(parts.path) > 1) and "*" not in uri:
            return None
        case _:
            return "the scheme of this redirect URI isn't allowed"


def is_loopback_redirect(uri: str) -> bool:
    return _LOOPBACK.fullmatch(uri) is not None


def without_loopback_port(uri: str) -> str:
    """The URI without a loopback port, which stays the same for an app that binds a new port on each run."""
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
    """The part of a redirect URI that a person sees: its host, or the scheme of an installed app."""
    parts = urlsplit(uri)
    return parts.hostname or parts.scheme if parts.scheme in {"http", "https"} else f"{parts.scheme}:"

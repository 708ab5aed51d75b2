"""Issuers (RFC 8414 §2, OpenID Connect Discovery §3): what is the same one, and where it describes itself.

For services that we connect to, for people's sign-in and for foreign tokens alike. Pure.
"""

from __future__ import annotations


def is_same_issuer(named: object, expected: str | None) -> bool:
    """Whether two issuers are one: letter by letter, a slash at the end included.

    RFC 8414 §3.3, RFC 9207 §2.4, OpenID Connect Discovery §4.3 and Core §3.1.3.7 all demand identical strings: two that
    differ in a slash can belong to two tenants of one host.
    """
    return isinstance(named, str) and named == expected


def configuration_url(issuer: str) -> str:
    """Where an issuer describes itself: a slash at its end is left out there (OpenID Connect Discovery §4.1)."""
    return f"{issuer.removesuffix('/')}/.well-known/openid-configuration"

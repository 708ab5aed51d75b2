"""Writes the address that a person's browser is sent to (RFC 6749 §4.1.1, RFC 7636 §4.3).

For providers, for sign-in services, and for a remote vault. Pure.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlencode

_AS_THEY_ARE: Final[Mapping[str, str]] = MappingProxyType({})


def authorization_url(
    endpoint: str,
    parameters: Mapping[str, str],
    *,
    code_verifier: str | None,
    names: Mapping[str, str] = _AS_THEY_ARE,
) -> str:
    """The endpoint with these parameters after its own query; a verifier adds its S256 challenge.

    `names`: the server's name for a parameter; an empty name omits it.
    """
    asked = {"response_type": "code", **parameters}
    if code_verifier is not None:
        digest = hashlib.sha256(code_verifier.encode()).digest()
        asked["code_challenge"] = urlsafe_b64encode(digest).rstrip(b"=").decode()
        asked["code_challenge_method"] = "S256"
    query = urlencode({new: value for name, value in asked.items() if (new := names.get(name, name))})
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"

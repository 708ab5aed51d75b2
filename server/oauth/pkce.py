"""Checks PKCE challenges and verifiers (RFC 7636). Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode

from server.oauth.rules import OAuthError

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


def check_challenge(challenge: str | None, method: str | None) -> str:
    """The code challenge; S256 only (OAuth 2.1 §4.1.1, RFC 9700 §2.1.1). Without a method it would be `plain`."""
    if challenge is None:
        raise OAuthError("invalid_request", "code_challenge is missing")
    if method != "S256":
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge isn't a SHA-256 in base64url")
    return challenge


def verifier_matches(verifier: str, challenge: str) -> bool:
    """RFC 7636 §4.6."""
    if not _VERIFIER.fullmatch(verifier):
        return False
    digest = urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=")
    return hmac.compare_digest(digest, challenge.encode("utf-8"))

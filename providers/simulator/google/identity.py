"""The Google face as an OpenID provider: ID tokens (correct, or wrong as scripted), discovery and keys."""

from __future__ import annotations

import base64
import json
from functools import cache

from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.accounts import PEOPLE
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import SimulatedTokens

_KEY_ID = "sandbox-1"


@cache
def _key(purpose: str) -> RSAKey:
    """Created when first needed and kept for the process, because a 2048-bit key takes a noticeable time."""
    return RSAKey.generate_key(2048, parameters={"kid": _KEY_ID, "use": "sig", "alg": "RS256"}, private=True)


def id_token(sandbox: Sandbox, issued: SimulatedTokens, *, issuer: str, nonce: str | None, now: float) -> str:
    """The ID token of a redeemed code (OpenID Connect Core §2), with the scripted changes."""
    person, changes = PEOPLE[issued.family.account], sandbox.id_token
    claims: dict[str, JsonValue] = {
        "iss": issuer,
        "azp": issued.family.client_id,
        "aud": issued.family.client_id,
        "sub": person.google_id,
        "iat": int(now),
        "exp": int(now) + 3600,
    }
    if any(scope.endswith("userinfo.email") for scope in issued.scopes):
        claims.update(email=person.email, email_verified=True)
    if any(scope.endswith("userinfo.profile") for scope in issued.scopes):
        claims["name"] = person.display_name
    if nonce is not None:
        claims["nonce"] = nonce
    claims.update(changes.claims)
    for name in changes.remove:
        claims.pop(name, None)
    if changes.signed_by == "none":
        return f"{_segment({'alg': 'none', 'typ': 'JWT'})}.{_segment(claims)}."
    return jwt.encode({"alg": "RS256", "kid": _KEY_ID}, claims, _key(changes.signed_by))


def discovery(sandbox: Sandbox, issuer: str) -> Response:
    """OpenID Connect Discovery §3."""
    base = f"{sandbox.url}/google"
    return JSONResponse(
        {
            "issuer": issuer,
            "authorization_endpoint": f"{base}/o/oauth2/v2/auth",
            "token_endpoint": f"{base}/token",
            "userinfo_endpoint": f"{base}/oauth2/v3/userinfo",
            "revocation_endpoint": f"{base}/revoke",
            "jwks_uri": f"{base}/oauth2/v3/certs",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "email", "profile"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "authorization_response_iss_parameter_supported": True,
        }
    )


def keys() -> Response:
    """The public keys (RFC 7517 §5)."""
    return JSONResponse({"keys": [_key("right").as_dict(private=False)]})


def _segment(value: dict[str, JsonValue]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

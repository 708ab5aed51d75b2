"""ID tokens (OpenID Connect Core §2): tell the client who signed in. Never usable as an access token."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.errors import status_of
from server.http.answers import json_answer
from server.oauth import dpop, tokens
from server.signatures import jose
from vault import users
from vault.records import Grant
from vault.refusals import GrantEnded


@dataclass(frozen=True, slots=True)
class SignInFacts:
    """Claims from the authorization request: its `nonce`, and when the person had signed in (§2, §15.1)."""

    nonce: str | None
    auth_time: int | None


async def id_token(
    deployment: Deployment,
    grant: Grant,
    *,
    sign_in: SignInFacts,
    access_token: str,
    now: int,
    more: Mapping[str, object],
) -> str:
    """A signed ID token for the grant's client; `more` are claims of its protocol."""
    user = await users.get_user(deployment.database, grant.user_id)
    if user is None:
        raise GrantEnded("the grant has ended", detail="the user was deleted or disabled")
    claims: dict[str, object] = {
        "iss": deployment.issuer,
        "sub": user.id,
        "aud": grant.client_id,
        "azp": grant.client_id,
        "exp": now + deployment.settings.tokens.access_lifetime,
        "iat": now,
        "at_hash": token_hash(access_token),
        "preferred_username": user.name,
        **more,
    }
    if sign_in.nonce is not None:
        claims["nonce"] = sign_in.nonce
    if sign_in.auth_time is not None:
        claims["auth_time"] = sign_in.auth_time
    return jose.sign(claims, deployment.keys.signing.current(now), typ="JWT")


def token_hash(token: str) -> str:
    """`at_hash` (§3.1.3.6), and `rt_hash` of OpenID CIBA Core 1.0 §10.3.1: the left half of the SHA-256."""
    digest = hashlib.sha256(token.encode()).digest()
    return urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()


async def userinfo(deployment: Deployment, request: Request) -> Response:
    """For an agent with the scope `openid`, with its token in the header: OpenID Connect Core 5.3."""
    try:
        principal = await tokens.authenticate(
            deployment, request.headers, method=request.method, path=dpop.sent_path(request.scope)
        )
    except tokens.TokenRefused as refusal:
        return _challenge(refusal.code, status=refusal.status)
    if "openid" not in principal.scopes:
        return _challenge("insufficient_scope", status=status_of("insufficient_scope"))
    user = await users.get_user(deployment.database, principal.user_id)
    if user is None:
        return _challenge("invalid_token", status=status_of("invalid_token"))
    return json_answer({"sub": user.id, "preferred_username": user.name})


def _challenge(code: str, *, status: int) -> Response:
    """RFC 6750 §3: no error code when no token was sent."""
    parts = [*([f'error="{code}"'] if code else []), 'scope="openid"']
    return json_answer(
        {"error": code or "unauthorized"}, status=status, headers={"WWW-Authenticate": f"Bearer {', '.join(parts)}"}
    )

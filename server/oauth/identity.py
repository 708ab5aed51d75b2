"""ID tokens (OpenID Connect Core §2): who signed in, told to the client. Never usable as an access token."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass

from server.deployment import Deployment
from server.oauth import jose
from vault import users
from vault.records import Grant
from vault.refusals import GrantEnded


@dataclass(frozen=True, slots=True)
class SignIn:
    """What one authorization request contributes: its `nonce`, and when the person had signed in (§2, §15.1)."""

    nonce: str | None
    auth_time: int | None


async def id_token(deployment: Deployment, grant: Grant, *, sign_in: SignIn, access_token: str, now: int) -> str:
    """A signed ID token for the grant's client."""
    user = await users.get_user(deployment.database, grant.user_id)
    if user is None:
        raise GrantEnded("the grant has ended", detail="user gone")
    claims: dict[str, object] = {
        "iss": deployment.public_url,
        "sub": user.id,
        "aud": grant.client_id,
        "azp": grant.client_id,
        "exp": now + deployment.settings.tokens.access_lifetime,
        "iat": now,
        "at_hash": access_token_hash(access_token),
        "preferred_username": user.name,
    }
    if sign_in.nonce is not None:
        claims["nonce"] = sign_in.nonce
    if sign_in.auth_time is not None:
        claims["auth_time"] = sign_in.auth_time
    return jose.sign(claims, deployment.keys.signing.current(now), typ="JWT")


def access_token_hash(access_token: str) -> str:
    """`at_hash` (§3.1.3.6): the left half of the SHA-256."""
    digest = hashlib.sha256(access_token.encode()).digest()
    return urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()

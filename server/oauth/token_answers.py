"""The token answer for a grant (RFC 6749 §5.1), returned by the token endpoint or pushed to the client."""

from __future__ import annotations

from collections.abc import Mapping

from server.deployment import Deployment
from server.oauth import identity, tokens
from server.oauth.resources import offered_scopes
from server.oauth.rules import admin_resource
from server.oauth.token_request import TokenGrant
from vault.records import format_scope

_NO_CLAIMS: Mapping[str, object] = {}


async def answer_content(
    deployment: Deployment,
    issue: TokenGrant,
    *,
    now: int,
    key_thumbprint: str | None,
    id_claims: Mapping[str, object] = _NO_CLAIMS,
) -> dict[str, object]:
    """The members of the answer. Always names the scope: it can be less than requested.

    A client that can't or doesn't refresh must sign in again when its access token expires, so that token lives longer.
    `id_claims` are further claims of the ID token. Raises OAuthError if the resource has none of the scopes anymore.
    """
    scopes = await offered_scopes(deployment, issue.resource, issue.scopes)
    settings = deployment.settings.tokens
    is_alone = (issue.refresh_token is None or issue.is_left_alone) and not issue.asks_anew
    is_admin = issue.resource == admin_resource(deployment.public_url)
    access_token, lifetime = tokens.mint(
        deployment,
        issue.grant,
        scopes=scopes,
        audience=issue.resource,
        now=now,
        key_thumbprint=key_thumbprint,
        expires_at=issue.expires_at,
        lifetime=settings.access_lifetime_alone if is_alone and not is_admin else settings.access_lifetime,
        auth_time=issue.auth_time if is_admin else None,
        is_strong=issue.is_strong and is_admin,
        details=issue.details,
    )
    content: dict[str, object] = {
        "access_token": access_token,
        "token_type": "Bearer" if key_thumbprint is None else "DPoP",
        "expires_in": lifetime,
        "scope": format_scope(scopes),
    }
    if issue.refresh_token is not None:
        content["refresh_token"] = issue.refresh_token
    if issue.refresh_expires_at is not None:  # draft-ietf-oauth-refresh-token-expiration
        content["refresh_token_expires_in"] = issue.refresh_expires_at - now
    if issue.details:  # RFC 9396 §7
        content["authorization_details"] = [dict(one) for one in issue.details]
    if "openid" in scopes:
        content["id_token"] = await identity.id_token(
            deployment,
            issue.grant,
            sign_in=identity.SignInFacts(issue.nonce, issue.auth_time),
            access_token=access_token,
            now=now,
            more=id_claims,
        )
    return content

"""Token revocation (RFC 7009): a client ends its own grant, by its refresh token, or just a handle of its own.

A client that authenticates can do it by an access token as well; a public one cannot (§2.2.1).

Unknown tokens answer 200.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.oauth import client_auth, tokens
from server.oauth.rules import OAuthError
from server.oauth.wire import NO_STORE, read_form
from vault import audit, grants, handles
from vault import tokens as refresh_tokens
from vault.records import Client


async def revoke(deployment: Deployment, request: Request) -> Response:
    """POST /revoke. Refresh and access token of a grant end together (§2.1)."""
    form = await read_form(request)
    client = await client_auth.authenticate(deployment, request, form)
    token = form.require("token")
    grant_id = await _own_access_grant(deployment, token, client)
    if grant_id is not None and client.is_public:
        # Everybody knows the client's id: an API that received this token of minutes must not end the whole grant.
        raise OAuthError(
            "unsupported_token_type", "a public client revokes its refresh token, which ends its access tokens too"
        )
    now = deployment.now()
    async with deployment.database.transaction() as transaction:
        if handles.is_handle(token):
            await handles.remove(transaction, token, client_id=client.id)
            ended = None
        elif grant_id is None:
            ended = await refresh_tokens.revoke_token(transaction, token, client_id=client.id, now=now)
        else:
            ended = await grants.revoke_grant(transaction, grant_id, reason="token_revoked", now=now)
        if ended is not None:
            await audit.append(transaction, grants.revocation_event(ended), now=now)
    return Response(status_code=200, headers=NO_STORE)


async def _own_access_grant(deployment: Deployment, token: str, client: Client) -> str | None:
    """The grant behind an access token of this client; None for anything else, also what has expired."""
    if token.count(".") != 2:
        return None
    try:
        claims = await tokens.read_claims(deployment, token, now=deployment.now())
    except tokens.TokenRefused:
        return None
    return claims.grant_id if claims.client_id == client.id else None

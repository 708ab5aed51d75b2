"""Token revocation (RFC 7009): a client ends its grant by its refresh token, or one access token, or one handle.

Other parties also receive access tokens, and a public client's ID is public. Therefore revoking an access token ends it
and the tokens made from it, for every kind of client, but never the grant. Unknown tokens are answered with 200.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.http.answers import SECRET, WholeAnswer
from server.oauth import client_tokens, tokens
from server.oauth.clients import authentication
from server.oauth.parameters import Parameters
from server.oauth.wire import is_json, read_form, read_json_parameters
from vault import grants, handles, revoked_tokens
from vault.audit import audit
from vault.handles import HandleRefused
from vault.records import Event
from vault.tokens import tokens as refresh_tokens


async def revoke(deployment: Deployment, request: Request) -> Response:
    """A client, for its own tokens and handles: RFC 7009. A refresh token ends the agent's access; an access token ends
    itself and what was exchanged for it.
    """
    return await _revoke(deployment, request, await read_form(request))


async def revoke_either(deployment: Deployment, request: Request) -> Response:
    """Like `/revoke`, with the parameters as a form or as JSON."""
    form = await read_json_parameters(request) if is_json(request) else await read_form(request)
    return await _revoke(deployment, request, form)


async def _revoke(deployment: Deployment, request: Request, form: Parameters) -> Response:
    client = await authentication.authenticate(deployment, request, form)
    token = form.require("token")
    claims = await _access_claims(deployment, token)
    if claims is not None and claims.grant_id == tokens.NO_GRANT:
        await client_tokens.revoke(deployment, claims, client_id=client.id)
        return WholeAnswer(HTTPStatus.OK, SECRET)
    now = deployment.now()
    if claims is None and not await _is_known(deployment, token):
        return WholeAnswer(HTTPStatus.OK, SECRET)  # unauthenticated requests can't write
    event: Event | None = None
    async with deployment.database.transaction() as transaction:
        if handles.is_handle(token):
            await handles.remove(transaction, token, client_id=client.id)
        elif claims is not None:
            event = await revoked_tokens.revoke_access_token(
                transaction,
                claims.grant_id,
                client_id=client.id,
                token_id=claims.token_id,
                expires_at=claims.expires_at,
                now=now,
            )
        else:
            ended = await refresh_tokens.revoke_token(transaction, token, client_id=client.id, now=now)
            event = None if ended is None else grants.revocation_event(ended)
        if event is not None:
            await audit.append(transaction, event, now=now)
    return WholeAnswer(HTTPStatus.OK, SECRET)


async def _is_known(deployment: Deployment, token: str) -> bool:
    """Whether this is a handle or refresh token that was ever issued here, for any client."""
    if not handles.is_handle(token):
        return await refresh_tokens.find(deployment.database, token) is not None
    try:
        await handles.find(deployment.database, token, now=deployment.now())
    except HandleRefused:
        return False
    return True


async def _access_claims(deployment: Deployment, token: str) -> tokens.AccessClaims | None:
    """The claims of an access token of ours; None for anything else, including an expired one."""
    if token.count(".") != 2:
        return None
    try:
        return await tokens.read_claims(deployment, token, now=deployment.now())
    except tokens.TokenRefused:
        return None

"""Token introspection (RFC 7662), for authenticated clients.

A client can introspect its own tokens and handles; a client that is an API can introspect the tokens that were issued
for it. For everything else the answer is just `active: false`.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.http.answers import json_answer
from server.oauth import client_tokens, tokens
from server.oauth.clients import authentication
from server.oauth.clients.authentication import invalid_client
from server.oauth.resources import offered_scopes
from server.oauth.rules import OAuthError
from server.oauth.wire import read_form
from vault import apis, grants, handles
from vault.exchange.exchange import ExchangeRequest
from vault.exchange.explain import check_exchange
from vault.records import Client, format_scope
from vault.refusals import VaultError
from vault.tokens import tokens as refresh_tokens


async def introspect(deployment: Deployment, request: Request) -> Response:
    """A client with a secret or key, for its own tokens and handles; an API, for tokens issued for it: RFC 7662."""
    form = await read_form(request)
    client = await authentication.authenticate(deployment, request, form)
    if client.is_public:
        raise invalid_client("public clients can't use introspection")
    token = form.require("token")
    if handles.is_handle(token):
        facts = await _handle_facts(deployment, token, client)
    elif token.count(".") == 2:
        facts = await _access_facts(deployment, token, client)
    else:
        facts = await _refresh_facts(deployment, token, client)
    return json_answer({"active": False} if facts is None else {"active": True, **facts})


async def _access_facts(deployment: Deployment, token: str, client: Client) -> dict[str, object] | None:
    try:
        claims = await tokens.read_claims(deployment, token, now=deployment.now())
    except tokens.TokenRefused:
        return None
    if claims.client_id != client.id and not await apis.is_linked(
        deployment.database, claims.audience, client_id=client.id
    ):
        return None
    try:
        scopes = await offered_scopes(deployment, claims.audience, claims.scopes)
    except OAuthError:
        return None
    person: dict[str, object] = {}
    if claims.grant_id == tokens.NO_GRANT:
        if not await client_tokens.is_live(deployment, claims):
            return None
    else:
        live = await grants.live_principal_facts(deployment.database, claims.grant_id, token_id=claims.token_id)
        if live is None:
            return None
        person = {"username": live.user_name}
    facts: dict[str, object] = {
        "iss": deployment.issuer,
        "sub": claims.subject,
        "aud": claims.audience,
        "client_id": claims.client_id,
        "scope": format_scope(scopes),
        "token_type": "Bearer" if claims.key_thumbprint is None else "DPoP",
        "iat": claims.issued_at,
        "exp": claims.expires_at,
        "jti": claims.token_id,
        **person,
    }
    if claims.details is not None:
        facts["authorization_details"] = claims.details  # RFC 9396 §9.2
    return facts | _binding_claims(claims.key_thumbprint, claims.actors)


def _binding_claims(key_thumbprint: str | None, actors: tuple[str, ...]) -> dict[str, object]:
    """RFC 9449 §6.2, RFC 8693 §4.1."""
    facts: dict[str, object] = {}
    if key_thumbprint is not None:
        facts["cnf"] = {"jkt": key_thumbprint}
    if actors:
        facts["act"] = tokens.act_of(actors)
    return facts


async def _handle_facts(deployment: Deployment, token: str, client: Client) -> dict[str, object] | None:
    """Facts of a handle, for its own client only; active while grant, account, and permission allow its use.

    The operator's policy isn't queried: it decides about each call, by method and path.
    """
    now = deployment.now()
    try:
        handle = await handles.find(deployment.database, token, now=now)
        if handle.principal.client_id != client.id:
            return None
        request = ExchangeRequest(handle.principal, handle.provider, handle.scopes, connection_id=handle.connection_id)
        await check_exchange(request, vault=deployment.vault, now=now)
    except VaultError:
        return None
    facts: dict[str, object] = {
        "iss": deployment.issuer,
        "sub": handle.principal.user_id,
        "aud": deployment.url(f"/proxy/{handle.connection_id}"),
        "client_id": handle.principal.client_id,
        "scope": format_scope(handle.scopes),
        "token_type": "Bearer" if handle.key_thumbprint is None else "DPoP",
        "iat": handle.issued_at,
        "exp": handle.expires_at,
    }
    return facts | _binding_claims(handle.key_thumbprint, handle.principal.actors)


async def _refresh_facts(deployment: Deployment, token: str, client: Client) -> dict[str, object] | None:
    """Facts of a refresh token, for its own client only."""
    found = await refresh_tokens.find_live(deployment.database, token, now=deployment.now())
    if found is None or found[0].client_id != client.id:
        return None
    stored, live = found
    return {
        "iss": deployment.issuer,
        "sub": live.grant.user_id,
        "client_id": stored.client_id,
        "scope": format_scope(stored.scopes),
        "iat": stored.issued_at,
        "exp": min(stored.expires_at, stored.idle_expires_at),
    }

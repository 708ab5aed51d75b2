"""Auth0's Custom Token Exchange: a client exchanges another issuer's token for one for an API or the My Account API.

The issuer must be one of `[issuers]` and must name this client: its token replaces the person's sign-in at a
first-party application. As always, the person's permissions decide what the client may do with accounts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from server.deployment import Deployment
from server.oauth import tokens
from server.oauth.clients.auth0 import me_audience, speaks_auth0
from server.oauth.exchange import exchange, issuers, subjects
from server.oauth.resources import api_scopes, known_resource, named_resource, ordinary_scopes
from server.oauth.rules import EXCHANGE_SCOPE, OAuthError, admin_resource, choose_scopes
from server.oauth.token_rate import spend_request
from server.oauth.token_request import ACCESS_TOKEN, JWT, REFRESH_TOKEN, ExchangeAnswer, TokenRequest
from server.signatures import jose
from vault import grants
from vault.refusals import GrantEnded

_OURS: Final = frozenset({ACCESS_TOKEN, REFRESH_TOKEN})


async def exchange_token(deployment: Deployment, asked: TokenRequest) -> ExchangeAnswer:
    """RFC 8693 as such clients send it: they use any name as the token type, but the token is always a JWT."""
    kind = asked.form.require("subject_token_type")
    if kind in _OURS or not speaks_auth0(deployment, asked.client):
        return await exchange.exchange(deployment, asked)
    token = asked.form.require("subject_token")
    try:
        issuer = jose.unverified_claims(token).get("iss")
    except jose.TokenMalformed as error:
        raise subjects.refusal(str(error)) from error
    if issuer == asked.client.id:  # a worker's own token
        return await exchange.exchange(deployment, asked)
    resource = named_resource(deployment, asked.form, client=asked.client)
    if kind == JWT and resource != me_audience(deployment):  # the scopes then stay within those of the foreign token
        return await exchange.exchange(deployment, asked)
    return await _token_for(deployment, asked, token, issuer=issuer, resource=resource)


async def _token_for(
    deployment: Deployment, asked: TokenRequest, token: str, *, issuer: object, resource: str | None
) -> ExchangeAnswer:
    client, now = asked.client, asked.now
    if resource is None:
        raise OAuthError("invalid_request", "set audience to the API that the token is for")
    audience = await known_resource(deployment, resource, client=client)
    if audience == admin_resource(deployment.public_url):
        raise OAuthError("invalid_target", "another issuer's token gives no access to the Admin API")
    subject = await issuers.verify(deployment, asked, token, unverified_issuer=issuer)
    if client.id not in deployment.settings.issuers[str(subject.details["issuer"])].clients:
        raise subjects.refusal(
            "the issuer is trusted for every client", "name this client in the issuer's clients (issuers.NAME.clients)"
        )
    scopes = choose_scopes(
        asked.scopes,
        client=client,
        api_scopes=await api_scopes(deployment, audience),
        ordinary=ordinary_scopes(deployment, audience),
    )
    spend_request(deployment, user_id=subject.user_id, client_id=client.id)
    carried = scopes if audience == me_audience(deployment) else scopes | {EXCHANGE_SCOPE}
    meant = replace(subject, scopes=carried, audience=audience)
    principal = await subjects.principal_of(deployment, asked, meant, actor=client.id)
    live = await grants.live_principal_facts(deployment.database, principal.grant_id)
    if live is None:
        raise GrantEnded("the grant has ended", detail="derived grant ended")
    value, lifetime = tokens.mint(
        deployment,
        live.grant,
        scopes=carried,
        audience=audience,
        now=now,
        key_thumbprint=asked.key_thumbprint,
        expires_at=subject.expires_at,
    )
    event = exchange.own_token_event(principal, subject, value, scopes=scopes, resource=audience)
    await deployment.activity.record(event)
    return ExchangeAnswer(
        value, scopes=scopes, expires_in=lifetime, token_type="DPoP" if asked.key_thumbprint else "Bearer"
    )

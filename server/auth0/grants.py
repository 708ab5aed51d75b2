"""Grants of Auth0's token endpoint that ours lacks: a connected account's token, and one refresh token for several
APIs.

Both are translations: the exchange decides what a client gets, and the rules for refresh tokens apply.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

from server.auth0 import foreign_tokens, management
from server.auth0.accounts import list_usable
from server.auth0.names import provider_of
from server.deployment import Deployment
from server.oauth import token
from server.oauth.clients.auth0 import ME_SCOPES, me_audience, speaks_auth0
from server.oauth.exchange import exchange, subjects
from server.oauth.parameters import Parameters
from server.oauth.resources import named_resource
from server.oauth.rules import CLIENT_CREDENTIALS, TOKEN_EXCHANGE, OAuthError
from server.oauth.token_rate import spend_request
from server.oauth.token_request import JWT, REFRESH_TOKEN, ExchangeAnswer, TokenGrant, TokenRequest
from vault.connections import names_account
from vault.records import Event, format_scope
from vault.tokens import tokens as refresh_tokens

_log = logging.getLogger("token_vault.auth0")

FEDERATED: Final = "urn:auth0:params:oauth:grant-type:token-exchange:federated-connection-access-token"
_ACCOUNT_TOKEN: Final = "http://auth0.com/oauth/token-type/federated-connection-access-token"
_WORKER_TOKEN: Final = "http://auth0.com/oauth/token-type/token-vault-access-token"
# Refusals that the person must act on look the same to Auth0's clients, which then ask to connect the account.
_NOT_CONNECTED: Final = frozenset({"missing", "needs_reauth", "delegation", "ambiguous"})


@dataclass(frozen=True, slots=True)
class AccountToken(ExchangeAnswer):
    """The answer, with the five members that Auth0's clients read.

    Their tools compare names, so `scope` lists every granted scope, including those implied by another one.
    """

    issued_token_type: str = _ACCOUNT_TOKEN

    def content(self) -> dict[str, object]:
        return {
            "access_token": self.access_token,
            "scope": format_scope(self.scopes),
            "expires_in": self.expires_in,
            "issued_token_type": self.issued_token_type,
            "token_type": "Bearer",
        }


async def account_token(deployment: Deployment, asked: TokenRequest) -> ExchangeAnswer:
    """A token for an account at `connection`, in exchange for a refresh token, an access token, or a worker's JWT.

    Unlike at Auth0, `scope` is honored: the token has these scopes, or the request is refused.
    """
    form = asked.form
    requested = form.get("requested_token_type")
    if requested not in {None, _ACCOUNT_TOKEN, _WORKER_TOKEN}:
        raise OAuthError("invalid_request", f"the only supported requested_token_type is {_ACCOUNT_TOKEN}")
    provider = provider_of(deployment, form.require("connection"))
    if provider is None:
        raise OAuthError(
            "invalid_request", "this connection isn't known here: see GET /me/v1/connected-accounts/connections"
        )
    kept = {
        name: value
        for name in ("subject_token", "subject_token_type", "login_hint", "scope")
        if (value := form.get(name)) is not None
    }
    form_of_ours = Parameters({**kept, "audience": provider.name})
    translated = replace(asked, form=form_of_ours, resource=None, needs_token=True, needs_narrow=True)
    try:
        answer = await exchange.exchange(deployment, translated)
    except OAuthError as error:
        facts = {"client_id": asked.client.id, "code": error.code, "detail": error.detail or error.description}
        _log.info("account token refused", extra={**facts, "reason": error.members.get("reason", "")})
        raise await _as_auth0(deployment, error, translated, provider=provider.name) from error
    is_worker = form.get("subject_token_type") == JWT
    return AccountToken(
        answer.access_token,
        scopes=answer.scopes | answer.included if asked.scopes is None else answer.scopes,
        expires_in=answer.expires_in,
        narrowing=answer.narrowing,
        issued_token_type=requested or (_WORKER_TOKEN if is_worker else _ACCOUNT_TOKEN),
    )


async def _as_auth0(deployment: Deployment, error: OAuthError, asked: TokenRequest, *, provider: str) -> OAuthError:
    """The refusal with the code that Auth0's clients branch on; keeps our own members, with the link for the person."""
    reason = error.members.get("reason")
    if reason in _NOT_CONNECTED:
        kind, words = "no_connected_account", f"Federated connection Refresh Token not found. {error.description}"
        if await _names_nobody(deployment, asked, provider=provider):
            kind, words = "no_such_account", f"Identity User not found. {error.description}"
        return OAuthError(kind, words, detail=error.detail, headers=error.headers, members=error.members)
    is_subject = error.code == "invalid_request" and error.description == subjects.UNKNOWN
    if is_subject and asked.form.get("subject_token_type") == REFRESH_TOKEN:
        return OAuthError("invalid_grant", "Unknown or invalid refresh token.", detail=error.detail)
    return error


async def _names_nobody(deployment: Deployment, asked: TokenRequest, *, provider: str) -> bool:
    """Whether the hint matches none of the accounts that this client may use, although it may use some."""
    hint = asked.form.get("login_hint")
    token, grace = asked.form.require("subject_token"), deployment.refresh_lifetimes.grace
    found = await refresh_tokens.find_live(deployment.database, token, now=asked.now, grace=grace)
    if hint is None or found is None:
        return False
    usable = await list_usable(deployment, user_id=found[1].grant.user_id, client_id=asked.client.id)
    held = [one for one in usable if one.provider == provider]
    return bool(held) and not any(names_account(hint, id=one.id, account=one.account, label=one.label) for one in held)


async def refresh(deployment: Deployment, asked: TokenRequest) -> TokenGrant | ExchangeAnswer:
    """Refresh a token, also for the My Account API if `audience` names it (a multi-resource refresh token).

    This doesn't use up a confidential client's refresh token, so an exchange in progress with it isn't disturbed.
    """
    audience = asked.form.get("audience")
    if audience is None or not speaks_auth0(deployment, asked.client):
        return await token.refresh(deployment, asked)
    named_resource(deployment, asked.form, client=asked.client)  # refuses two different values
    if audience.rstrip("/") + "/" != me_audience(deployment):
        return await token.refresh(deployment, replace(asked, resource=audience))
    wanted = ME_SCOPES if asked.scopes is None else asked.scopes & ME_SCOPES
    if not wanted:
        raise OAuthError("invalid_scope", f"the scopes of this API are {format_scope(ME_SCOPES)}")
    if asked.client.is_public:
        rotated = await token.rotate(deployment, replace(asked, scopes=None))
        known = _IDENTITY if "openid" in rotated.scopes else frozenset[str]()
        return replace(
            rotated, scopes=wanted | (known & (asked.scopes or frozenset())), resource=me_audience(deployment)
        )
    presented, grace = asked.form.require("refresh_token"), deployment.refresh_lifetimes.grace
    found = await refresh_tokens.find_live(deployment.database, presented, now=asked.now, grace=grace)
    if found is None or found[0].client_id != asked.client.id:
        raise OAuthError("invalid_grant", "Unknown or invalid refresh token.")
    stored, live = found
    if stored.key_thumbprint not in {None, asked.key_thumbprint}:
        raise OAuthError("invalid_grant", "the refresh token is bound to another key")
    spend_request(deployment, user_id=live.grant.user_id, client_id=asked.client.id)
    details = {"grant": live.grant.id, "scopes": sorted(wanted), "resource": me_audience(deployment)}
    await deployment.activity.record(
        Event("token.issued", user_id=live.grant.user_id, client_id=asked.client.id, details=details)
    )
    return TokenGrant(live.grant, wanted, me_audience(deployment), is_left_alone=False)


# Auth0's SDK for single-page applications adds these to the API's own scopes, and requires an answer with an ID token
# and all of them. OpenID Connect Core §5.4 allows leaving out unknown claims.
_IDENTITY: Final = frozenset({"openid", "profile", "email", "offline_access"})
DIALECT: Final = token.Dialect(
    {
        FEDERATED: account_token,
        "refresh_token": refresh,
        TOKEN_EXCHANGE: foreign_tokens.exchange_token,
        CLIENT_CREDENTIALS: management.issue_token,
    },
    {FEDERATED: TOKEN_EXCHANGE},
)

"""The person that a request is for (OpenID CIBA Core 1.0 §7.1): exactly one hint, parsed strictly.

`login_hint` is a subject identifier as Auth0's SDKs write it (`iss_sub`, RFC 9493 §3.2.3; the issuer with or without
its slash), a person's ID, or the name with which they sign in. `login_hint_token` is a JWT of an issuer that an
operator trusts (`server.oauth.exchange.issuers`), about the person who is linked to that identity.
"""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from server.http.strict_json import json_object
from server.oauth import tokens
from server.oauth.exchange import issuers
from server.oauth.parameters import Parameters
from server.oauth.rules import OAuthError
from server.signatures import jose
from vault import users
from vault.records import Client, User

_HINTS: Final = ("login_hint", "id_token_hint", "login_hint_token")
_LONGEST: Final = 1024  # characters


async def hinted_person(deployment: Deployment, form: Parameters, *, client: Client) -> User:
    """The person. Raises OAuthError: `unknown_user_id` for no match and for people who can't sign in."""
    given = [name for name in _HINTS if form.get(name) is not None]
    if len(given) != 1:
        raise OAuthError("invalid_request", "send one of login_hint, id_token_hint, and login_hint_token")
    (kind,) = given
    hint = form.require(kind)
    match kind:
        case "login_hint":
            found = await _by_login_hint(deployment, hint)
        case "id_token_hint":
            found = await users.get_user(deployment.database, await _subject_of(deployment, hint, client=client))
        case _:
            found = await _by_issuers_token(deployment, hint, client=client)
    if found is None or not found.has_agents:
        raise OAuthError("unknown_user_id", "this hint matches no one here")
    return found


async def _by_login_hint(deployment: Deployment, hint: str) -> User | None:
    if len(hint) > _LONGEST:
        raise OAuthError("invalid_request", f"login_hint is longer than {_LONGEST} characters")
    named = _subject_in(deployment, hint) if hint.lstrip().startswith("{") else hint
    return await users.get_user(deployment.database, named) or await users.find_user(deployment.database, named)


def _subject_in(deployment: Deployment, hint: str) -> str:
    try:
        content = json_object(hint.encode())
    except ValueError as error:
        raise OAuthError("invalid_request", "login_hint isn't a valid JSON object") from error
    if content.get("format") != "iss_sub":
        raise OAuthError("invalid_request", "the only supported format of login_hint is iss_sub")
    issuer, subject = content.get("iss"), content.get("sub")
    if not isinstance(issuer, str) or not isinstance(subject, str) or not subject or "\0" in subject:
        raise OAuthError("invalid_request", "login_hint needs iss and sub")
    if issuer.removesuffix("/") != deployment.public_url:
        raise OAuthError("unknown_user_id", "login_hint names another issuer: use this vault's issuer as iss")
    return subject


async def _by_issuers_token(deployment: Deployment, token: str, *, client: Client) -> User | None:
    now = deployment.now()
    try:
        issuer = jose.unverified_claims(token).get("iss")
        verified = await issuers.read(deployment, client, token, unverified_issuer=issuer, now=now)
    except (jose.TokenMalformed, OAuthError) as error:
        raise OAuthError(
            "invalid_request",
            "login_hint_token must be a JWT of an issuer that this vault trusts for this client",
            detail=str(error),
        ) from error
    expires_at = jose.integer_claim(verified.claims, "exp")
    if expires_at is None or expires_at <= now:
        raise OAuthError("expired_login_hint_token", "login_hint_token has expired: get a new one from its issuer")
    return await issuers.linked_person(deployment, verified)


async def _subject_of(deployment: Deployment, token: str, *, client: Client) -> str:
    """The person of an ID token that we issued to this client, expired or not."""
    try:
        claims = await tokens.read_signed(deployment, token, typ="JWT", now=deployment.now())
    except jose.TokenMalformed as error:
        raise OAuthError(
            "invalid_request", "id_token_hint isn't an ID token that this vault issued", detail=str(error)
        ) from error
    subject = claims.get("sub")
    if claims.get("iss") != deployment.issuer or claims.get("aud") != client.id or not isinstance(subject, str):
        raise OAuthError("invalid_request", "id_token_hint isn't an ID token that this vault issued to this client")
    return subject

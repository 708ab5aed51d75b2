"""Assertions of the company: its key, what it signs, and how a service's authorization server checks them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import cache

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from pydantic import JsonValue

from providers.simulator.accounts import PEOPLE, RegisteredClient
from providers.simulator.state.directory import (
    ASSERTION_LIFETIME,
    ID_JAG_TYPE,
    ID_TOKEN_LIFETIME,
)
from providers.simulator.state.sandbox import Sandbox

_KEY_ID = "company-1"


class AssertionInvalid(Exception):
    """The assertion isn't valid there. `reason` is for the books."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@cache
def _key() -> RSAKey:
    """Created when first needed, because it takes a noticeable time."""
    return RSAKey.generate_key(2048, parameters={"kid": _KEY_ID, "use": "sig", "alg": "RS256"}, private=True)


def public_keys() -> dict[str, object]:
    """RFC 7517 §5."""
    return {"keys": [dict(_key().as_dict(private=False))]}


def issuer(sandbox: Sandbox) -> str:
    """The company's issuer."""
    return f"{sandbox.url}/company"


def id_token(sandbox: Sandbox, account: str, *, client_id: str, nonce: str | None, signed_in_at: float) -> str:
    """OpenID Connect Core §2."""
    now = int(sandbox.clock.now())
    person = PEOPLE[account]
    claims: dict[str, JsonValue] = {
        "iss": issuer(sandbox),
        "sub": sandbox.directory.subject_of(account),
        "aud": client_id,
        "iat": now,
        "exp": now + ID_TOKEN_LIFETIME,
        "auth_time": int(signed_in_at),
        "preferred_username": account,
        "email": person.email,
        "email_verified": True,
        **({} if nonce is None else {"nonce": nonce}),
    }
    return jwt.encode({"alg": "RS256", "kid": _KEY_ID}, claims, _key())


def read_id_token(sandbox: Sandbox, token: str, *, client_id: str) -> tuple[str, float]:
    """The person of an ID token that this client got, and when they signed in (-03 §4.3.3). Raises AssertionInvalid."""
    claims = _verify(sandbox, token)
    if claims.get("aud") != client_id:
        raise AssertionInvalid("audience")
    account = sandbox.directory.account_of(str(claims.get("sub")))
    if account is None or not sandbox.is_active(account):
        raise AssertionInvalid("subject")
    at = claims.get("auth_time")
    return account, float(at) if isinstance(at, int) else 0.0


def assertion(
    sandbox: Sandbox,
    account: str,
    *,
    audience: str,
    client_id: str,
    scopes: frozenset[str],
    resource: str | None,
    signed_in_at: float,
) -> str:
    """An ID-JAG (-03 §3.1)."""
    now = int(sandbox.clock.now())
    claims: dict[str, JsonValue] = {
        "iss": issuer(sandbox),
        "sub": sandbox.directory.subject_of(account),
        "aud": audience,
        "client_id": client_id,
        "jti": secrets.token_urlsafe(16),
        "iat": now,
        "exp": now + ASSERTION_LIFETIME,
        "auth_time": int(signed_in_at),
        "email": PEOPLE[account].email,
        "email_verified": True,
        "preferred_username": account,
        "groups": ["everyone"],
        "scope": " ".join(sorted(scopes)),
        **({} if resource is None else {"resource": resource}),
    }
    return jwt.encode({"alg": "RS256", "kid": _KEY_ID, "typ": ID_JAG_TYPE}, claims, _key())


def redeem(sandbox: Sandbox, token: str, *, audience: str, client: RegisteredClient) -> tuple[str, frozenset[str]]:
    """The person and scopes of this assertion, accepted once (-03 §4.4.1). Raises AssertionInvalid."""
    claims = _verify(sandbox, token, typ=ID_JAG_TYPE)
    if claims.get("aud") != audience:
        raise AssertionInvalid("audience")
    if claims.get("client_id") != client.client_id:
        raise AssertionInvalid("client")
    account = sandbox.directory.account_of(str(claims.get("sub")))
    if account is None or not sandbox.is_active(account):
        raise AssertionInvalid("subject")
    token_id = str(claims.get("jti"))
    if token_id in sandbox.directory.redeemed:
        raise AssertionInvalid("replayed")
    sandbox.directory.redeemed.add(token_id)
    return account, frozenset(str(claims.get("scope") or "").split())


def _verify(sandbox: Sandbox, token: str, *, typ: str | None = None) -> Mapping[str, object]:
    try:
        decoded = jwt.decode(token, _key(), algorithms=["RS256"])
    except (JoseError, ValueError) as error:
        raise AssertionInvalid("signature") from error
    claims = decoded.claims
    if typ is not None and decoded.header.get("typ") != typ:
        raise AssertionInvalid("typ")
    if claims.get("iss") != issuer(sandbox):
        raise AssertionInvalid("issuer")
    if not isinstance(claims.get("exp"), int) or claims["exp"] <= sandbox.clock.now():
        raise AssertionInvalid("expired")
    return claims

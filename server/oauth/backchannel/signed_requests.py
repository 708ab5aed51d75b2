"""Requests that the client signs (OpenID CIBA Core 1.0 §7.1.1): all parameters as claims of a JWT that works once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from server.deployment import Deployment
from server.oauth.backchannel.clients import signing_algorithm
from server.oauth.clients.authentication import is_for_us
from server.oauth.clients.keys import keys_of
from server.oauth.parameters import Parameters
from server.oauth.rules import OAuthError
from server.signatures import jose
from server.signatures.key_sets import first_verified, key_id
from vault import replay
from vault.records import HOUR, Client

LONGEST: Final = HOUR  # seconds from `nbf` to `exp`
_ABOUT_THE_TOKEN: Final = frozenset({"iss", "aud", "exp", "iat", "nbf", "jti"})
_BESIDE: Final = frozenset({"request", "client_id", "client_secret", "client_assertion", "client_assertion_type"})


async def parameters_of(deployment: Deployment, form: Parameters, *, client: Client, address: str) -> Parameters:
    """The request's parameters, from the place where the client must send them. Raises OAuthError."""
    algorithm, signed = signing_algorithm(client), form.get("request")
    if algorithm is None:
        if signed is not None:
            raise OAuthError("request_not_supported", "this client isn't registered to sign its requests")
        return form
    if signed is None:
        raise OAuthError("invalid_request", "this client must sign its requests: send request")
    if any(form.get(name) is not None for name in form.values.keys() - _BESIDE):
        raise OAuthError("invalid_request", "send every parameter inside request, and none outside it")
    now = deployment.now()
    claims = await _claims(deployment, signed, client=client, algorithm=algorithm, address=address, now=now)
    await _check_claims(deployment, claims, client=client, now=now)
    return Parameters({name: _text(name, value) for name, value in claims.items() if name not in _ABOUT_THE_TOKEN})


async def _claims(
    deployment: Deployment, signed: str, *, client: Client, algorithm: str, address: str, now: int
) -> Mapping[str, object]:
    try:
        header = jose.unverified_header(signed)
        jose.check_header(header, algorithms=(algorithm,), allowed=jose.HEADER_MEMBERS)
        keys = await keys_of(deployment, client, kid=key_id(header), address=address, now=now)
        return first_verified(signed, keys, algorithm=algorithm)
    except jose.TokenMalformed as error:
        raise _refusal(str(error)) from error


async def _check_claims(deployment: Deployment, claims: Mapping[str, object], *, client: Client, now: int) -> None:
    """Check each required claim, and that the request is new."""
    if claims.get("iss") != client.id or not is_for_us(deployment, dict(claims)):
        raise _refusal("iss isn't the client's ID, or aud isn't this vault's issuer")
    if "sub" in claims:  # RFC 9101 §10.8: it could pass for an assertion of the client
        raise _refusal("sub isn't allowed in a signed request")
    token_id = jose.token_id(claims)
    match [jose.integer_claim(claims, name) for name in ("exp", "nbf", "iat")]:
        case [int(expires_at), int(not_before), int(issued_at)] if token_id is not None:
            pass
        case _:
            raise _refusal("exp, nbf, iat, or jti is missing or has the wrong type")
    if not now - jose.CLOCK_SKEW < expires_at <= not_before + LONGEST:
        raise _refusal(f"the request has expired, or exp is more than {LONGEST} s after nbf")
    if max(not_before, issued_at) > now + jose.CLOCK_SKEW:
        raise _refusal("nbf or iat is in the future")
    async with deployment.database.transaction() as transaction:
        is_first = await replay.first_use(
            transaction,
            "ciba-request",
            f"{client.id} {token_id}",
            expires_at=expires_at + jose.CLOCK_SKEW,
            now=now,
            made_at=not_before - jose.CLOCK_SKEW,  # it couldn't be used earlier
        )
    if not is_first:
        raise _refusal("a request with this jti was already sent")


def _text(name: str, value: object) -> str:
    """The value as a form would have it: §7.1.1 lets `requested_expiry` be a number, RFC 9396 §2 details be JSON."""
    if isinstance(value, str) and "\0" not in value:
        return value
    if name == "requested_expiry" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if name == "authorization_details" and isinstance(value, list):
        return json.dumps(value)
    raise OAuthError("invalid_request", "a parameter inside request has the wrong type")


def _refusal(detail: str) -> OAuthError:
    return OAuthError("invalid_request", "request isn't a signed request of this client for this vault", detail=detail)

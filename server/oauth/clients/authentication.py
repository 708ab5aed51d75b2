"""Authentication of OAuth clients at the token, revocation and introspection endpoints (RFC 6749 §2.3, RFC 7523).

Exactly one method per request; secrets are compared as hashes in constant time. The endpoint decides what the client
may do.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import b64decode
from typing import Final
from urllib.parse import unquote_plus

from starlette.requests import Request

from server.deployment import Deployment
from server.http.addresses import address_of, counting_key
from server.http.answers import too_often
from server.oauth.clients import metadata_documents
from server.oauth.clients.keys import keys_of
from server.oauth.clients.rules import is_metadata_client
from server.oauth.parameters import Parameters
from server.oauth.rules import OAuthError
from server.signatures import jose
from server.signatures.key_sets import first_verified, key_id
from vault import clients, replay
from vault.records import HOUR, Client

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFETIME: Final = HOUR
NOBODY: Final = hashlib.sha256(b"no client has this secret").digest()


def secret_hash(secret: str) -> bytes:
    """The stored form of a client's secret or registration token; random secrets of 256 bits need no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def invalid_client(detail: str, *, with_challenge: bool = False) -> OAuthError:
    """401 at the token endpoint, which makes a client that lost its registration register again."""
    headers = {"WWW-Authenticate": 'Basic realm="token-vault", charset="UTF-8"'} if with_challenge else {}
    return OAuthError("invalid_client", "client authentication failed", detail=detail, headers=headers)


async def authenticate(
    deployment: Deployment, request: Request, form: Parameters, *, expected: frozenset[str] = frozenset()
) -> Client:
    """The client of this request, authenticated the way it registered. Raises OAuthError.

    `expected`: IDs of clients with a metadata document that are accepted although they never used /authorize.
    """
    basic = _read_basic(request)
    named, basic_secret = ("", None) if basic is None else basic
    secret, assertion = form.get("client_secret"), form.get("client_assertion")
    if sum(one is not None for one in (basic_secret, secret, assertion)) > 1:
        raise OAuthError("invalid_request", "use one method of client authentication")
    client_id = _one_client_id(form, named, assertion, with_challenge=basic is not None)
    may_be_new = client_id in expected
    client = await find_client(deployment, client_id, address=address_of(request), may_be_new=may_be_new)
    if assertion is not None:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise OAuthError("invalid_request", "client_assertion_type isn't supported")
        return await check_assertion(deployment, client, assertion, address=address_of(request))
    return _check_secret(client, basic_secret or secret, with_challenge=basic is not None)


async def find_client(
    deployment: Deployment, client_id: str, *, address: str, must_be_fresh: bool = False, may_be_new: bool = False
) -> Client | None:
    """The client with this id, by registration or by its metadata document."""
    if len(client_id) > 512:
        return None
    if is_metadata_client(client_id):
        return await metadata_documents.resolve(
            deployment, client_id, address=address, must_be_fresh=must_be_fresh, may_be_new=may_be_new
        )
    return await clients.get_client(deployment.database, client_id)


def _read_basic(request: Request) -> tuple[str, str | None] | None:
    """Id and secret of the Authorization header (RFC 6749 §2.3.1); an empty secret counts as none."""
    match request.headers.getlist("authorization"):
        case []:
            return None
        case [value]:
            scheme, _, encoded = value.partition(" ")
        case _:
            scheme, encoded = "", ""
    if scheme.lower() != "basic":
        raise invalid_client("the Authorization header isn't one Basic header", with_challenge=True)
    try:
        client_id, colon, secret = b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except ValueError as error:
        raise invalid_client("the Basic credentials can't be read", with_challenge=True) from error
    if not colon or "\0" in client_id:
        raise invalid_client("the Basic credentials can't be read", with_challenge=True)
    return unquote_plus(client_id), unquote_plus(secret) or None


def _one_client_id(form: Parameters, basic_id: str, assertion: str | None, *, with_challenge: bool) -> str:
    named = {value for value in (form.get("client_id"), basic_id) if value}
    if assertion is not None:
        try:
            subject = jose.unverified_claims(assertion).get("sub")
        except jose.TokenMalformed as error:
            raise invalid_client(str(error)) from error
        if not isinstance(subject, str) or not subject or "\0" in subject:
            raise invalid_client("the assertion has no sub")
        named.add(subject)
    if len(named) > 1:
        raise OAuthError("invalid_request", "the request names two clients")
    if not named:
        raise invalid_client("the request names no client", with_challenge=with_challenge)
    return named.pop()


def _check_secret(client: Client | None, secret: str | None, *, with_challenge: bool) -> Client:
    """The client, if the secret is its own; takes the same time for an unknown client as for a wrong secret."""
    expected = NOBODY if client is None or client.secret_hash is None else client.secret_hash
    is_right = hmac.compare_digest(secret_hash(secret or ""), expected)
    if client is None:
        raise invalid_client("the client is unknown", with_challenge=with_challenge)
    match client.auth_method:
        case "none" if secret is None:
            return client
        case "client_secret_basic" | "client_secret_post" if is_right:
            return client  # either form: libraries choose one by themselves, and both carry the same secret
        case _:
            raise invalid_client(
                "the secret is missing or wrong, or this client has none", with_challenge=with_challenge
            )


async def check_assertion(deployment: Deployment, client: Client | None, assertion: str, *, address: str) -> Client:
    """RFC 7523 §3: signed by the client's own key, for us, short-lived, once."""
    if client is None or client.auth_method != "private_key_jwt":
        raise invalid_client("this client isn't registered for private_key_jwt")
    now = deployment.now()
    try:
        header = jose.unverified_header(assertion)
        algorithm = jose.check_header(header, algorithms=jose.FOREIGN_ALGORITHMS, allowed=jose.HEADER_MEMBERS)
        keys = await keys_of(deployment, client, kid=key_id(header), address=address, now=now)
        claims = first_verified(assertion, keys, algorithm=algorithm)
    except jose.TokenMalformed as error:
        raise invalid_client(str(error)) from error
    token_id, expires_at = jose.token_id(claims), jose.integer_claim(claims, "exp")
    if claims.get("iss") != client.id or claims.get("sub") != client.id or not is_for_us(deployment, claims):
        raise invalid_client("iss or sub isn't the client's ID, or aud isn't this vault")
    if expires_at is None or expires_at <= now - jose.CLOCK_SKEW:
        raise invalid_client("exp is missing or past")
    starts_at = jose.starts_at(claims, expires_at - _ASSERTION_LIFETIME)
    if starts_at is None or starts_at > now + jose.CLOCK_SKEW:
        raise invalid_client("iat or nbf isn't a number or is in the future, or exp is too far in the future")
    if token_id is None:
        raise invalid_client("the assertion has no jti")
    check_rows(deployment, client, address=address)
    async with deployment.database.transaction() as transaction:
        is_first = await replay.first_use(
            transaction,
            "client-assertion",
            f"{client.id} {token_id}",
            expires_at=expires_at + jose.CLOCK_SKEW,
            now=now,
            made_at=starts_at - jose.CLOCK_SKEW,  # it couldn't be used earlier
        )
    if not is_first:
        raise invalid_client("an assertion with this jti was already used")
    return client


def check_rows(deployment: Deployment, client: Client, *, address: str) -> None:
    """Count a single-use value that a self-registered client leaves behind. Raises OAuthError."""
    if client.is_vouched_for:
        return
    wait = deployment.rows.spend(counting_key(address), "", now=time.monotonic())
    if wait:
        raise OAuthError(
            "too_many_requests",
            "too many requests from this address: try again later",
            headers=too_often(wait, limit=deployment.rows.limit, now=deployment.now()),
        )


def is_for_us(deployment: Deployment, claims: dict[str, object]) -> bool:
    """§3 item 3: issuer or token endpoint; in a list, nothing but these."""
    ours = {deployment.public_url, f"{deployment.public_url}/", deployment.url("/token")}
    ours.add(deployment.url("/bc-authorize"))  # OpenID CIBA Core 1.0 §7.1
    if deployment.settings.auth0.enabled:
        ours.add(deployment.url("/oauth/token"))
    match claims.get("aud"):
        case str() as audience:
            return audience in ours
        case list() as audiences if audiences:  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
            return all(isinstance(audience, str) and audience in ours for audience in audiences)  # pyright: ignore[reportUnknownVariableType]
        case _:
            return False

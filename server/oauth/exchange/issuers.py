"""JWTs from external issuers that an operator trusts, such as an employee's token from the company's identity provider.

The person is the user who is linked to the token's identity; a token never creates a user. The setting
`issuers` says which issuers, with which audience and by which clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from providers.definitions.issuers import is_same_issuer
from providers.outbound.addresses import AddressPolicy
from server.deployment import Deployment
from server.issuer_settings import IssuerSettings
from server.oauth.exchange.subjects import Subject, refusal
from server.oauth.token_request import TokenRequest
from server.oauth.tokens import MAX_ACTORS, actors_of
from server.signatures import jose
from server.signatures.issuers import claims_of_trusted
from vault import users
from vault.records import DAY, Client, ClientKind, User, parse_scope

MAX_LIFETIME: Final = DAY  # seconds from `iat` to `exp`
TYPES: Final = frozenset({None, "JWT", "at+jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True)
class TrustedClaims:
    """The verified claims of a token, without its times, and the issuer with its name in the settings."""

    name: str
    issuer: IssuerSettings
    claims: dict[str, object]


async def verify(deployment: Deployment, asked: TokenRequest, token: str, *, unverified_issuer: object) -> Subject:
    """The user that a trusted issuer's token is about. Raises OAuthError."""
    found = await read(deployment, asked.client, token, unverified_issuer=unverified_issuer, now=asked.now)
    claims = found.claims
    expires_at, issued_at = jose.integer_claim(claims, "exp"), jose.integer_claim(claims, "iat")
    if expires_at is None or issued_at is None or not asked.now < expires_at <= issued_at + MAX_LIFETIME:
        raise refusal("exp or iat is missing, exp is past, or they are too far apart")
    starts_at = jose.starts_at(claims, issued_at)
    if starts_at is None or starts_at > asked.now + jose.CLOCK_SKEW:
        raise refusal("iat or nbf is in the future, or nbf isn't a number")
    _check_may_act(claims, asked)
    user = await linked_person(deployment, found)
    if user is None or not user.has_agents:
        raise refusal("no user is linked to this identity", "no user here is linked to the subject of this token")
    scope = claims.get("scope")
    return Subject(
        user_id=user.id,
        grant_id="",
        derived_from=f"issuer:{found.name}",
        actors=_actors(found.name, claims),
        scopes=parse_scope(scope) if isinstance(scope, str) else frozenset(),
        audience="",
        expires_at=expires_at,
        kind="issuer",
        details={"issuer": found.name},
    )


async def read(
    deployment: Deployment, client: Client, token: str, *, unverified_issuer: object, now: int
) -> TrustedClaims:
    """The claims of a token that an issuer trusted for this client signed for the agreed audience. Raises OAuthError.

    The caller must check its times.
    """
    name, trusted = _trusted_issuer(deployment, client, unverified_issuer)
    return TrustedClaims(name, trusted, await _claims(deployment, trusted, token, now=now))


async def linked_person(deployment: Deployment, found: TrustedClaims) -> User | None:
    """The user who is linked to the identity that a token is about."""
    identity = found.claims.get(found.issuer.subject_claim)
    linked_to = found.issuer.identity_issuer or found.issuer.issuer
    if not isinstance(identity, str) or not identity:
        return None
    return await users.find_by_identity(deployment.database, issuer=linked_to, subject=identity)


def _trusted_issuer(deployment: Deployment, client: Client, issuer: object) -> tuple[str, IssuerSettings]:
    if client.kind is not ClientKind.MANUAL:
        raise refusal("an operator didn't register this client")
    for name, trusted in deployment.settings.issuers.items():
        if is_same_issuer(issuer, trusted.issuer) and client.id in (trusted.clients or (client.id,)):
            return name, trusted
    raise refusal("the issuer isn't trusted, or not for this client")


async def _claims(deployment: Deployment, trusted: IssuerSettings, token: str, *, now: int) -> dict[str, object]:
    """The claims under one of the issuer's keys, for the agreed audience."""
    try:
        policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_openid)
        claims = await claims_of_trusted(
            deployment.http, token, issuer=trusted.issuer, jwks_uri=trusted.jwks_uri, policy=policy, now=now
        )
    except jose.TokenMalformed as error:
        raise refusal(str(error)) from error
    if jose.unverified_header(token).get("typ") not in TYPES:
        raise refusal("typ")
    audience = claims.get("aud")
    audiences: list[object] = audience if isinstance(audience, list) else [audience]  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
    if not is_same_issuer(claims.get("iss"), trusted.issuer) or trusted.audience not in audiences:
        raise refusal("iss isn't the trusted issuer, or aud isn't this vault")
    return claims


def _check_may_act(claims: dict[str, object], asked: TokenRequest) -> None:
    """RFC 8693 §4.4: a token that names who may act is for that actor only."""
    may_act = claims.get("may_act")
    if may_act is None:
        return
    named: set[object] = set()
    if isinstance(may_act, dict):
        named = {may_act.get("sub"), may_act.get("client_id")}  # pyright: ignore[reportUnknownMemberType] -- parsed JSON
    if asked.client.id not in named:
        raise refusal("may_act names another client")


def _actors(name: str, claims: dict[str, object]) -> tuple[str, ...]:
    """The issuer's actors, distinguished from our clients by the issuer's name."""
    try:
        found = actors_of(claims.get("act"))
    except jose.TokenMalformed as error:
        raise refusal(str(error), f"the act claim is empty, or names more than {MAX_ACTORS} actors") from error
    holder = claims.get("azp", claims.get("client_id"))
    if not found and isinstance(holder, str):
        found = (holder,)
    return tuple(f"{name}:{one}" for one in found)

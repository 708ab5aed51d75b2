"""Read an identity assertion and check everything in it that needs no storage.

draft-ietf-oauth-identity-assertion-authz-grant-03 §3.1 (claims) and §4.4.1 (processing); MCP Enterprise-Managed
Authorization §5.1 and §7; RFC 7523 §3. `assertion_grant` uses the assertion up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from providers.definitions.issuers import is_same_issuer
from providers.outbound.addresses import AddressPolicy
from server.deployment import Deployment
from server.issuer_settings import EnterpriseSettings
from server.oauth.enterprise.refusals import AssertionRefused
from server.oauth.rules import SCOPES, canonical_resource, default_resource, own_resources
from server.oauth.token_request import TokenRequest
from server.oauth.tokens import actors_of
from server.signatures import jose
from server.signatures.issuers import claims_of_trusted
from server.signatures.key_sets import NoKeys
from vault.groups import name_key
from vault.records import ClientKind, parse_scope

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1
JWT_DPOP: Final = "urn:ietf:params:oauth:grant-type:jwt-dpop"  # draft-parecki-oauth-jwt-dpop-grant-02: a bound one
BY_ASSERTION: Final = frozenset({JWT_BEARER, JWT_DPOP})
PROFILE: Final = "urn:ietf:params:oauth:grant-profile:id-jag"  # §7.2
TYPE: Final = "oauth-id-jag+jwt"
_MOST_GROUPS: Final = 1000
_LONGEST: Final = {"jti": 256, "sub": 255}  # characters


@dataclass(frozen=True, slots=True)
class IdentityAssertion:
    """A verified assertion. `scopes`: None if it names none. `claims`: about the person."""

    company: str  # its name in the settings
    trusted: EnterpriseSettings
    subject: str
    token_id: str
    issued_at: int
    expires_at: int
    resource: str
    scopes: frozenset[str] | None
    groups: frozenset[str]
    actors: tuple[str, ...]
    claims: Mapping[str, object] = field(repr=False)

    @property
    def identity_issuer(self) -> str:
        """The issuer that the person is linked under here."""
        return self.trusted.identity_issuer or self.trusted.issuer


@dataclass(frozen=True, slots=True)
class _PresentedAssertion:
    deployment: Deployment
    asked: TokenRequest
    trusted: EnterpriseSettings
    claims: Mapping[str, object]

    def text(self, name: str) -> str | None:
        found = self.claims.get(name)
        if not isinstance(found, str) or not found or "\0" in found or len(found) > _LONGEST[name]:
            return None
        return found


async def verify(deployment: Deployment, asked: TokenRequest, token: str) -> IdentityAssertion:
    """The assertion, after every check of its own. Raises AssertionRefused."""
    company, trusted = trusted_company(deployment, token)
    _check_client_kind(asked)
    claims = await _verified_claims(deployment, trusted, token, now=asked.now)
    presented = _PresentedAssertion(deployment, asked, trusted, claims)
    for check in _CHECKS:
        check(presented)
    return IdentityAssertion(
        company,
        trusted,
        subject=presented.text("sub") or "",
        token_id=presented.text("jti") or "",
        issued_at=jose.integer_claim(claims, "iat") or 0,
        expires_at=jose.integer_claim(claims, "exp") or 0,
        resource=_resource(presented),
        scopes=_scopes(presented),
        groups=_groups(claims.get(trusted.groups_claim)),
        actors=_actors(claims),
        claims=claims,
    )


def trusted_company(deployment: Deployment, token: str) -> tuple[str, EnterpriseSettings]:
    """The company that the assertion claims to be from; if several share an issuer, by tenant. Raises
    AssertionRefused."""
    try:
        header, claims = jose.unverified_header(token), jose.unverified_claims(token)
    except jose.TokenMalformed as error:
        raise AssertionRefused("unreadable", str(error)) from error
    if header.get("typ") != TYPE:  # §4.4.1, RFC 8725 §3.11
        raise AssertionRefused("typ")
    companies = deployment.settings.enterprise.items()
    at_issuer = [(name, one) for name, one in companies if is_same_issuer(claims.get("iss"), one.issuer)]
    if not at_issuer:
        raise AssertionRefused("issuer")
    of_tenant = [(name, one) for name, one in at_issuer if one.tenant == claims.get("tenant")]
    return next(iter(of_tenant or at_issuer))


def _check_client_kind(asked: TokenRequest) -> None:
    """Refuse self-registered clients: the identity provider must know the client by an ID that was entered there."""
    if asked.client.kind not in {ClientKind.MANUAL, ClientKind.METADATA}:
        raise AssertionRefused("registration")


async def _verified_claims(
    deployment: Deployment, trusted: EnterpriseSettings, token: str, *, now: int
) -> Mapping[str, object]:
    policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_openid)
    try:
        jose.check_header(
            jose.unverified_header(token), algorithms=jose.ISSUER_ALGORITHMS, allowed=jose.HEADER_MEMBERS, typ=TYPE
        )
    except jose.TokenMalformed as error:
        raise AssertionRefused("header", str(error)) from error
    try:
        return await claims_of_trusted(
            deployment.http, token, issuer=trusted.issuer, jwks_uri=trusted.jwks_uri, policy=policy, now=now
        )
    except NoKeys as error:
        raise AssertionRefused("keys", str(error)) from error
    except jose.TokenMalformed as error:
        raise AssertionRefused("signature", str(error)) from error


# The checks, in their order ---------------------------------------------------------------------------------------


def _check_audience(presented: _PresentedAssertion) -> None:
    """§4.4.1: exactly our issuer, as text or in a list of one."""
    named, ours = presented.claims.get("aud"), presented.deployment.public_url
    if named not in (ours, f"{ours}/", [ours], [f"{ours}/"]):
        raise AssertionRefused("audience")


def _check_client(presented: _PresentedAssertion) -> None:
    """§4.4.1: exactly the client that authenticated."""
    if presented.claims.get("client_id") != presented.asked.client.id:
        raise AssertionRefused("client")


def _check_lifetime(presented: _PresentedAssertion) -> None:
    """§3.1, MCP §7.4.2: short-lived, and now."""
    claims, now = presented.claims, presented.asked.now
    issued_at, expires_at = jose.integer_claim(claims, "iat"), jose.integer_claim(claims, "exp")
    if issued_at is None or expires_at is None or not 0 < expires_at - issued_at <= presented.trusted.longest:
        raise AssertionRefused("lifetime")
    if expires_at <= now:
        raise AssertionRefused("expired")
    starts_at = jose.starts_at(claims, issued_at)
    if starts_at is None or starts_at > now + jose.CLOCK_SKEW:
        raise AssertionRefused("future")


def _check_identifiers(presented: _PresentedAssertion) -> None:
    if presented.text("jti") is None:
        raise AssertionRefused("jti")
    if presented.text("sub") is None:
        raise AssertionRefused("subject")


def _check_tenant(presented: _PresentedAssertion) -> None:
    """§6: a subject of an issuer with many tenants is unique within its tenant only."""
    if presented.claims.get("tenant") != presented.trusted.tenant:
        raise AssertionRefused("tenant")


def _check_key(presented: _PresentedAssertion) -> None:
    """§8.6.1.2: an assertion bound to a key needs a proof of that key. Another kind of binding can't be checked."""
    confirmation = presented.claims.get("cnf")
    if confirmation is None:
        if presented.asked.form.get("grant_type") == JWT_DPOP:
            raise AssertionRefused("unbound")
        return
    thumbprint: object = confirmation.get("jkt") if isinstance(confirmation, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- parsed JSON
    if not isinstance(thumbprint, str) or thumbprint != presented.asked.key_thumbprint:
        raise AssertionRefused("key")


def _check_authentication(presented: _PresentedAssertion) -> None:
    """§8.1: a client that anyone can name needs a binding, or the operator's switch."""
    client, trusted = presented.asked.client, presented.trusted
    if client.is_public and presented.claims.get("cnf") is None and not trusted.public_clients:
        raise AssertionRefused("public")


def _check_sign_in(presented: _PresentedAssertion) -> None:
    """§8.2, RFC 9470 §3: how and when the person signed in there."""
    trusted, claims = presented.trusted, presented.claims
    if trusted.max_age is not None:
        signed_in_at = jose.integer_claim(claims, "auth_time")
        if signed_in_at is None or signed_in_at + trusted.max_age + jose.CLOCK_SKEW < presented.asked.now:
            raise AssertionRefused("age", members={"max_age": trusted.max_age})
    if trusted.acr and claims.get("acr") not in trusted.acr:
        raise AssertionRefused("acr", members={"acr_values": " ".join(trusted.acr)})


def _check_details(presented: _PresentedAssertion) -> None:
    """Refuse restrictions that can't be enforced, rather than ignoring them silently."""
    if presented.claims.get("authorization_details") not in (None, []):
        raise AssertionRefused("details")


_CHECKS: Final[tuple[Callable[[_PresentedAssertion], None], ...]] = (
    _check_audience,
    _check_client,
    _check_lifetime,
    _check_identifiers,
    _check_tenant,
    _check_key,
    _check_authentication,
    _check_sign_in,
    _check_details,
)


def _resource(presented: _PresentedAssertion) -> str:
    """The MCP endpoint that the token is for (RFC 8707 §2, MCP §7.6.2): of the claim, the request, or the default."""
    public_url = presented.deployment.public_url
    ours = own_resources(public_url)
    named = presented.claims.get("resource")
    listed: list[object] = named if isinstance(named, list) else [] if named is None else [named]  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
    found = [canonical_resource(one, public_url=public_url) if isinstance(one, str) else "" for one in listed]
    if (named is not None and not found) or not ours.issuperset(found):
        raise AssertionRefused("resource")
    asked = presented.asked.resource
    if asked is not None and asked not in ours:
        raise AssertionRefused("resource", "requested")
    return asked or next(iter(found), default_resource(public_url))


def _scopes(presented: _PresentedAssertion) -> frozenset[str] | None:
    """The scopes of ours in it (MCP §7.6.2); None if it names none at all."""
    if "scope" not in presented.claims:
        return None
    named = presented.claims["scope"]
    known = parse_scope(named) & SCOPES if isinstance(named, str) else frozenset[str]()
    if not known:
        raise AssertionRefused("scope")
    return known


def _groups(named: object) -> frozenset[str]:
    """Names or IDs of groups in the form that is compared; a single one doesn't need a list."""
    listed: list[object] = [named] if isinstance(named, str) else named if isinstance(named, list) else []  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
    return frozenset(name_key(one) for one in listed[:_MOST_GROUPS] if isinstance(one, str))


def _actors(claims: Mapping[str, object]) -> tuple[str, ...]:
    try:
        return actors_of(claims.get("act"))
    except jose.TokenMalformed as error:
        raise AssertionRefused("actor", str(error)) from error

"""Access tokens: mint and verify RFC 9068 JWTs, and cache verified signatures.

A cached verdict covers only the signature and the claims. Each call reads from the database whether the grant behind
the token is live, so that a revoked agent fails immediately.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from starlette.datastructures import Headers

from server.deployment import Deployment
from server.oauth import dpop
from server.oauth.rules import OAuthError, own_resources
from server.signatures import jose
from vault import grants, revoked_tokens
from vault.keys.key_ring import KeyRing
from vault.records import DAY, Grant, Principal, format_scope, parse_scope

TYPE: Final = "at+jwt"
MAX_LIFETIME: Final = DAY
MAX_ACTORS: Final = 4  # maximum length of a chain, from any issuer
NO_GRANT: Final = ""  # `gid` of an agent's token for itself (`client_tokens`), which matches no grant
_STRONG: Final = "mfa"  # RFC 8176 §2
_REMEMBERED: Final = 4096  # verdicts per process


class TokenRefused(OAuthError):
    """The token cannot be used here. Only `detail` says why."""

    def __init__(self, detail: str, *, kind: str = "invalid_token") -> None:
        super().__init__(kind, "the access token is missing, invalid or expired", detail=detail)


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """The claims of a token with a valid signature."""

    subject: str
    client_id: str
    grant_id: str
    audience: str
    scopes: frozenset[str]
    issued_at: int
    expires_at: int
    token_id: str
    actors: tuple[str, ...]
    key_thumbprint: str | None
    auth_time: int | None
    is_strong: bool
    details: object  # authorization details as they were signed
    principal: Principal = field(init=False, repr=False, compare=False)  # who calls with this token

    def __post_init__(self) -> None:
        principal = Principal(
            user_id=self.subject,
            client_id=self.client_id,
            grant_id=self.grant_id,
            scopes=self.scopes,
            audience=self.audience,
            actors=self.actors,
            expires_at=self.expires_at,
            token_id=self.token_id,
            auth_time=self.auth_time,
            is_strong=self.is_strong,
        )
        object.__setattr__(self, "principal", principal)  # the same object for all calls with a token


@dataclass(frozen=True, slots=True)
class AccessTokenFacts:
    """The content of our tokens. `actors`: outermost first. `parent`: ID of the token that it was made from."""

    issuer: str
    user_id: str
    client_id: str
    grant_id: str
    audience: str
    scopes: frozenset[str]
    actors: tuple[str, ...] = ()
    key_thumbprint: str | None = None
    parent: str = ""
    auth_time: int | None = None
    is_strong: bool = False
    details: tuple[Mapping[str, object], ...] = ()


class _Verdicts:
    """A least-recently-used cache of valid signatures by SHA-256 of the token; never contains a token itself."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, AccessClaims] = OrderedDict()

    def get(self, key: bytes) -> AccessClaims | None:
        claims = self._known.get(key)
        if claims is not None:
            self._known.move_to_end(key)
        return claims

    def remember(self, key: bytes, claims: AccessClaims) -> None:
        self._known[key] = claims
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def forget(self, key: bytes) -> None:
        self._known.pop(key, None)


_verdicts: WeakKeyDictionary[KeyRing, _Verdicts] = WeakKeyDictionary()  # per key ring: a verdict depends on its keys


def mint(
    deployment: Deployment,
    grant: Grant,
    *,
    scopes: frozenset[str],
    audience: str,
    now: int,
    key_thumbprint: str | None = None,
    actors: tuple[str, ...] = (),
    expires_at: int | None = None,
    lifetime: int | None = None,
    parent: str = "",
    auth_time: int | None = None,
    is_strong: bool = False,
    details: tuple[Mapping[str, object], ...] = (),
) -> tuple[str, int]:
    """An access token for the grant's client, and its lifetime in seconds (RFC 9068 §2.2).

    `actors` become the nested `act` (RFC 8693 §4.1), outermost first; `expires_at` can only shorten the lifetime, by
    default the operator's for access tokens. `parent` is the id of the token that this one is made from and ends with,
    `auth_time` when its person signed in (RFC 9068 §2.2.1), `is_strong` whether with a passkey or several factors,
    `details` what exactly it is for (RFC 9396 §9.1).
    """
    lifetime = lifetime or deployment.settings.tokens.access_lifetime
    if expires_at is not None:
        lifetime = min(lifetime, expires_at - now)
    facts = AccessTokenFacts(
        issuer=deployment.issuer,
        user_id=grant.user_id,
        client_id=grant.client_id,
        grant_id=grant.id,
        audience=audience,
        scopes=scopes,
        actors=actors,
        key_thumbprint=key_thumbprint,
        parent=parent,
        auth_time=auth_time,
        is_strong=is_strong,
        details=details,
    )
    return sign(deployment.keys, facts, now=now, expires_at=now + lifetime), lifetime


def sign(keys: KeyRing, facts: AccessTokenFacts, *, now: int, expires_at: int) -> str:
    """The token with these facts."""
    claims: dict[str, object] = {
        "iss": facts.issuer,
        "sub": facts.user_id,
        "aud": facts.audience,
        "client_id": facts.client_id,
        "azp": facts.client_id,
        "scope": format_scope(facts.scopes),
        "jti": revoked_tokens.new_token_id(facts.parent),
        "iat": now,
        "exp": expires_at,
        "gid": facts.grant_id,
    }
    if facts.key_thumbprint is not None:
        claims["cnf"] = {"jkt": facts.key_thumbprint}
    if facts.actors:
        claims["act"] = act_of(facts.actors)
    if facts.auth_time is not None:
        claims["auth_time"] = facts.auth_time
    if facts.is_strong:
        claims["amr"] = [_STRONG]
    if facts.details:
        claims["authorization_details"] = [dict(one) for one in facts.details]
    return jose.sign(claims, keys.signing.current(now), typ=TYPE)


async def verify(
    deployment: Deployment, token: str, *, audiences: frozenset[str] | None = None, key_thumbprint: str | None = None
) -> Principal:
    """The principal of a token. Raises TokenRefused.

    The token must be ours, valid, current, and for one of `audiences` (default: our MCP endpoints), and its grant must
    be live. A DPoP-bound token needs the thumbprint of the key in the request's proof: it never works as a plain bearer
    token.
    """
    principal = await _verify_claims(deployment, token, audiences=audiences, key_thumbprint=key_thumbprint)
    await check_grant(deployment, principal)
    return principal


async def check_grant(deployment: Deployment, principal: Principal) -> Grant:
    """The grant, if its client, its person and the token are live now, in one read. Raises TokenRefused."""
    live = await grants.live_principal_facts(deployment.database, principal.grant_id, token_id=principal.token_id)
    who = principal.user_id, principal.client_id
    if live is None or (live.grant.user_id, live.grant.client_id) != who:
        raise TokenRefused("the grant has ended, or the token was revoked")
    return live.grant


async def check_live(deployment: Deployment, principal: Principal) -> None:
    """Check a verified token again, except for what can't change. Raises TokenRefused."""
    if principal.expires_at is not None and deployment.now() >= principal.expires_at:
        raise TokenRefused("the token has expired")
    await check_grant(deployment, principal)


async def _verify_claims(
    deployment: Deployment, token: str, *, audiences: frozenset[str] | None, key_thumbprint: str | None
) -> Principal:
    claims = await read_claims(deployment, token, now=deployment.now())
    allowed = own_resources(deployment.public_url) if audiences is None else audiences
    if claims.audience not in allowed:
        raise TokenRefused("the token is for another audience")
    if claims.key_thumbprint != key_thumbprint:
        raise TokenRefused("the request doesn't prove the key to which the token is bound")
    if claims.key_thumbprint is None and deployment.settings.tokens.require_dpop:
        raise TokenRefused("the token isn't bound to a DPoP key, as tokens.require_dpop demands")
    return claims.principal


async def authenticate(
    deployment: Deployment,
    headers: Headers,
    *,
    method: str,
    path: str,
    audiences: frozenset[str] | None = None,
    grant_later: bool = False,
) -> Principal:
    """Like `verify`, from the request's headers (RFC 6750 §2.1, RFC 9449 §7.1): the only place a token may come from.

    `path` is the path as it was sent, still escaped (`dpop.sent_path`). With `grant_later`, the caller ensures that no
    answer is sent before the grant was found live.
    """
    scheme, token = read_authorization(headers)
    if scheme == "bearer":
        principal = await _verify_claims(deployment, token, audiences=audiences, key_thumbprint=None)
        if not grant_later:
            await check_grant(deployment, principal)
        return principal
    now = deployment.now()
    try:
        sent = dpop.read_proof(headers) or ""
        proof = dpop.check_proof(sent, method=method, url=deployment.url(path), now=now, access_token=token)
        principal = await verify(deployment, token, audiences=audiences, key_thumbprint=proof.thumbprint)
        await dpop.spend(deployment, proof, now=now)
    except TokenRefused:
        raise
    except OAuthError as error:
        raise TokenRefused(error.detail, kind="key_not_proved") from error
    return principal


def read_authorization(headers: Headers) -> tuple[str, str]:
    """Scheme (`bearer` or `dpop`) and token of the one Authorization header."""
    values = headers.getlist("authorization")
    if len(values) != 1:
        if values:
            raise TokenRefused("the request has several Authorization headers", kind="invalid_request")
        raise TokenRefused("the request has no token", kind="no_token")
    (value,) = values
    scheme, _, token = value.partition(" ")
    scheme, token = scheme.lower(), token.strip()
    if scheme not in {"bearer", "dpop"} or not token:
        raise TokenRefused("the request has no token", kind="no_token")
    return scheme, token


async def read_claims(deployment: Deployment, token: str, *, now: int) -> AccessClaims:
    """Check signature, type, issuer and times. Caches a valid signature. Raises TokenRefused."""
    verdicts = _verdicts.get(deployment.keys)
    if verdicts is None:
        verdicts = _verdicts[deployment.keys] = _Verdicts()
    key = hashlib.sha256(token.encode("utf-8", "replace")).digest()
    claims = verdicts.get(key)
    if claims is None:
        try:
            claims = _access_claims(await read_signed(deployment, token, typ=TYPE, now=now), issuer=deployment.issuer)
        except jose.TokenMalformed as error:
            raise TokenRefused(str(error)) from error
        verdicts.remember(key, claims)
    if now >= claims.expires_at:
        verdicts.forget(key)
        raise TokenRefused("the token has expired")
    if claims.issued_at > now + jose.CLOCK_SKEW:
        raise TokenRefused("the token's iat is in the future")
    return claims


async def read_signed(deployment: Deployment, token: str, *, typ: str, now: int) -> dict[str, object]:
    """The claims of a JWT of this type that one of our own keys signed, expired or not. Raises TokenMalformed."""
    header = jose.unverified_header(token)
    algorithm = jose.check_header(header, algorithms=(jose.SIGNING_ALGORITHM,), allowed=("alg", "kid", "typ"), typ=typ)
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise jose.TokenMalformed("the token's header has no kid")
    signing = deployment.keys.signing
    key = jose.key_of(signing.verification(now), kid)
    if key is None:  # another process may have rotated; the key ring checks at most once a minute
        await signing.reload(deployment.database)
        key = jose.key_of(signing.verification(now), kid)
    if key is None:
        raise jose.TokenMalformed("this vault has no signing key with the token's kid")
    return jose.verified_claims(token, key, algorithm=algorithm)


def _access_claims(claims: Mapping[str, object], *, issuer: str) -> AccessClaims:
    texts = {name: claims.get(name) for name in ("sub", "aud", "client_id", "scope", "jti", "gid")}
    values = {name: value for name, value in texts.items() if isinstance(value, str)}
    issued_at, expires_at = jose.integer_claim(claims, "iat"), jose.integer_claim(claims, "exp")
    if claims.get("iss") != issuer or len(values) != len(texts) or issued_at is None or expires_at is None:
        raise jose.TokenMalformed("a claim is missing, or iss isn't this vault's issuer")
    if not 0 < expires_at - issued_at <= MAX_LIFETIME:
        raise jose.TokenMalformed("the time from iat to exp is too long, or negative")
    return AccessClaims(
        subject=values["sub"],
        client_id=values["client_id"],
        grant_id=values["gid"],
        audience=values["aud"],
        scopes=parse_scope(values["scope"]),
        issued_at=issued_at,
        expires_at=expires_at,
        token_id=values["jti"],
        actors=actors_of(claims.get("act")),
        key_thumbprint=_thumbprint(claims.get("cnf")),
        auth_time=jose.integer_claim(claims, "auth_time"),
        is_strong=claims.get("amr") == [_STRONG],
        details=claims.get("authorization_details"),
    )


def _thumbprint(cnf: object) -> str | None:
    if cnf is None:
        return None
    thumbprint: object = cnf.get("jkt") if isinstance(cnf, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] -- parsed JSON
    if not isinstance(thumbprint, str):
        raise jose.TokenMalformed("cnf has no jkt")
    return thumbprint


def act_of(actors: tuple[str, ...]) -> dict[str, object]:
    """The `act` claim of a chain (RFC 8693 §4.1): the current actor is outermost, earlier ones are nested inside."""
    nested: dict[str, object] = {}
    for actor in reversed(actors):
        nested = {"sub": actor, "act": nested} if nested else {"sub": actor}
    return nested


def actors_of(act: object) -> tuple[str, ...]:
    """The chain in an `act` claim, outermost first (RFC 8693 §4.1), of our tokens and of other issuers'.

    Raises TokenMalformed for a chain of more than MAX_ACTORS or with an unnamed actor, since truncation would falsify
    the record of who acted.
    """
    actors: list[str] = []
    while act is not None:
        subject: object = act.get("sub") if isinstance(act, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] -- parsed JSON
        if not isinstance(act, dict) or not isinstance(subject, str) or not subject or len(actors) == MAX_ACTORS:
            raise jose.TokenMalformed(f"an actor in act has no sub, or there are more than {MAX_ACTORS}")
        actors.append(subject)
        act = act.get("act")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return tuple(actors)

"""Verify the tokens of an exchange: `subject_token` and `actor_token` (RFC 8693 §2.1, §4).

The vault's own tokens are accepted from the client that they were issued to and from the API that they are for.
`workers` and `issuers` handle the JWTs of workers and of other issuers. A refused token is `invalid_request` (§2.2.2),
with the cause in the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from server.deployment import Deployment
from server.oauth import tokens
from server.oauth.clients import authentication
from server.oauth.resources import hold_resource
from server.oauth.rules import EXCHANGE_SCOPE, OAuthError, default_resource, own_resources
from server.oauth.token_request import ACCESS_TOKEN, JWT, TokenRequest
from server.signatures import jose
from vault import apis, clients, grants
from vault.records import Client, Grant, Principal
from vault.storage.database import Transaction
from vault.tokens import tokens as refresh_tokens


@dataclass(frozen=True, slots=True)
class Limits:
    """The providers or connections, and scopes, that an operator lets a client use on its own authority."""

    connections: frozenset[str]
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Subject:
    """A verified subject.

    `client_ids`: the actors when the token was issued, outermost first. `derived_from`: the grant (or its substitute)
    that ends the calling client's own grant when it ends; empty if the token's grant is the calling client's.
    """

    user_id: str
    grant_id: str
    derived_from: str
    actors: tuple[str, ...]
    scopes: frozenset[str] | None  # of the token itself; None: it names none
    audience: str
    expires_at: int | None  # upper limit for everything made from it
    kind: str
    limits: Limits | None = None
    details: dict[str, object] = field(default_factory=dict[str, object])
    token_id: str = ""  # of an access token of ours; what is made from it ends with it


UNKNOWN: Final = "the subject token isn't valid here"


def refusal(detail: str, description: str = UNKNOWN) -> OAuthError:
    """RFC 8693 §2.2.2: an invalid or unacceptable token is an invalid request."""
    return OAuthError("invalid_request", description, detail=detail)


async def access_token(deployment: Deployment, asked: TokenRequest, token: str) -> Subject:
    """One of ours: the client's own, or one that was issued for the API that this client is."""
    claims = await _ours(deployment, token, now=asked.now)
    is_own = claims.client_id == asked.client.id
    if is_own:
        _check_holder(deployment, asked, claims)
    else:
        if asked.client.is_public:
            raise refusal(
                "the subject token was issued to another client",
                "a public client can present only its own access token",
            )
        if not await apis.is_linked(deployment.database, claims.audience, client_id=asked.client.id):
            raise refusal("the subject token is for another audience")
        await live_grant(deployment, claims.principal)
    if EXCHANGE_SCOPE not in claims.scopes:
        raise refusal("scope", "the subject token lacks the scope exchange: sign in again and request it")
    return Subject(
        user_id=claims.subject,
        grant_id=claims.grant_id if is_own else "",
        derived_from="" if is_own else claims.grant_id,
        actors=claims.actors or (claims.client_id,),
        scopes=claims.scopes,
        audience=claims.audience,
        expires_at=claims.expires_at,
        kind="access_token",
        token_id=claims.token_id,
    )


async def _ours(deployment: Deployment, token: str, *, now: int) -> tokens.AccessClaims:
    try:
        claims = await tokens.read_claims(deployment, token, now=now)
    except tokens.TokenRefused as error:
        raise refusal(error.detail) from error
    if claims.grant_id == tokens.NO_GRANT:
        raise refusal(
            "the token belongs to an agent, not a person",
            "this token belongs to an agent, not a person: exchange a person's token",
        )
    return claims


def _check_holder(deployment: Deployment, asked: TokenRequest, claims: tokens.AccessClaims) -> None:
    """Check that the calling client holds this token itself, and did not receive it from another client.

    A public client authenticates only by its ID, which is public. An API that receives its token could act as that
    client, so a token for another audience is accepted only with the key that it is bound to (RFC 9449 §5).
    """
    if claims.key_thumbprint not in {None, asked.key_thumbprint}:
        raise refusal("the request doesn't prove the key to which the token is bound")
    is_for_us = claims.audience in own_resources(deployment.public_url)
    if asked.client.is_public and claims.key_thumbprint is None and not is_for_us:
        raise refusal(
            "a public client's token for another audience isn't bound to a key",
            "this token was issued for another API: request one for this vault, or bind tokens to a key (DPoP)",
        )


async def live_grant(deployment: Deployment, principal: Principal) -> Grant:
    """The grant behind a token, if both are live now. Raises OAuthError."""
    try:
        return await tokens.check_grant(deployment, principal)
    except tokens.TokenRefused as error:
        raise refusal(error.detail) from error


async def refresh_token(deployment: Deployment, asked: TokenRequest, token: str) -> Subject:
    """A backend's own refresh token, which isn't used up or rotated here; one that was just rotated is still
    accepted."""
    grace = deployment.refresh_lifetimes.grace
    found = await refresh_tokens.find_live(deployment.database, token, now=asked.now, grace=grace)
    if found is None or found[0].client_id != asked.client.id:
        raise refusal("the refresh token is unknown, has ended, or was issued to another client")
    stored, live = found
    if stored.key_thumbprint not in {None, asked.key_thumbprint}:
        raise refusal("the request doesn't prove the key to which the token is bound")
    if EXCHANGE_SCOPE not in stored.scopes:
        raise refusal("scope", "the subject token lacks the scope exchange: sign in again and request it")
    return Subject(
        user_id=live.grant.user_id,
        grant_id=live.grant.id,
        derived_from="",
        actors=(stored.client_id,),
        scopes=stored.scopes,
        audience=stored.resource,
        expires_at=min(stored.expires_at, stored.idle_expires_at),
        kind="refresh_token",
    )


# The actor (RFC 8693 §4.1)


async def actor_of(deployment: Deployment, asked: TokenRequest, subject: Subject) -> str:
    """The current actor: the client of a verified actor token, else the calling client. Raises OAuthError."""
    token, kind = asked.form.get("actor_token"), asked.form.get("actor_token_type")
    if token is None:
        if kind is not None:
            raise refusal("actor_token_type was sent without actor_token", "actor_token_type needs an actor_token")
        return asked.client.id
    if kind is None:
        raise refusal("actor_token was sent without actor_token_type", "actor_token needs an actor_token_type")
    if kind == JWT:
        return await _asserted_actor(deployment, asked, token)
    if kind != ACCESS_TOKEN:
        raise refusal("the actor_token_type isn't supported", "this actor_token_type isn't supported")
    try:
        claims = await _ours(deployment, token, now=asked.now)
        if claims.subject != subject.user_id:
            raise refusal("the actor token belongs to another user")
        if claims.client_id != asked.client.id:
            if asked.client.is_public or not await apis.is_linked(
                deployment.database, claims.audience, client_id=asked.client.id
            ):
                raise refusal("the actor token is for another audience")
        else:
            _check_holder(deployment, asked, claims)
        await live_grant(deployment, claims.principal)
    except OAuthError as error:
        raise refusal(error.detail, "the actor token isn't valid here") from error
    return claims.client_id


async def _asserted_actor(deployment: Deployment, asked: TokenRequest, token: str) -> str:
    """A registered client's own assertion (RFC 7523 §3): short-lived, for this vault, and single-use."""
    try:
        named = jose.unverified_claims(token).get("sub")
        client = await clients.get_client(deployment.database, named) if isinstance(named, str) else None
        actor = await authentication.check_assertion(deployment, client, token, address=asked.address)
    except (OAuthError, jose.TokenMalformed) as error:
        raise refusal(f"actor: {error}", "the actor token isn't valid here") from error
    return actor.id


def chain(subject: Subject, *, client: Client, actor: str) -> tuple[str, ...]:
    """The actors, outermost first: the actor, the calling client, earlier actors. At most four.

    No actor is left out or repeated in a row, so a client gains nothing by exchanging again.
    """
    links = [link for link, _ in groupby((actor, client.id, *subject.actors))]
    if len(links) > tokens.MAX_ACTORS:
        raise refusal(
            "the subject token names too many actors",
            f"the subject token was passed on too often: at most {tokens.MAX_ACTORS} actors are allowed",
        )
    return tuple(links)


async def principal_of(deployment: Deployment, asked: TokenRequest, subject: Subject, *, actor: str) -> Principal:
    """The calling client acting for the subject, with its own grant. Created last, after everything was verified."""
    actors = chain(subject, client=asked.client, actor=actor)
    grant_id = subject.grant_id

    async def hold(transaction: Transaction) -> bool:
        if ":" not in subject.derived_from:  # by a token that was issued for the API that this client is
            return await apis.hold_link(transaction, subject.audience, client_id=asked.client.id)
        # A worker's or an issuer's token is for no API, unless a client of Auth0's interface names one.
        return not subject.audience or await hold_resource(deployment, transaction, subject.audience)

    if subject.derived_from:
        grant = await grants.derived_grant(
            deployment.database,
            user_id=subject.user_id,
            client_id=asked.client.id,
            derived_from=subject.derived_from,
            scopes=subject.scopes or frozenset({EXCHANGE_SCOPE}),
            resource=subject.audience or default_resource(deployment.public_url),
            hold=hold,
            now=asked.now,
        )
        grant_id = grant.id
    return Principal(
        user_id=subject.user_id,
        client_id=asked.client.id,
        grant_id=grant_id,
        scopes=frozenset(),  # `Subject.scopes` decides
        audience=subject.audience,
        actors=actors,
        expires_at=subject.expires_at,
        token_id=subject.token_id,
    )

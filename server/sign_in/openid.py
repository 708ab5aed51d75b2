"""Sign-in through an OpenID Connect provider: discovery, the redirect, the code, and the ID token's checks.

The person is (issuer, subject), never an e-mail address or a name: those can be given to someone else. Everything that
the provider's documents name is fetched through `providers.outbound.client` under its address rules. The pages are
`server.portal.openid`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from providers.definitions.issuers import IssuerFacts, NoMetadata, fetch_metadata, is_same_issuer, read_server
from providers.oauth.authorization_request import authorization_url
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.json_values import is_array
from providers.outbound.messages import HttpError, OutboundRequest
from server.deployment import Deployment
from server.errors import PersonRefused
from server.openid_settings import OpenIDSettings
from server.sign_in import identities, proofs
from server.sign_in.newcomers import confirmed_address, create_user, is_verified, link_provisioned
from server.signatures import jose
from server.signatures.key_sets import NoKeys, claims_of_issuer
from vault import groups, tickets, users
from vault.audit import audit
from vault.records import Event, TicketPurpose, User
from vault.refusals import TransitionRefused
from vault.storage.database import Transaction

LIFETIME: Final = 600  # seconds for the redirect and back
SCOPE: Final = "openid profile"
# Allowed in an ID token's header. We ignore members that name keys: the provider's `jwks_uri` has them.
_HEADER_MEMBERS: Final = (*jose.HEADER_MEMBERS, "cty", "jku", "x5u", "x5c")
_EMAIL_LIMIT: Final = 320  # characters
_LEEWAY: Final = 60  # seconds between the provider's clock and ours
_DOCUMENT_LIMIT: Final = 262_144  # bytes
_TOKEN_LIMIT: Final = 16_384  # characters
_UNREACHABLE: Final = (
    "The sign-in service can't be reached right now. Try again in a few minutes, or sign in another way."
)
_UNUSABLE: Final = "The sign-in service sent an invalid answer. Try again."
_ANOTHER: Final = "The sign-in service isn't the one that was set up here."
logger = logging.getLogger("token_vault.openid")


class OpenIDRefused(PersonRefused):
    """Nobody was signed in. The person sees one of a few texts; `detail` has the exact cause."""

    code = "openid_refused"


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


@dataclass(frozen=True, slots=True)
class OpenIDProvider:
    """The part of a discovery document that the vault uses (OpenID Connect Discovery §3)."""

    server: IssuerFacts
    jwks_uri: str


class _TokenAnswer(_Document):
    id_token: Annotated[str, Field(max_length=_TOKEN_LIMIT)] = Field(repr=False)
    refresh_token: Annotated[str, Field(max_length=_TOKEN_LIMIT)] | None = Field(default=None, repr=False)


class Claims(_Document):
    """The claims of an ID token that are checked or used (OpenID Connect Core §2); settings name others."""

    model_config = ConfigDict(extra="allow", frozen=True)

    iss: str
    sub: Annotated[str, Field(min_length=1, max_length=255)]
    aud: str | list[str]
    exp: int | float
    iat: int | float
    nbf: int | float | None = None
    azp: str | None = None
    nonce: Annotated[str, Field(repr=False)]
    amr: object = None  # RFC 8176: how the person proved who they are
    auth_time: Annotated[int | float, Field(ge=0, le=2**53)] | None = None
    name: str | None = None
    preferred_username: str | None = None
    email: object = None
    email_verified: object = None
    hd: object = None  # Google: the domain of the Workspace that the person belongs to

    @property
    def is_strong(self) -> bool:
        """Whether the provider reports that the person used several factors (RFC 8176 §2: `mfa`)."""
        return isinstance(self.amr, list) and "mfa" in self.amr  # pyright: ignore[reportUnknownMemberType] -- JSON

    def other(self, name: str) -> object:
        """The value of a claim that the settings name; None if it is missing."""
        return getattr(self, name, None) if name in type(self).model_fields else (self.model_extra or {}).get(name)

    def audience(self) -> list[str]:
        return [self.aud] if isinstance(self.aud, str) else self.aud


@dataclass(frozen=True, slots=True)
class SignInStart:
    """Where to send the browser, and the value for its cookie."""

    url: str = field(repr=False)
    browser: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignInAnswer:
    """The provider's redirect as received, with the cookie that the browser held."""

    state: str = field(repr=False)
    code: str = field(repr=False)
    error: str
    issuer: str | None
    browser: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who it is, by which identity, and where they wanted to go."""

    user: User
    issuer: str
    subject: str
    return_to: str = field(repr=False)
    signed_in_at: int | None = None  # when the provider last authenticated the person, if it says so
    is_strong: bool = False  # whether it used several factors


def callback_url(deployment: Deployment, name: str) -> str:
    """One redirect address per provider (RFC 9700 §4.4)."""
    return deployment.url(f"/sign-in/openid/{quote(name, safe='')}/callback")


def _registered_provider(deployment: Deployment, name: str) -> OpenIDSettings:
    found = deployment.settings.sign_in.openid.get(name)
    if found is None:
        raise OpenIDRefused("This vault has no such sign-in method.", detail="unknown provider")
    return found


# Fetching what the provider publishes


def _policy(deployment: Deployment) -> AddressPolicy:
    return AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_openid)


async def _provider_of(deployment: Deployment, registered: OpenIDSettings) -> OpenIDProvider:
    """The provider that people sign in with here. Raises OpenIDRefused."""
    allow_loopback = deployment.settings.sandbox.loopback_openid
    return await find_provider(deployment.http, registered.issuer, allow_loopback=allow_loopback)


async def find_provider(http: Outbound, issuer: str, *, allow_loopback: bool) -> OpenIDProvider:
    """The sign-in provider whose issuer is exactly this one. Raises OpenIDRefused."""
    try:
        metadata = await fetch_metadata(issuer, http, policy=AddressPolicy(allow_loopback=allow_loopback))
        server = read_server(metadata)
    except NoMetadata as error:
        text = _ANOTHER if error.why == "issuer" else _UNREACHABLE if error.why == "unreachable" else _UNUSABLE
        raise OpenIDRefused(text, detail=f"metadata: {error}") from error
    jwks_uri = metadata.get("jwks_uri")
    if not isinstance(jwks_uri, str):
        raise OpenIDRefused(_UNUSABLE, detail="metadata: no jwks_uri")
    parts = urlsplit(server.authorize_url)
    is_safe = parts.scheme == "https" or (
        parts.scheme == "http" and allow_loopback and parts.hostname in {"localhost", "127.0.0.1", "::1"}
    )
    if not is_safe or not parts.hostname or parts.username or parts.fragment:
        raise OpenIDRefused(_UNUSABLE, detail="authorization endpoint")
    return OpenIDProvider(server, jwks_uri)


# Redirecting to the provider


async def start(deployment: Deployment, name: str, *, return_to: str, is_again: bool = False) -> SignInStart:
    """Start a sign-in: state, nonce and PKCE verifier, bound to a secret that only this browser gets.

    `is_again`: the provider must authenticate the person, however recently it did, and say when (OpenID Connect Core
    §3.1.2.1: with `max_age` it must send `auth_time`).
    """
    registered = _registered_provider(deployment, name)
    provider = await _provider_of(deployment, registered)
    state, nonce, browser = secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    verifier, now = secrets.token_urlsafe(48), deployment.now()
    async with deployment.transaction() as transaction:
        await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.SIGN_IN_STATE,
            payload={
                "name": name,
                "nonce": nonce,
                "verifier": verifier,
                "return_to": return_to,
                "asked_again_at": str(now) if is_again else "",
            },
            lifetime=LIFETIME,
            now=now,
            binding=hashlib.sha256(browser.encode()).digest(),
            secret=state,
        )
    query = {
        "client_id": registered.client_id,
        "redirect_uri": callback_url(deployment, name),
        "scope": _scope(deployment, registered),
        "state": state,
        "nonce": nonce,
    } | ({"prompt": "login", "max_age": "0"} if is_again else {})
    return SignInStart(authorization_url(provider.server.authorize_url, query, code_verifier=verifier), browser)


def _scope(deployment: Deployment, registered: OpenIDSettings) -> str:
    """The scopes to request: includes the address if it admits people or if signals may identify people by it.

    `offline_access` (OpenID Connect Core §11) where assertions are to come after the ID token has ended.
    """
    transmitters = deployment.settings.signals.transmitters.values()
    needs_email = registered.domains or any(one.people_of == registered.issuer for one in transmitters)
    more = (("email", needs_email), (identities.OFFLINE, registered.id_jag))
    return " ".join((SCOPE, *(name for name, is_asked in more if is_asked), *registered.groups_scope.split()))


# Coming back


async def finish(deployment: Deployment, name: str, answer: SignInAnswer) -> SignedIn:
    """The user behind the provider's answer.

    Raises OpenIDRefused, which is an event if a sign-in was in progress: anyone can call with an invented state.
    """
    registered = _registered_provider(deployment, name)
    payload = await _claim_state(deployment, name, answer)
    try:
        provider = await _provider_of(deployment, registered)
        _check_answer(provider.server, answer)
        tokens = await _redeem(
            deployment, name, registered, provider.server, code=answer.code, verifier=payload["verifier"]
        )
        claims = await _verify(deployment, registered, provider, tokens.id_token, nonce=payload["nonce"])
        signed_in_at = _signed_in_at(claims, asked_again_at=payload.get("asked_again_at", ""))
        user = await _user_of(deployment, registered, claims)
        await _store_claims(deployment, name, registered, claims, user)
    except OpenIDRefused as refusal:
        logger.info("OpenID Connect sign-in refused", extra={"provider": name, "detail": refusal.detail})
        details: dict[str, object] = {"method": "openid", "provider": name[:60], "reason": refusal.detail}
        await deployment.activity.record(Event(kind="session.refused", outcome="refused", details=details))
        raise
    if registered.id_jag:
        await identities.keep(
            deployment,
            name,
            user,
            proof=proofs.identity(claims.iss, claims.sub),
            subject=claims.sub,
            id_token=tokens.id_token,
            refresh_token=tokens.refresh_token,
        )
    return SignedIn(
        user, claims.iss, claims.sub, payload["return_to"], signed_in_at=signed_in_at, is_strong=claims.is_strong
    )


async def _claim_state(deployment: Deployment, name: str, answer: SignInAnswer) -> dict[str, str]:
    """The payload behind `state`, used up, if this browser started it at this provider."""
    refused = OpenIDRefused(
        "This sign-in wasn't started in this browser, came back twice, or took longer than ten minutes. Start again.",
        detail="state",
    )
    now, purpose = deployment.now(), TicketPurpose.SIGN_IN_STATE
    binding = hashlib.sha256(answer.browser.encode("utf-8", "surrogatepass")).digest()
    # Read first, so that no stranger's request can write. A state of another browser stays valid for that browser.
    ticket = await tickets.peek(deployment.database, deployment.keys, answer.state, purpose=purpose, now=now)
    if ticket is None or not hmac.compare_digest(ticket.binding or b"", binding) or ticket.payload.get("name") != name:
        raise refused
    try:
        async with deployment.transaction() as transaction:
            ticket = await tickets.consume(transaction, deployment.keys, answer.state, purpose=purpose, now=now)
    except TransitionRefused as error:
        raise refused from error
    return {key: str(value) for key, value in ticket.payload.items()}


def _check_answer(server: IssuerFacts, answer: SignInAnswer) -> None:
    """RFC 9207 §2.4: refuse another issuer, and a missing one if the provider says that it sends one. Errors after."""
    is_missing = answer.issuer is None and server.answers_as is not None
    if is_missing or (answer.issuer is not None and not is_same_issuer(answer.issuer, server.issuer)):
        raise OpenIDRefused("The answer came from another sign-in service. Nothing happened.", detail="answer issuer")
    if answer.error or not answer.code:
        raise OpenIDRefused("The sign-in service didn't sign you in. Nothing happened; try again.", detail="error")


async def _redeem(
    deployment: Deployment,
    name: str,
    registered: OpenIDSettings,
    server: IssuerFacts,
    *,
    code: str,
    verifier: str,
) -> _TokenAnswer:
    """The ID token for the code (OpenID Connect Core §3.1.3), and the refresh token if one came."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": callback_url(deployment, name),
        "code_verifier": verifier,
    }
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    secret = registered.secret(name)
    if secret is None:
        form["client_id"] = registered.client_id
    elif "client_secret_basic" in server.auth_methods:
        pair = f"{quote(registered.client_id, safe='')}:{quote(secret, safe='')}"  # RFC 6749 §2.3.1
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    else:
        form |= {"client_id": registered.client_id, "client_secret": secret}
    request = OutboundRequest(
        "POST",
        server.token_url,
        headers=headers,
        body=urlencode(form).encode(),
        timeout=10,
        max_bytes=_DOCUMENT_LIMIT,
        policy=_policy(deployment),
        peer="openid",
        reuse=False,
    )
    try:
        answer = await deployment.http.send(request)
    except HttpError as error:
        raise OpenIDRefused(_UNREACHABLE, detail=f"token: {error.reason}") from error
    if answer.status != HTTPStatus.OK:
        raise OpenIDRefused(_UNUSABLE, detail=f"token: status {answer.status}")
    try:
        return _TokenAnswer.model_validate_json(answer.body)
    except ValidationError as error:
        raise OpenIDRefused(_UNUSABLE, detail="token answer") from error


async def _verify(
    deployment: Deployment, registered: OpenIDSettings, provider: OpenIDProvider, token: str, *, nonce: str
) -> Claims:
    """The claims of an ID token that is for us and for this sign-in (OpenID Connect Core §3.1.3.7)."""
    refused = "The sign-in service's answer can't be trusted. Nothing happened; try again."
    policy, now = _policy(deployment), deployment.now()
    try:
        content = await claims_of_issuer(
            deployment.http, token, provider.jwks_uri, policy=policy, now=now, members=_HEADER_MEMBERS
        )
        claims = Claims.model_validate(content, strict=True)
    except NoKeys as error:
        raise OpenIDRefused(_UNUSABLE, detail="key set") from error
    except (jose.TokenMalformed, ValidationError) as error:
        raise OpenIDRefused(refused, detail=f"ID token: {type(error).__name__}") from error
    wrong = _wrong_claim(claims, registered=registered, nonce=nonce, now=now)
    if wrong is not None:
        raise OpenIDRefused(refused, detail=f"ID token: {wrong}")
    return claims


def _wrong_claim(claims: Claims, *, registered: OpenIDSettings, nonce: str, now: int) -> str | None:
    """The first claim that does not fit, or None."""
    audience = claims.audience()
    checks = {
        "iss": is_same_issuer(claims.iss, registered.issuer),
        "aud": registered.client_id in audience,
        "azp": claims.azp == registered.client_id if claims.azp is not None else len(audience) == 1,
        "exp": claims.exp > now - _LEEWAY,
        "iat": claims.iat <= now + _LEEWAY,
        "nbf": claims.nbf is None or claims.nbf <= now + _LEEWAY,
        "nonce": hmac.compare_digest(claims.nonce.encode("utf-8", "surrogatepass"), nonce.encode()),
    }
    return next((name for name, is_right in checks.items() if not is_right), None)


def _signed_in_at(claims: Claims, *, asked_again_at: str) -> int | None:
    """When the provider last authenticated the person, None if it does not say.

    Only `auth_time` proves a fresh sign-in (OpenID Connect Core §3.1.3.7, item 13). With a clock slightly behind ours,
    it was when we sent the person there, not before.
    """
    if not asked_again_at:
        return None if claims.auth_time is None else int(claims.auth_time)
    if claims.auth_time is None or claims.auth_time < int(asked_again_at) - _LEEWAY:
        raise OpenIDRefused(
            "A fresh sign-in is needed, but the sign-in service didn't ask you again, or "
            "doesn't say that it did. Nothing happened. Sign in another way, or sign out at that "
            "service first.",
            detail="auth_time missing or old",
        )
    return max(int(claims.auth_time), int(asked_again_at))


async def _user_of(deployment: Deployment, registered: OpenIDSettings, claims: Claims) -> User:
    """The user of (issuer, subject); a new one at first sight, never an existing one of the same name."""
    found = await users.find_by_identity(deployment.database, issuer=claims.iss, subject=claims.sub)
    if found is None and registered.directory_claim:
        found = await _link_provisioned(deployment, registered, claims)
    if found is None:
        if not registered.create_users and not is_of_domain(claims, registered.domains):
            raise OpenIDRefused(
                "You don't have an account here yet. Ask an admin to create one and link it to your "
                f"identity, {claims.sub!r} at {claims.iss}.",
                detail="unknown subject",
            )
        shown = claims.preferred_username or claims.name or ""
        created = await create_user(deployment, issuer=claims.iss, subject=claims.sub, shown=shown, method="openid")
        if created is None:
            raise OpenIDRefused(
                "Couldn't create your account. Try again.", detail="every user name made from this address is taken"
            )
        found = created
    if found.disabled_at is not None:
        raise OpenIDRefused("This account is disabled. Ask an admin.", detail="user disabled")
    return found


async def _link_provisioned(deployment: Deployment, registered: OpenIDSettings, claims: Claims) -> User | None:
    """The person that the directory knows by this claim, linked to this identity from now on."""
    value = claims.other(registered.directory_claim)
    try:
        return await link_provisioned(deployment, issuer=claims.iss, subject=claims.sub, external_id=value)
    except users.IdentityTaken as error:
        raise OpenIDRefused(
            "Your account here belongs to another identity of this sign-in service. Ask an admin.",
            detail="provisioned person has another subject",
        ) from error


async def _store_claims(
    deployment: Deployment, name: str, registered: OpenIDSettings, claims: Claims, user: User
) -> None:
    """Store what the provider says about the person, if the identity is still theirs. Raises OpenIDRefused."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        if not await proofs.hold_person(transaction, user, proofs.identity(claims.iss, claims.sub)):
            raise OpenIDRefused(proofs.CHANGED, detail="changed")
        await _take_groups(transaction, name, registered, claims, user, now=now)
        await _note_sign_in(transaction, claims, user, now=now)


async def _take_groups(
    transaction: Transaction, name: str, registered: OpenIDSettings, claims: Claims, user: User, *, now: int
) -> None:
    """Add the person to the groups that the provider names, and remove them from those that it no longer names.

    Without the claim they are in none of them.
    """
    if not registered.groups_claim:
        return
    given = claims.other(registered.groups_claim)
    values = [given] if isinstance(given, str) else given if is_array(given) else []
    names = [value for value in values if isinstance(value, str)]
    if registered.groups:
        names = [registered.groups[value] for value in names if value in registered.groups]
    end, source = now + registered.groups_days * 86400, f"openid:{name}"
    joined, left = await groups.set_groups(transaction, user.id, names, source=source, now=now, expires_at=end)
    if joined or left:
        details: dict[str, object] = {"joined": list(joined)[:20], "left": list(left)[:20], "provider": name[:60]}
        await audit.append(transaction, Event("user.groups_changed", user_id=user.id, details=details), now=now)


def is_of_domain(claims: Claims, domains: tuple[str, ...]) -> bool:
    """Whether the provider confirms an address of the person in one of the domains."""
    return confirmed_address(claims.iss, claims.model_dump(), domains=domains) is not None


async def _note_sign_in(transaction: Transaction, claims: Claims, user: User, *, now: int) -> None:
    """Remember the confirmed address, by which signals name the person, and let stopped agents go on."""
    email = claims.email.lower() if isinstance(claims.email, str) and is_verified(claims.email_verified) else ""
    at = min(now, int(claims.iat))
    await users.note_sign_in(transaction, issuer=claims.iss, subject=claims.sub, at=at)
    if 3 <= len(email) <= _EMAIL_LIMIT and email.isprintable() and str(claims.email).isascii():
        await users.note_email(transaction, issuer=claims.iss, subject=claims.sub, email=email)
    if await users.lift_stop(transaction, user.id, by=claims.iss, signed_in_at=at):
        event = Event(kind="user.agents_resumed", user_id=user.id, details={"issuer": claims.iss})
        await audit.append(transaction, event, now=now)

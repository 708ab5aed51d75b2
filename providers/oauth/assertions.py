"""Access without a page: an identity provider vouches for its person, and an upstream service accepts that.

The identity provider exchanges the person's ID token for an Identity Assertion JWT Authorization Grant (ID-JAG,
draft-ietf-oauth-identity-assertion-authz-grant-03 §4.3), which the service's authorization server redeems for an access
token (§4.4). Both steps together are one renewal: an assertion is used once and never kept. The MCP extension
Enterprise-Managed Authorization §4 and §5 is the same for MCP servers, and so is
draft-ietf-oauth-identity-chaining §2.3 and §2.4 between two authorization servers.

The vault decides when to renew and what to store.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from providers.definitions.catalog import Catalog
from providers.definitions.enterprise import IdJag
from providers.definitions.issuers import NoMetadata, fetch_metadata
from providers.definitions.model import Hosts, Identity, Provider, Registration, Scope
from providers.oauth.client import OAuthUpstream
from providers.oauth.narrowing import EXCHANGE
from providers.oauth.token_requests import token_request
from providers.oauth.token_responses import TokenOutcome, judge
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.json_values import is_array, parse_object, text_at
from providers.outbound.messages import OutboundResponse
from vault.upstream import (
    Account,
    NotRenewed,
    NotSent,
    ProbeAnswer,
    ProbeOutcome,
    RefreshOutcome,
    Refusal,
    RevokeAnswer,
    RevokeOutcome,
    Rotation,
    TokenAnswer,
    UpstreamError,
)

ID_JAG: Final = "urn:ietf:params:oauth:token-type:id-jag"
ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"
REFRESH_TOKEN: Final = "urn:ietf:params:oauth:token-type:refresh_token"
IDENTITY_SCOPES: Final = frozenset({"openid", "offline_access"})
BY_IDENTITY: Final = "identity_"  # prefix of the code of a refusal by the identity provider
_ID_TOKEN_LIFETIME: Final = 300  # lifetime in seconds of one without an expiry
_WITHOUT: Final = 3600  # seconds until an identity provider that renewed without an ID token is asked again
_METADATA_AGE: Final = 600  # seconds
_OURS: Final = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type"})
logger = logging.getLogger("token_vault.upstream")


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """An OpenID provider that people sign in with and that issues assertions, and our registration there.

    `name` is the name of their connection to it.
    """

    name: str
    title: str
    issuer: str
    client_id: str
    client_secret: str | None = field(repr=False)
    reach: AddressPolicy


def id_token_lifetime(token: str) -> int:
    """Lifetime in seconds of a new ID token, by its issuer's clock; 0 for one that can't be read."""
    claims = _claims(token)
    begins, ends = claims.get("iat"), claims.get("exp")
    if not isinstance(begins, int | float) or not isinstance(ends, int | float):
        return 0
    return max(0, int(ends - begins))


def _claims(token: str) -> Mapping[str, object]:
    """The claims of a JWT whose signature was already checked, or that came from its issuer's token endpoint."""
    try:
        return parse_object(base64.urlsafe_b64decode(token.split(".")[1] + "==")) or {}
    except (IndexError, binascii.Error, ValueError):
        return {}


class _PublishedUpstream(OAuthUpstream):
    """The identity provider at the addresses that it publishes."""

    def __init__(self, provider: Provider, outbound: Outbound, *, clock: Callable[[], float]) -> None:
        super().__init__(provider, outbound, clock=clock)
        self._identity = provider

    async def renew(self, refresh_token: str) -> TokenOutcome:
        """A refresh whose result is the new ID token (OpenID Connect Core §12.2).

        Without one, the answer has an empty token; a new refresh token in it must still be kept.
        """
        parameters = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        written = token_request(self._identity, self._identity.hosts.token_url, parameters)
        asked = self._context(refresh_token, is_refresh=True, spends=self._rotates)

        def read_answer(answer: OutboundResponse) -> TokenOutcome:
            outcome = judge(self._identity, answer, asked)
            if not isinstance(outcome, TokenAnswer):
                return outcome
            token = text_at(answer.json_object(), "id_token") or ""
            lifetime = (id_token_lifetime(token) or _ID_TOKEN_LIFETIME) if token else _WITHOUT
            kept = None if outcome.refresh_token == refresh_token else outcome.refresh_token
            return TokenAnswer(token, refresh_token=kept, expires_in=lifetime)

        return await self._ask(written, read_answer)

    async def vouch(self, subject_token: str, kind: str, target: IdJag, scopes: frozenset[str]) -> TokenOutcome:
        """An assertion for another authorization server, as the answer's access token (-03 §4.3, RFC 8693 §2.1)."""
        parameters = {
            "grant_type": EXCHANGE,
            "requested_token_type": ID_JAG,
            "audience": target.audience,
            "scope": " ".join(sorted(scopes)),
            "subject_token": subject_token,
            "subject_token_type": kind,
        }
        if target.resource is not None:
            parameters["resource"] = target.resource
        written = token_request(self._identity, self._identity.hosts.token_url, parameters)
        asked = self._context(subject_token)

        def read_answer(answer: OutboundResponse) -> TokenOutcome:
            outcome = judge(self._identity, answer, asked)
            if isinstance(outcome, TokenAnswer) and text_at(answer.json_object(), "issued_token_type") != ID_JAG:
                return Refusal("wrong_token_type", "the answer isn't an identity assertion", ends_grant=False)
            return outcome

        return await self._ask(written, read_answer)


class IdentityUpstream:
    """OAuth with an identity provider: refreshing a sign-in's tokens, and assertions (`UpstreamOAuth`). The access
    token of a sign-in's connection is the person's ID token, which is never released.
    """

    def __init__(
        self, identity: IdentityProvider, outbound: Outbound, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.identity = identity
        self._outbound = outbound
        self._clock = clock

    @property
    def is_configured(self) -> bool:
        """True: the settings of a sign-in always have our registration."""
        return True

    def authorization_url(
        self,
        *,
        redirect_uri: str,
        state: str,
        scopes: frozenset[str],
        code_verifier: str,
        login_hint: str | None = None,
    ) -> str:
        """Raises UpstreamError, because only signing in creates these connections."""
        raise UpstreamError("unsupported", f"sign in with {self.identity.title} instead")

    async def redeem(self, **_request: object) -> TokenAnswer:
        """Raises UpstreamError, because `server.sign_in.openid` redeems the code of a sign-in."""
        raise UpstreamError("unsupported", f"sign in with {self.identity.title} instead")

    async def identify(self, access_token: str, answer: Mapping[str, object]) -> Account:
        """The person that an ID token names. Raises UpstreamError."""
        subject = _claims(access_token).get("sub")
        if not isinstance(subject, str) or not subject:
            raise UpstreamError("account_unknown", f"{self.identity.title} didn't say who this is")
        return Account(subject, subject)

    async def refresh(
        self, refresh_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        """A new ID token; one attempt, total deadline 10 s."""
        if scopes is not None:
            return Refusal("invalid_scope", "an ID token isn't narrowed", ends_grant=False)
        found = await self._find()
        if not isinstance(found, _PublishedUpstream):
            return found
        outcome = await found.renew(refresh_token)
        return Rotation(outcome) if isinstance(outcome, TokenAnswer) else outcome

    async def vouch(
        self, subject_token: str, target: IdJag, scopes: frozenset[str], *, kind: str = ID_TOKEN
    ) -> TokenOutcome:
        """An assertion for the server that `target` names; one attempt, which uses up no token. It is requested with an
        ID token or, if the identity provider accepts it (-04 §4.3), with the refresh token, which stays unchanged.
        """
        found = await self._find()
        return (
            await found.vouch(subject_token, kind, target, scopes) if isinstance(found, _PublishedUpstream) else found
        )

    async def narrow(self, access_token: str, scopes: frozenset[str], *, item: str | None = None) -> RefreshOutcome:
        """Refused: use `vouch` with an ID token."""
        return Refusal("unsupported", "an ID token isn't narrowed", ends_grant=False)

    async def revoke(
        self, *, refresh_token: str | None, access_token: str | None, account: str | None = None
    ) -> RevokeAnswer:
        """End the refresh token, if the identity provider has an address for that (RFC 7009)."""
        found = await self._find()
        if not isinstance(found, _PublishedUpstream):
            return found
        if refresh_token is None:
            return RevokeOutcome.UNSUPPORTED
        return await found.revoke(refresh_token=refresh_token, access_token=None)

    async def probe(
        self, *, refresh_token: str | None, access_token: str | None, is_fresh: bool, is_revoked: bool
    ) -> ProbeAnswer:
        """Unproven, because every way to check could return a new token."""
        return ProbeAnswer(ProbeOutcome.UNPROVEN)

    def is_about(self, id_token: str, subject: str) -> bool:
        """Whether this is our ID token of that person (OpenID Connect Core §12.2: the same `iss`, `sub` and `aud`)."""
        claims = _claims(id_token)
        audience = claims.get("aud")
        is_ours = self.identity.client_id in (audience if is_array(audience) else [audience])
        return is_ours and claims.get("iss") == self.identity.issuer and claims.get("sub") == subject

    async def _find(self) -> _PublishedUpstream | NotSent:
        """The identity provider as it describes itself now (OpenID Connect Discovery §4)."""
        identity = self.identity
        try:
            content = await fetch_metadata(
                identity.issuer,
                self._outbound,
                policy=identity.reach,
                now=int(self._clock()),
                max_age=_METADATA_AGE,
            )
        except NoMetadata as error:
            return NotSent(f"metadata: {error}")
        token_url = text_at(content, "token_endpoint")
        if token_url is None:
            return NotSent("metadata: no token endpoint")
        ways = content.get("token_endpoint_auth_methods_supported")
        is_basic = not is_array(ways) or "client_secret_basic" in ways
        by_secret = "client_secret_basic" if is_basic else "client_secret_post"
        provider = Provider(
            name=identity.name,
            title=identity.title,
            hosts=Hosts(token_url=token_url, revoke_url=text_at(content, "revocation_endpoint")),
            client_auth="none" if identity.client_secret is None else by_secret,
            identity=Identity(source="none"),
            scopes={name: Scope(title=name) for name in IDENTITY_SCOPES},
        ).with_registration(Registration(identity.client_id, identity.client_secret, reach=identity.reach))
        return _PublishedUpstream(provider, self._outbound, clock=self._clock)


@dataclass(frozen=True, slots=True)
class AssertedAccess:
    """Access to one service for the person of one identity (`vault.upstream.VouchedAccess`)."""

    identity: IdentityUpstream
    upstream: OAuthUpstream
    provider: Provider
    subject: str

    async def refresh(
        self, id_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        """A new access token with a new assertion: two requests of at most 10 s, neither of which uses up a token.

        The code of a refusal by the identity provider begins with `identity_`.
        """
        facts = self.provider.enterprise.id_jag
        if facts is None:
            return Refusal("unsupported_grant_type", f"{self.provider.title} takes no assertions", ends_grant=False)
        if not self.identity.is_about(id_token, self.subject):
            return Refusal(f"{BY_IDENTITY}wrong_subject", "the ID token belongs to someone else", ends_grant=True)
        asked = self._wanted_scopes(scopes)
        vouched = await self.identity.vouch(id_token, facts, asked)
        return await self.redeem(vouched, scopes) if isinstance(vouched, TokenAnswer) else _by_identity(vouched, scopes)

    async def vouch(self, refresh_token: str, scopes: frozenset[str] | None = None) -> OneAssertion | NotRenewed:
        """Access with one assertion for the identity provider's refresh token, which stays.

        The code of a refusal by the identity provider begins with `identity_`.
        """
        facts = self.provider.enterprise.id_jag
        if facts is None:
            return Refusal("unsupported_grant_type", f"{self.provider.title} takes no assertions", ends_grant=False)
        vouched = await self.identity.vouch(refresh_token, facts, self._wanted_scopes(scopes), kind=REFRESH_TOKEN)
        return (
            OneAssertion(self, vouched, scopes) if isinstance(vouched, TokenAnswer) else _by_identity(vouched, scopes)
        )

    def _wanted_scopes(self, scopes: frozenset[str] | None) -> frozenset[str]:
        return (self.provider.company_scopes or frozenset()) if scopes is None else scopes

    async def redeem(self, vouched: TokenAnswer, scopes: frozenset[str] | None) -> RefreshOutcome:
        """An access token for this assertion."""
        asked = self._wanted_scopes(scopes)
        outcome = await self.upstream.redeem_assertion(vouched.access_token)
        logger.debug("asserted", extra={"provider": self.provider.name, "outcome": type(outcome).__name__})
        match outcome:
            case TokenAnswer(scopes=None) if scopes is None:
                # RFC 6749 §5.1: without `scope`, the scopes are those requested, which the assertion has
                return Rotation(replace(outcome, scopes=asked if vouched.scopes is None else vouched.scopes))
            case TokenAnswer():
                return Rotation(outcome)
            case Refusal():
                is_final = outcome.code not in _OURS and not _is_no_narrowing(outcome, scopes)
                return replace(outcome, ends_grant=is_final)
            case _:
                return outcome

    async def connect(self, id_token: str) -> TokenAnswer:
        """The first access token, with its account. Raises UpstreamError."""
        return await self.identify(await self.refresh(id_token))

    async def identify(self, outcome: RefreshOutcome) -> TokenAnswer:
        """The answer with its account. Raises UpstreamError, also if the outcome isn't an answer."""
        match outcome:
            case Rotation():
                answer = outcome.answer
            case Refusal():
                raise UpstreamError(outcome.code, outcome.description)
            case _:
                raise UpstreamError("temporarily_unavailable", outcome.reason)
        if self.provider.identity.source == "none":
            return replace(answer, account=Account(self.subject, self.provider.title))
        return await self.upstream.name_account(answer)


@dataclass(slots=True)
class OneAssertion:
    """Access to one service with an existing assertion, which works once (`vault.upstream.VouchedAccess`)."""

    access: AssertedAccess
    vouched: TokenAnswer
    scopes: frozenset[str] | None
    is_used: bool = False

    async def refresh(
        self, id_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        """The access token; `id_token` and `scopes` were decided when the assertion was issued."""
        if self.is_used:
            return NotSent("the assertion was used")
        self.is_used = True
        return await self.access.redeem(self.vouched, self.scopes)

    async def connect(self, id_token: str) -> TokenAnswer:
        """The first access token, with its account. Raises UpstreamError."""
        return await self.access.identify(await self.refresh(id_token))

    async def vouch(self, refresh_token: str, scopes: frozenset[str] | None = None) -> OneAssertion | NotRenewed:
        """Access with another assertion."""
        return await self.access.vouch(refresh_token, scopes)


def _is_no_narrowing(refused: Refusal, scopes: frozenset[str] | None) -> bool:
    """Whether only the narrower scopes are refused, which doesn't end the grant."""
    return scopes is not None and refused.code == "invalid_scope"


def _by_identity(outcome: NotRenewed, scopes: frozenset[str] | None) -> NotRenewed:
    """The answer of an identity provider that issues no assertion. RFC 8693 §2.2.2 defines `invalid_request` for a
    subject token that its policy doesn't accept, and `invalid_target` for an audience.
    """
    if not isinstance(outcome, Refusal):
        return outcome
    if _is_no_narrowing(outcome, scopes):
        return replace(outcome, ends_grant=False)
    is_final = outcome.code not in _OURS | {"wrong_token_type"}
    return replace(outcome, code=f"{BY_IDENTITY}{outcome.code}", ends_grant=is_final)


class CompanyAssertions:
    """The identity providers that vouch for people, and the services where they do so
    (`vault.upstream.IdentityAssertions`)."""

    def __init__(
        self,
        catalog: Catalog,
        identities: Mapping[str, IdentityUpstream],
        upstream: Callable[[Provider], OAuthUpstream],
    ) -> None:
        self._catalog = catalog
        self._identities = identities
        self._upstream = upstream

    @property
    def identities(self) -> Mapping[str, str]:
        """The names of identity providers, as used in connections, with their titles."""
        return {name: one.identity.title for name, one in self._identities.items()}

    @property
    def services(self) -> Sequence[str]:
        """The names of the providers where assertions create connections."""
        return [provider.name for provider in self._catalog if provider.company_scopes]

    def scopes_at(self, provider: str) -> frozenset[str] | None:
        """The scopes that a company's connection requests there; None if no assertion creates one."""
        found = self._catalog.get(provider)
        return None if found is None else found.company_scopes or None

    def access(self, provider: str, *, identity: str, subject: str) -> AssertedAccess | None:
        """Access for the person whom this identity provider calls `subject`; None if there is none."""
        found, vouching = self._catalog.get(provider), self._identities.get(identity)
        if found is None or vouching is None or not found.company_scopes:
            return None
        return AssertedAccess(vouching, self._upstream(found), found, subject)

"""The vault's types for an upstream service, and nothing else.

`providers` implements `UpstreamOAuth` and supplies `UpstreamPolicy`; the vault decides with them. This module imports
nothing of ours, so both packages can depend on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field, replace
from enum import StrEnum
from typing import Protocol

from vault.classes.immutable import immutable


class RotationMode(StrEnum):
    """What a provider does with a used refresh token; determines whether an unanswered send may be repeated."""

    NONE = "none"  # the refresh token stays (Google); repeating is free
    GRACE = "grace"  # rotates, and reissues for `grace` seconds
    STRICT = "strict"  # rotates; reuse is refused, without other effects
    REVOKES = "revokes"  # rotates; reuse ends the whole family. Also the class of every unverified provider


class Downscope(StrEnum):
    """How a provider can issue a token with fewer scopes than the account's grant."""

    NONE = "none"
    REFRESH_SCOPE = "refresh_scope"  # RFC 6749 §6: `scope` on refresh
    NATIVE = "native"  # a provider-specific endpoint (GitHub Apps)
    EXCHANGE = "exchange"  # RFC 8693 at the provider (Box)


class ItemLimit(StrEnum):
    """Whether a narrower token can be limited to one thing: a repository, a file, a folder."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"  # narrower tokens exist only for one item (GitHub: the repositories of one owner)


class CredentialKind(StrEnum):
    """The kind of credential that the vault holds for an account."""

    OAUTH = "oauth"  # a grant: refresh and access tokens
    KEY = "key"  # what a person entered, sent unchanged
    CLIENT_CREDENTIALS = "client_credentials"  # what a person entered, and the token obtained with it (RFC 6749 §4.4)
    SESSION = "session"  # what a person entered, and the session opened by signing in with it
    SIGNED_TOKEN = "signed_token"  # a private key that a person entered, and the tokens it obtains (RFC 7523 §2.1)


@immutable
class UpstreamPolicy:
    """What the vault must know about a provider to decide; data from the provider's TOML file."""

    provider: str
    audience: str | None = None  # an API that accepts our tokens, minted for each call: nothing is stored
    credential: CredentialKind = CredentialKind.OAUTH
    rotation: RotationMode = RotationMode.REVOKES
    grace: int = 0  # seconds
    downscope: Downscope = Downscope.NONE
    downscope_is_destructive: bool = False  # narrowing shrinks the stored grant or ends other tokens: never do it
    items: ItemLimit = ItemLimit.NONE
    grants_more_than_asked: bool = False  # the app defines the scopes, so a full token never passes for a narrow one
    covers: Mapping[str, frozenset[str]] = field(
        default_factory=dict[str, frozenset[str]]
    )  # scope -> scopes it includes
    always_granted: frozenset[str] = frozenset()  # identity scopes that any token may also have (openid, email)
    access_lifetime: int = 3600  # seconds, used if the answer has no expires_in
    grant_lifetime: int | None = None  # seconds from consent until the grant itself ends
    grant_idle: int | None = None  # seconds without a refresh after which the grant ends
    refresh_ends_access_token: bool = False  # a refresh ends the previous access token: never refresh ahead
    revoke_ends_grant: bool | None = None
    revoke_ends_account: bool = False  # a revocation also ends other people's grants for our app
    removal_pages: tuple[str, ...] = ()  # where a person removes our app at the provider
    operator_scopes: frozenset[str] | None = None  # the operator's limit for this provider; None: no limit
    ask: frozenset[str] = frozenset()  # scopes, and `tool:NAME`: the operator requires approval each time
    tool_scopes: Mapping[str, frozenset[str]] = field(
        default_factory=dict[str, frozenset[str]]
    )  # tool -> its scopes: without a tool call, asking for a tool asks for these
    writing_tools: frozenset[str] = frozenset()  # tools that change something at the provider
    standing_tools: frozenset[str] = frozenset()  # tools that people may approve in advance
    reading: frozenset[str] = frozenset()  # scopes that cannot change anything
    own: frozenset[str] = frozenset()  # our own scopes, unknown to the provider: accounts don't need to hold them
    unruled: frozenset[str] = frozenset()  # of these, the ones that are limited only to the provider's hosts
    is_remote: bool = False  # someone else's MCP server: agents get only our own scopes, and its token stays inside
    is_identity: bool = False  # people sign in there: its tokens vouch for them and are never released

    @property
    def narrows_by(self) -> Downscope:
        """How to ask the provider for narrower tokens; not at all if that does harm."""
        return Downscope.NONE if self.downscope_is_destructive else self.downscope

    def delegable(self, granted: frozenset[str]) -> frozenset[str]:
        """The scopes that an agent can be given for an account with these granted scopes."""
        return self.own if self.is_remote else granted | self.own

    def for_renewal(self, renewed_by: str | None) -> UpstreamPolicy:
        """The policy for a connection that is renewed by identity assertions of that connection; unchanged for None.
        Each renewal uses a new assertion, so repeating one is harmless, and a narrower assertion gets a narrower token.
        The grant ends when the identity provider stops vouching, not by age.
        """
        if renewed_by is None:
            return self
        return replace(
            self,
            rotation=RotationMode.NONE,
            grace=0,
            downscope=Downscope.NONE if self.grants_more_than_asked else Downscope.REFRESH_SCOPE,
            downscope_is_destructive=False,
            items=ItemLimit.NONE,
            grant_lifetime=None,
            grant_idle=None,
            refresh_ends_access_token=False,
        )


@immutable
class Account:
    """The upstream account behind a token: a stable ID and a display name."""

    id: str
    label: str


@immutable
class TokenAnswer:
    """A parsed successful answer of an upstream token endpoint (RFC 6749 §5.1)."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False, default=None)
    scopes: frozenset[str] | None = None  # None: not in the answer
    expires_in: int | None = None  # seconds; None: the answer did not say
    account: Account | None = None
    grant_expires_in: int | None = None  # seconds until the grant itself ends; None: the answer did not say
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])  # stored facts: team id, instance URL
    leaves_earlier: bool = False  # the token or session that was used for it may still be alive, so end it

    def grant_seconds(self, usual: int | None, *, is_renewed: bool) -> int | None:
        """Seconds until the grant ends; None for no end. A grant that can't be renewed ends with its access token.
        `usual` is the lifetime that the provider documents for all its grants.
        """
        if self.grant_expires_in is not None:
            return self.grant_expires_in
        return usual if is_renewed else self.expires_in


@immutable
class Rotation:
    """The provider answered with new tokens."""

    answer: TokenAnswer


@immutable
class Refusal:
    """A well-formed refusal: the token wasn't used, or is already dead. `ends_grant` is true for `invalid_grant` and
    its provider-specific names. False means that our client registration at the provider (`invalid_client`) or our
    request was wrong: leave all connections unchanged.
    """

    code: str
    description: str
    ends_grant: bool


@immutable
class NotSent:
    """No token was used, so it's safe to repeat the request. Nothing reached the provider, its rate limit applied
    before it examined the token, or it refused a secret that is kept elsewhere and can be replaced there. With
    `retry_after`, it doesn't mean that the provider is silent.
    """

    reason: str
    retry_after: int | None = None  # seconds
    is_limited: bool = False  # the provider limits the rate of requests
    lacks_secret: bool = False  # a secret kept elsewhere can't be read there, or is refused


@immutable
class Silent:
    """The request was sent and no usable answer came: it is unknown whether the token was used. `is_over`: there was an
    answer, so the provider is no longer processing the request. `retry_after`: the seconds that an answer asks to wait.
    """

    reason: str
    is_over: bool = False
    retry_after: int | None = None


RefreshOutcome = Rotation | Refusal | NotSent | Silent


class RevokeOutcome(StrEnum):
    """What a revocation at the provider achieved."""

    REVOKED = "revoked"
    FAILED = "failed"  # refused; retry later
    UNSUPPORTED = "unsupported"  # the provider has no such endpoint
    SESSION_LEFT = "session_left"  # an earlier session can't be signed out and may live until it expires
    KEPT_ELSEWHERE = "kept_elsewhere"  # the secret stays where it is kept: this vault only had a reference


RevokeAnswer = RevokeOutcome | NotSent | Silent


class ProbeOutcome(StrEnum):
    """How the provider treats the tokens of a grant that should be over."""

    DEAD = "dead"  # it refuses all of them, or one whose end ends the rest of the grant
    ALIVE = "alive"  # it accepts one of them
    UNPROVEN = "unproven"  # one of them can't be checked without harm
    SILENT = "silent"  # no answer, or an inconclusive one


@immutable
class ProbeAnswer:
    """The answer to a probe, and the `ways` in which it was made: `identity`, `introspection`, `refresh`."""

    outcome: ProbeOutcome
    ways: tuple[str, ...] = ()
    retry_after: int | None = None  # seconds


class UpstreamError(Exception):
    """The provider refused, or answered invalidly, an authorization-code redemption or an account lookup.

    `code` is the provider's own error code cleaned to `[A-Za-z0-9_.-]`; `description` may be shown, escaped.
    """

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description


class TokenRenewal(Protocol):
    """Gets a new access token, with a refresh token, or with an ID token and an assertion."""

    async def refresh(
        self, refresh_token: str, /, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        """One attempt. `scopes` asks for a narrower token, `item` for one that reaches only a single item."""
        ...


NotRenewed = Refusal | NotSent | Silent


class VouchedAccess(Protocol):
    """Access to one service for a person whom an identity provider vouches for."""

    async def refresh(
        self, id_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        """Get a new access token with a new assertion: two requests of at most 10 s, which use up no token."""
        ...

    async def connect(self, id_token: str) -> TokenAnswer:
        """The first access token, with its account. Raises UpstreamError."""
        ...

    async def vouch(self, refresh_token: str, scopes: frozenset[str] | None) -> VouchedAccess | NotRenewed:
        """Access with an assertion for the identity provider's refresh token, which needs no ID token."""
        ...


class IdentityAssertions(Protocol):
    """The identity providers that vouch for people, and the services where they do so (`server.sign_in.assertions`)."""

    @property
    def identities(self) -> Mapping[str, str]:
        """The names of identity providers, as used in connections, with their titles."""
        ...

    @property
    def services(self) -> Sequence[str]:
        """The names of the providers where assertions create connections."""
        ...

    def scopes_at(self, provider: str) -> frozenset[str] | None:
        """The scopes that a company's connection requests there; None if no assertion creates one."""
        ...

    def access(self, provider: str, *, identity: str, subject: str) -> VouchedAccess | None:
        """Access for the person whom this identity provider calls `subject`; None if there is none."""
        ...


class UpstreamOAuth(Protocol):
    """OAuth with one provider as one registered client of it. Never logs or raises a token."""

    @property
    def is_configured(self) -> bool:
        """Whether a client ID (and a secret, if the provider needs one) is set."""
        ...

    def authorization_url(
        self,
        *,
        redirect_uri: str,
        state: str,
        scopes: frozenset[str],
        code_verifier: str,
        login_hint: str | None = None,
    ) -> str:
        """Where to send the person's browser; adds PKCE S256 if the provider supports it."""
        ...

    async def redeem(
        self,
        *,
        code: str,
        redirect_uri: str,
        code_verifier: str,
        state: str = "",
        keep: Callable[[TokenAnswer], Awaitable[None]] | None = None,
    ) -> TokenAnswer:
        """Redeem an authorization code and look up the account. Raises UpstreamError.

        `keep` receives the tokens as soon as they arrive, before the account is known and even if it never is.
        """
        ...

    async def identify(self, access_token: str, answer: Mapping[str, object]) -> Account:
        """The account behind a live access token that was issued elsewhere. Raises UpstreamError.

        `answer` is the token endpoint's answer, for providers that name the account in it.
        """
        ...

    async def refresh(
        self, refresh_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        """One attempt, total deadline 10 s, no redirects. `scopes` asks for a narrower token (RFC 6749 §6).

        `item`: the address of the only item that the token may reach, if the provider's policy has items.
        """
        ...

    async def narrow(self, access_token: str, scopes: frozenset[str], *, item: str | None = None) -> RefreshOutcome:
        """Get a narrower access token for an access token, if the provider supports it; uses up no refresh token.
        `item` is the address of the only item that the new token may reach. The answer's scopes are those that the
        provider confirmed, None if it confirmed none; `invalid_token` means that the access token itself isn't
        accepted.
        """
        ...

    async def revoke(
        self, *, refresh_token: str | None, access_token: str | None, account: str | None = None
    ) -> RevokeAnswer:
        """End the grant at the provider, or as much of it as the provider allows.

        `account`: its ID at the provider, for the few providers that end access by account instead of by token.
        """
        ...

    async def probe(
        self, *, refresh_token: str | None, access_token: str | None, is_fresh: bool, is_revoked: bool
    ) -> ProbeAnswer:
        """Ask whether the tokens of a grant that should be over still work; uses up no token and leaves no new one.
        `is_fresh`: the access token hasn't expired, so a refusal isn't due to its age. `is_revoked`: the provider
        accepted the revocation, so the end of one token may prove the end of the other.
        """
        ...


SEND_DEADLINE = 10  # seconds that one request may take; guaranteed by UpstreamOAuth.refresh

"""The company administrator's settings: who may sign in, and at which services the company vouches for whom. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from providers.simulator.accounts import PEOPLE, RegisteredClient

FACE = "company"
ID_JAG_TYPE = "oauth-id-jag+jwt"
ASSERTION_LIFETIME = 300  # seconds
ID_TOKEN_LIFETIME = 300


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A service that takes assertions. `scopes` None: any. `clients`: a client's id here -> its id there, if another.

    `denied`: people for whom the company doesn't vouch there.
    """

    scopes: frozenset[str] | None = None
    clients: Mapping[str, str] = field(default_factory=dict[str, str])
    denied: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SignInCode:
    """An authorization code of the company."""

    client: RegisteredClient
    redirect_uri: str
    challenge: str
    nonce: str | None
    account: str
    offline: bool
    at: float


@dataclass
class Directory:
    """The company's state. `services`: enrolments by the issuer of the service's authorization server."""

    services: dict[str, Enrolment] = field(default_factory=dict[str, Enrolment])
    signed_in: str | None = None  # the person signed in to the browser, who isn't asked to sign in
    renews_id_tokens: bool = True  # a refresh returns another ID token
    takes_refresh_tokens: bool = False  # in place of an ID token, for an assertion
    codes: dict[str, SignInCode] = field(default_factory=dict[str, SignInCode])
    redeemed: set[str] = field(default_factory=set[str])  # `jti` of used assertions, at all services
    prefix: str = "acme"  # of what it calls people

    def issue_code(self, code: SignInCode) -> str:
        """A code for this sign-in."""
        value = secrets.token_urlsafe(24)
        self.codes[value] = code
        return value

    def subject_of(self, account: str) -> str:
        """The company's identifier for a person, the same everywhere."""
        return f"{self.prefix}-{account}"

    def account_of(self, subject: str) -> str | None:
        """The person with this identifier."""
        name = subject.rpartition("-")[2]
        return name if name in PEOPLE and subject == self.subject_of(name) else None

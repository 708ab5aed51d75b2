"""Frozen records of the vault. Pure except for `new_id`: no storage, no clock.

Instants are integer seconds since the epoch (`*_at`). Scopes are frozensets of single scope strings. A field that can
hold a secret is hidden from `repr`.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from enum import StrEnum
from typing import Final

from vault.classes.immutable import immutable

TENANT = "default"
Tell = Callable[
    [str, int, int | None], None
]  # progress of long work: the step, how much is done, and the total if known
HOUR: Final = 3600  # seconds
DAY: Final = 24 * HOUR
LAST: Final = sys.maxsize  # later than every instant, after every event
EXPIRING = 7 * DAY  # seconds before the end of a grant at which people are notified
SHORT = 2 * DAY  # seconds; when a grant this short ends, no one is notified


def tell_nobody(step: str, done: int, total: int | None) -> None:
    """Progress callback for long work that no one watches."""


def new_id(size: int = 16) -> str:
    """A random id of `size` bytes. It never begins with a dash, so that it works as a command-line argument."""
    while (made := secrets.token_urlsafe(size)).startswith("-"):
        pass
    return made


def parse_scope(scope: str) -> frozenset[str]:
    """Parse a `scope` wire string into a set (RFC 6749 §3.3)."""
    return frozenset(scope.split())


def format_scope(scopes: frozenset[str]) -> str:
    """Format a set of scopes as the wire string, sorted so that equal sets give equal strings."""
    return " ".join(sorted(scopes))


@immutable
class Principal:
    """Verified subject, client and grant of one call: whose account, which agent, under which permission."""

    user_id: str
    client_id: str
    grant_id: str
    scopes: frozenset[str]
    audience: str
    tenant: str = TENANT
    actors: tuple[str, ...] = ()  # RFC 8693 §4.1: the chain of `act`, outermost first; empty: the agent itself
    expires_at: int | None = None
    token_id: str = ""  # `jti` of the access token behind the call; whatever is derived from it ends with it
    auth_time: int | None = None  # when the person signed in, if the token says so (RFC 9068 §2.2.1)
    is_strong: bool = False  # when with a passkey or several factors, if the token says so (RFC 8176 §2, `mfa`)


class Role(StrEnum):
    """What a person may do for all users. Each role includes those listed after it."""

    OWNER = "owner"  # can also change owners
    ADMINISTRATOR = "administrator"
    AUDITOR = "auditor"  # can read what administrators read, and change nothing
    MEMBER = "member"

    @property
    def administers(self) -> bool:
        """Whether this role can change what belongs to everyone."""
        return self in {Role.OWNER, Role.ADMINISTRATOR}

    @property
    def audits(self) -> bool:
        """Whether this role can read what belongs to everyone."""
        return self is not Role.MEMBER

    @staticmethod
    def of_row(role: str | None, *, is_admin: bool) -> Role:
        """The stored role; the previous release writes only `is_admin`."""
        if is_admin:
            return Role.ADMINISTRATOR if role == Role.ADMINISTRATOR else Role.OWNER
        return Role.AUDITOR if role == Role.AUDITOR else Role.MEMBER


def highest(roles: Iterable[Role]) -> Role:
    """The role with the most rights."""
    order = tuple(Role)
    return min(roles, key=order.index, default=Role.MEMBER)


@immutable
class User:
    """A person. `role` is their own role; `server.sign_in.roles` adds those from their groups.

    `password_hash` is argon2id, None for people who sign in through OpenID Connect.
    `stopped_at`: their agents are paused until they sign in at the issuer `stopped_by` (empty: two stopped them), or
    an admin enables them.
    """

    id: str
    name: str
    created_at: int
    password_hash: str | None = field(repr=False)
    role: Role = Role.MEMBER
    disabled_at: int | None = None
    stopped_at: int | None = None
    stopped_by: str = ""
    tenant: str = TENANT

    @property
    def is_admin(self) -> bool:
        """Whether they administer this vault."""
        return self.role.administers

    @property
    def has_agents(self) -> bool:
        """Whether agents may act for them."""
        return self.disabled_at is None and self.stopped_at is None


@immutable
class Session:
    """A signed-in browser. Only a hash of the cookie's token is stored.

    `created_at` is when the person authenticated; zero if the provider that signed them in doesn't report it.
    `proved_at` is when a passkey, or a sign-in elsewhere with several factors, proved their identity. `device` and
    `network` help the person recognize the browser; like `method`, they are empty where an earlier release signed them
    in.
    """

    token_hash: bytes = field(repr=False)
    user_id: str
    created_at: int
    seen_at: int
    expires_at: int
    ended_at: int | None = None
    method: str = ""
    device: str = ""
    network: str = ""
    proved_at: int | None = None
    tenant: str = TENANT

    @property
    def id(self) -> str:
        """Identifies the session in its person's forms. Half of a hash of 256 random bits, so useless as a cookie."""
        return self.token_hash.hex()[:32]

    def is_recent(self, now: int, *, lifetime: int) -> bool:
        """Whether the person authenticated within `lifetime` seconds."""
        return now - max(self.created_at, self.proved_at or 0) < lifetime

    def is_proved(self, now: int, *, lifetime: int) -> bool:
        """Whether a passkey or several factors proved the person's identity within `lifetime` seconds."""
        return self.proved_at is not None and now - self.proved_at < lifetime

    @property
    def is_strong(self) -> bool:
        """Whether a passkey or several factors ever proved the person's identity in this session."""
        return self.proved_at is not None

    @property
    def auth_time(self) -> int | None:
        """When the person authenticated; None if unknown (OpenID Connect Core §2)."""
        return self.created_at or None


class ClientKind(StrEnum):
    """How a client became known; determines how far it is trusted."""

    MANUAL = "manual"  # pre-registered by an operator
    DYNAMIC = "dynamic"  # RFC 7591
    METADATA = "metadata"  # client ID metadata document
    LOCAL = "local"  # a stdio client of the owner of the data directory


@immutable
class Client:
    """An OAuth client: an agent. `metadata` holds the rest of RFC 7591 §2 that was accepted."""

    id: str
    kind: ClientKind
    name: str
    auth_method: str  # none | client_secret_basic | client_secret_post | private_key_jwt
    redirect_uris: tuple[str, ...]
    created_at: int
    grant_types: frozenset[str] = frozenset({"authorization_code", "refresh_token"})
    secret_hash: bytes | None = field(default=None, repr=False)
    registration_hash: bytes | None = field(default=None, repr=False)  # RFC 7592 registration access token
    resources: tuple[str, ...] = ()  # audiences this client is bound to; empty: the built-in MCP endpoints
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    last_used_at: int | None = None
    removed_at: int | None = None
    tenant: str = TENANT

    @property
    def is_vouched_for(self) -> bool:
        """Whether someone who runs this vault created the client; anyone can register the other kinds."""
        return self.kind in {ClientKind.MANUAL, ClientKind.LOCAL}

    @property
    def is_public(self) -> bool:
        return self.auth_method == "none"


@immutable
class Grant:
    """What a user allowed a client to do with the vault: the record behind its tokens."""

    id: str
    user_id: str
    client_id: str
    scopes: frozenset[str]
    resource: str
    redirect_uri: str  # loopback ports removed
    created_at: int
    revoked_at: int | None = None
    revoked_reason: str | None = None
    tenant: str = TENANT

    @property
    def is_live(self) -> bool:
        return self.revoked_at is None


@immutable
class RefreshToken:
    """One generation of a rotating refresh token of our own authorization server."""

    token_hash: bytes = field(repr=False)
    grant_id: str
    client_id: str
    family: str
    generation: int
    scopes: frozenset[str]
    resource: str
    issued_at: int
    expires_at: int  # absolute end of the family
    idle_expires_at: int
    consumed_at: int | None = None
    successor_hash: bytes | None = field(default=None, repr=False)
    successor_sealed: bytes | None = field(default=None, repr=False)
    key_thumbprint: str | None = None  # RFC 9449 §5: `jkt` of a DPoP-bound public client
    issued_to: str | None = None  # the network that it was first issued to, in the form that `token_rules` compares
    moved_at: int | None = None  # when its reuse from another network was answered
    tenant: str = TENANT

    def is_expired(self, now: int) -> bool:
        return now >= self.expires_at or now >= self.idle_expires_at


class TicketPurpose(StrEnum):
    """Every kind of single-use expiring secret."""

    CODE = "code"  # authorization code, 60 s
    AUTHORIZATION = "authorization"  # an /authorize request waiting for sign-in and consent
    CONNECT = "connect"  # a link to our connect page
    UPSTREAM_STATE = "upstream_state"  # `state` at a provider
    SIGN_IN_STATE = "sign_in_state"  # `state` at an OpenID Connect provider
    DEVICE = "device"  # device code of the headless flow
    DEVICE_GRANT = "device_grant"  # what an agent without a browser polls with (RFC 8628)
    USER_CODE = "user_code"  # the short code of a device grant, typed by the person
    DEVICE_REFUSAL = "device_refusal"  # refused by the person; an approval is a CODE of this secret, so only one exists
    BOOTSTRAP = "bootstrap"  # first admin
    UNDO = "undo"  # undoes a saved change of permissions, 15 min
    NOTICE = "notice"  # what a page shows once after a change, possibly a secret; 15 min
    CHANNEL = "channel"  # confirms that a mail address reaches its person, 1 day
    APP_CODE = "app_code"  # lets an application learn which account its person connected, 5 min
    TASK = "task"  # the result of an MCP task, 15 min
    CREDENTIAL = "credential"  # our page where a person enters a credential, 10 min
    PUSHED = "pushed"  # an authorization request pushed ahead (RFC 9126), 60 s


@immutable
class Ticket:
    """A single-use expiring secret with the facts that it represents. Only a hash of the secret is stored."""

    ticket_hash: bytes = field(repr=False)
    purpose: TicketPurpose
    payload: Mapping[str, object] = field(repr=False)
    created_at: int
    expires_at: int
    user_id: str | None
    client_id: str | None
    binding: bytes | None = field(repr=False)  # hash of the browser session it belongs to
    consumed_at: int | None
    tenant: str = TENANT


class ConnectionState(StrEnum):
    """Stored states; `waiting`, `ambiguous` and `expiring` are derived."""

    ACTIVE = "active"
    NEEDS_REAUTH = "needs_reauth"
    REVOKED = "revoked"


ADVISED: Final = "ends_by_advice"  # a fact: at its end, the service only recommends replacing the key
DOUBTED: Final = "doubted"  # a reason: an API refused the key of an active connection


@immutable
class Connection:
    """One upstream account of one user. Sealed values stay in the row; this record has everything but the secrets."""

    id: str
    user_id: str
    provider: str
    account: str
    label: str
    scopes: frozenset[str]  # granted by the provider, not requested
    state: ConnectionState
    generation: int
    created_at: int
    reason: str | None = None
    has_refresh_token: bool = True
    access_expires_at: int | None = None
    grant_expires_at: int | None = None
    idle_expires_at: int | None = None  # unless it is refreshed before
    refreshed_at: int | None = None
    is_ambiguous: bool = False  # an unresolved intent exists
    is_settled: bool = False  # and no answer can come anymore: the vault tries again
    retry_at: int | None = None  # not before this time
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    nickname: str = ""  # the person's own name for it
    renewed_by: str | None = None  # the connection to the identity provider whose assertions renew this one
    consented_at: int | None = None  # time of the newest consent; None: the same as the record's
    tenant: str = TENANT

    @property
    def ends_at(self) -> int | None:
        """When the provider ends this grant, because of its age or because it wasn't refreshed."""
        return min((at for at in (self.grant_expires_at, self.idle_expires_at) if at is not None), default=None)

    @property
    def ends_unless_used(self) -> bool:
        """Whether using it postpones that end."""
        return self.idle_expires_at is not None and self.ends_at == self.idle_expires_at

    def status(self, now: int) -> str:
        """`active`, `needs_reauth`, `revoked`, or a derived status.

        `waiting`: the provider didn't answer a refresh. `ambiguous`: another process may have its answer. `expiring`:
        ends within 7 days unless the person acts. A grant that never lives longer than two days stays `active`, even
        past its end if a refresh may still work. A connection that nothing can renew is `needs_reauth` once it has
        ended, but `expiring` if the service only recommends that end.
        """
        if self.state is not ConnectionState.ACTIVE:
            return self.state.value
        if self.is_ambiguous:
            return "waiting" if self.is_settled else "ambiguous"
        if self.ends_at is None or self.ends_at - now > EXPIRING:
            return self.state.value
        if not self.has_refresh_token and now >= self.ends_at and ADVISED not in self.metadata:
            return ConnectionState.NEEDS_REAUTH.value
        return self.state.value if self._is_short else "expiring"

    @property
    def _is_short(self) -> bool:
        begun = self.created_at if self.consented_at is None else self.consented_at
        return not self.ends_unless_used and self.ends_at is not None and self.ends_at - begun <= SHORT


class ApprovalState(StrEnum):
    """Stored states of an approval; `expired` is derived."""

    PENDING = "pending"
    APPROVED = "approved"
    REFUSED = "refused"
    CONSUMED = "consumed"


@immutable
class Delegation:
    """What one agent may do with one connection of one user, until when, and what needs approval each time.

    `ask` holds scopes, and tools written as `tool:NAME`.
    """

    user_id: str
    client_id: str
    connection_id: str
    scopes: frozenset[str]
    created_at: int
    expires_at: int | None
    revoked_at: int | None = None
    ask: frozenset[str] = frozenset()
    is_default: bool = False  # this is the default account when the agent names none
    tenant: str = TENANT

    def is_live(self, now: int) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Narrowing(StrEnum):
    """How an answer's scopes are enforced."""

    UPSTREAM = "upstream"  # the token itself carries only these scopes
    ENFORCED = "enforced"  # the token stays inside; every call is checked against the scopes first
    HOST_ONLY = "host_only"  # the token stays inside; no request rule is applied, only hosts and method are checked
    FULL = "none"  # released with the account's full authority under the operator's switch


@immutable
class Event:
    """One line of the activity: past-tense kind, person, agent, and outcome. Never a secret."""

    kind: str  # "connection.opened", "grant.revoked", "tool.called"
    outcome: str = "ok"  # ok | refused | failed
    user_id: str | None = None
    client_id: str | None = None
    connection_id: str | None = None
    details: Mapping[str, object] = field(default_factory=dict[str, object])
    at: int = 0  # set when appended
    sequence: int = 0  # set when appended
    tenant: str = TENANT

"""Authorization requests, the person's decision, and the resulting single-use codes; shared by both faces.

Does not build HTTP answers: each face turns `CodeRefused` and `RequestRefused` into its provider's own words.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

from providers.simulator.accounts import Face, RegisteredClient
from providers.simulator.state.tokens import fingerprint

REQUEST_LIFETIME = 600  # seconds that a consent page stays valid
_CHALLENGE = re.compile(r"[A-Za-z0-9._~-]{43,128}")


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """A valid authorization request that waits for the person."""

    face: Face
    client: RegisteredClient
    redirect_uri: str
    scopes: tuple[str, ...]  # the user's
    bot_scopes: tuple[str, ...]
    state: str | None
    challenge: str | None
    challenge_method: Literal["S256", "plain"]
    created_at: float
    offline: bool = True
    prompt: frozenset[str] = frozenset()
    include_granted: bool = False
    nonce: str | None = None
    login_hint: str | None = None


@dataclass(frozen=True, slots=True)
class ConsentDecision:
    """The person's answer on the consent page."""

    account: str
    allow: bool
    scopes: frozenset[str] | None = None  # None: everything that was requested


@dataclass(slots=True)
class Code:
    """An issued authorization code."""

    request: SimulatedRequest
    account: str
    scopes: frozenset[str]
    first_consent: bool
    issued_at: float
    used: bool = False


class RequestRefused(Exception):
    """The authorization request is bad. Shown to the person on a page, never redirected."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


class CodeRefused(Exception):
    """`reason`: unknown, used, expired, other_client, redirect_uri, verifier."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Authorizations:
    """The open consent pages and the codes of one face."""

    def __init__(self) -> None:
        self._waiting: dict[str, SimulatedRequest] = {}
        self._codes: dict[str, Code] = {}
        self._consents: dict[tuple[str, str], frozenset[str]] = {}

    def remember_consent(self, account: str, client_id: str, scopes: frozenset[str]) -> bool:
        """Add to what the person allowed this client; True the first time."""
        earlier = self._consents.get((account, client_id))
        self._consents[account, client_id] = scopes | (earlier or frozenset())
        return earlier is None

    def consented_scopes(self, account: str, client_id: str) -> frozenset[str]:
        """Everything that the person has allowed this client so far."""
        return self._consents.get((account, client_id), frozenset())

    def forget_consent(self, account: str, client_id: str) -> None:
        """End open codes, because the person or the client ended the whole grant."""
        self._consents.pop((account, client_id), None)
        for code in self._codes.values():
            if code.account == account and code.request.client.client_id == client_id:
                code.used = True

    def begin(self, request: SimulatedRequest) -> str:
        """Remember a request; returns the handle that its consent page carries."""
        handle = secrets.token_urlsafe(24)
        self._waiting[handle] = request
        return handle

    def take(self, handle: str, *, now: float) -> SimulatedRequest | None:
        """The request of a consent page, once."""
        request = self._waiting.pop(handle, None)
        if request is None or now >= request.created_at + REQUEST_LIFETIME:
            return None
        return request

    def issue_code(
        self, request: SimulatedRequest, *, account: str, scopes: frozenset[str], first_consent: bool, now: float
    ) -> str:
        """A new code for what the person allowed."""
        value = f"{'4/0' if request.face == 'google' else ''}{secrets.token_urlsafe(32)}"
        self._codes[fingerprint(value)] = Code(request, account, scopes, first_consent, now)
        return value

    def redirect_uri_of(self, value: str) -> str | None:
        """Where a code was sent, for servers that don't ask again."""
        code = self._codes.get(fingerprint(value))
        return None if code is None else code.request.redirect_uri

    def redeem(
        self, value: str, *, client_id: str, redirect_uri: str, verifier: str | None, lifetime: int, now: float
    ) -> Code:
        """The code, used up; a wrong verifier or redirect address also uses it up. Raises CodeRefused."""
        code = self._codes.get(fingerprint(value))
        if code is None:
            raise CodeRefused("unknown")
        if code.request.client.client_id != client_id:
            raise CodeRefused("other_client")
        if code.used:
            raise CodeRefused("used")
        code.used = True
        if now >= code.issued_at + lifetime:
            raise CodeRefused("expired")
        if redirect_uri != code.request.redirect_uri:
            raise CodeRefused("redirect_uri")
        if not _verifies(code.request, verifier):
            raise CodeRefused("verifier")
        return code


def check_redirect_uri(client: RegisteredClient, redirect_uri: str) -> None:
    """Registered exactly or, if nothing is registered, https or http on loopback. Raises RequestRefused."""
    parts = urlsplit(redirect_uri)
    loopback = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
    well_formed = (loopback or parts.scheme == "https") and parts.hostname and not parts.fragment
    registered = client.redirect_uris is None or redirect_uri in client.redirect_uris
    if not well_formed or not registered:
        raise RequestRefused("redirect_uri_mismatch", "This redirect_uri is not registered for the client.")


def read_challenge(
    challenge: str | None, method: str | None, *, plain: bool
) -> tuple[str | None, Literal["S256", "plain"]]:
    """RFC 7636 §4.3. Raises RequestRefused."""
    if challenge is None:
        if method is not None:
            raise RequestRefused("invalid_request", "code_challenge_method without code_challenge.")
        return None, "plain"
    if not _CHALLENGE.fullmatch(challenge):
        raise RequestRefused("invalid_request", "code_challenge is malformed.")
    if method == "S256":
        return challenge, "S256"
    if plain and method in {None, "plain"}:
        return challenge, "plain"
    raise RequestRefused("invalid_request", "Unsupported code_challenge_method.")


def with_parameters(address: str, parameters: dict[str, str]) -> str:
    """The redirect address with these parameters added to its query."""
    parts = urlsplit(address)
    query = "&".join(piece for piece in (parts.query, urlencode(parameters)) if piece)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _verifies(request: SimulatedRequest, verifier: str | None) -> bool:
    if request.challenge is None:
        return verifier is None
    if verifier is None or not _CHALLENGE.fullmatch(verifier):
        return False
    if request.challenge_method == "plain":
        return secrets.compare_digest(verifier, request.challenge)
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return secrets.compare_digest(digest, request.challenge)

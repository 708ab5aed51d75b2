"""An upstream token, the request for one (RFC 8693), and a cache of tokens."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
_MARGIN = 30  # seconds before its end when a token is no longer used
_KEPT = 1000


@dataclass(frozen=True, slots=True)
class UpstreamToken:
    """A token for a provider's API, or a handle that works through the vault's proxy at `api_base_url`."""

    value: str = field(repr=False)
    scopes: frozenset[str]
    expires_at: float | None
    narrowing: str | None = None
    api_base_url: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The header that a request to the API needs."""
        return {"Authorization": f"Bearer {self.value}"}

    def __str__(self) -> str:
        return "UpstreamToken(...)"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """The requested token."""

    audience: str
    scopes: frozenset[str]
    subject: str = field(repr=False)
    subject_type: str = ACCESS_TOKEN
    account: str | None = None
    resource: str | None = None

    def form(self) -> dict[str, str]:
        """The parameters of the exchange."""
        found = {
            "grant_type": EXCHANGE,
            "subject_token": self.subject,
            "subject_token_type": self.subject_type,
            "audience": self.audience,
        }
        if self.scopes:
            found["scope"] = " ".join(sorted(self.scopes))
        if self.account is not None:
            found["account"] = self.account
        if self.resource is not None:
            found["resource"] = self.resource
        return found

    def key(self) -> bytes:
        """The cache key of the answer, which never contains the subject token itself."""
        parts = (self.audience, " ".join(sorted(self.scopes)), self.subject, self.subject_type)
        said = "\0".join((*parts, self.account or "", self.resource or ""))
        return hashlib.sha256(said.encode()).digest()


def request_of(
    audience: str,
    scopes: Iterable[str],
    *,
    subject: str,
    subject_type: str = ACCESS_TOKEN,
    account: str | None = None,
    resource: str | None = None,
) -> TokenRequest:
    """The request. A string has scopes separated by spaces."""
    wanted = frozenset(scopes.split() if isinstance(scopes, str) else scopes)
    return TokenRequest(audience, wanted, subject, subject_type, account, resource)


def token_of(content: Mapping[str, object], *, now: float) -> UpstreamToken:
    """The token in an answer (RFC 8693 §2.2.1)."""
    lifetime, scope = content.get("expires_in"), content.get("scope")
    base, narrowing = content.get("api_base_url"), content.get("narrowing")
    return UpstreamToken(
        value=str(content["access_token"]),
        scopes=frozenset(scope.split()) if isinstance(scope, str) else frozenset(),
        expires_at=now + lifetime if isinstance(lifetime, int) else None,
        narrowing=narrowing if isinstance(narrowing, str) else None,
        api_base_url=base if isinstance(base, str) else None,
    )


class KeptTokens:
    """Tokens until shortly before they end, in memory only; drops the least recently used one first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, UpstreamToken] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, request: TokenRequest) -> UpstreamToken | None:
        """A token that still works for a while. Tokens without an end are never kept."""
        with self._lock:
            found = self._kept.get(request.key())
            if found is None or found.expires_at is None or found.expires_at - _MARGIN <= time.time():
                return None
            self._kept.move_to_end(request.key())
            return found

    def keep(self, request: TokenRequest, token: UpstreamToken) -> UpstreamToken:
        """Keep the token, and return it."""
        with self._lock:
            self._kept[request.key()] = token
            self._kept.move_to_end(request.key())
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return token

    def forget(self, request: TokenRequest) -> None:
        """Drop the token, so that the vault is asked again next time."""
        with self._lock:
            self._kept.pop(request.key(), None)

"""The input and result of a grant at the token endpoint. Types only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from server.oauth.parameters import Parameters
from vault.exchange.recent import Basis
from vault.records import Client, Event, Grant, format_scope

ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # RFC 8693 §3
REFRESH_TOKEN: Final = "urn:ietf:params:oauth:token-type:refresh_token"
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
PURPOSE: Final = "token exchange"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A token request after the steps that all grants share."""

    client: Client
    form: Parameters
    scopes: frozenset[str] | None  # requested; None: whatever was granted
    resource: str | None
    key_thumbprint: str | None  # of the DPoP key that was proved
    now: int
    address: str = ""  # of the peer
    needs_token: bool = False  # handles aren't accepted, since the client calls the provider itself
    needs_narrow: bool = False  # tokens that can do more than `scopes` aren't accepted
    needs_handle: bool = False  # tokens aren't accepted, since the calls go through the proxy
    purpose: str = PURPOSE


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """What the pipeline may issue for a grant."""

    grant: Grant
    scopes: frozenset[str]
    resource: str
    refresh_token: str | None = field(repr=False, default=None)
    refresh_expires_at: int | None = None  # unless it is used before
    nonce: str | None = None
    auth_time: int | None = None  # of the original sign-in; a refresh does not repeat it
    is_strong: bool = False  # likewise
    is_left_alone: bool = False  # the client will not use its refresh token
    asks_anew: bool = False  # it can get another token at any time, so this one can be short-lived
    details: tuple[Mapping[str, object], ...] = ()  # authorization details (RFC 9396 §2)
    expires_at: int | None = None  # the access token ends by then


@dataclass(frozen=True, slots=True)
class ReleasedToken:
    """The data for releasing the same token again to the same client and person (`oauth.exchange.recent`)."""

    basis: Basis
    event: Callable[[], Event]
    expires_at: int | None  # of the token


@dataclass(frozen=True, slots=True)
class ExchangeAnswer:
    """The answer to a token exchange (RFC 8693 §2.2.1): never with a refresh token.

    `narrowing`: how `scopes` are enforced, for provider tokens. `api_base_url`: where a handle is used. `included`:
    scopes that the provider granted by name and that `scopes` imply; `content` leaves them out.
    """

    access_token: str = field(repr=False)
    scopes: frozenset[str]
    expires_in: int | None
    token_type: str = "Bearer"
    narrowing: str | None = None
    api_base_url: str | None = None
    release: ReleasedToken | None = field(repr=False, default=None)
    included: frozenset[str] = frozenset()

    def content(self) -> dict[str, object]:
        content: dict[str, object] = {
            "access_token": self.access_token,
            "issued_token_type": ACCESS_TOKEN,
            "token_type": self.token_type,
            "scope": format_scope(self.scopes),
        }
        if self.expires_in is not None:
            content["expires_in"] = self.expires_in
        if self.narrowing is not None:
            content["narrowing"] = self.narrowing
        if self.api_base_url is not None:
            content["api_base_url"] = self.api_base_url
        return content

"""Requests, answers, and failures of outbound calls, without the HTTP client.

`providers.outbound.client` sends. The catalog and the tools use these types without loading the HTTP client.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from providers.outbound.json_values import parse_content, parse_object

if TYPE_CHECKING:
    from providers.outbound.addresses import AddressPolicy

TOTAL_TIMEOUT: Final = 10.0  # seconds
ANSWER_LIMIT: Final = 1_000_000  # bytes


class HttpError(Exception):
    """Base class; never raised itself. `reason` is one of our own constants: no URL, no header, no body."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotReached(HttpError):
    """Nothing of the request was sent, so repeating it is safe."""


class AddressRefused(NotReached):
    """The URL, or an address that its host resolves to, isn't allowed."""


class PeerBusy(NotReached):
    """Too many of our own calls are in flight there, which says nothing about the peer."""


class NoAnswer(HttpError):
    """The request was sent and no usable answer came: it is unknown whether it was carried out."""


class TooLarge(NoAnswer):
    """The answer exceeds the limit; the rest wasn't read."""


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """A client certificate and its private key (PEM), for the TLS handshake."""

    pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """One request, sent once. `peer` names the bulkhead, so that calls to one peer can't use up another's
    connections."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes | AsyncIterable[bytes] | None = field(default=None, repr=False)
    timeout: float = TOTAL_TIMEOUT  # seconds in total, from connecting to the last byte
    max_bytes: int = ANSWER_LIMIT
    policy: AddressPolicy | None = None  # None: the policy of the client
    peer: str = ""
    account: str = ""  # the account of the call, so that one account can't use up the slots of the others
    reuse: bool = True  # False: a separate connection, for requests whose loss costs a grant
    is_foreign: bool = False  # a third party chose the address, which is looked up separately, on behalf of `account`
    identity: ClientIdentity | None = None  # on a separate connection, only to this request's host
    share: int | None = None  # calls of one account that may be in flight at this peer; None: the client's limit

    def with_headers(self, headers: Mapping[str, str]) -> OutboundRequest:
        """The same request with these headers. Every call needs it, and `dataclasses.replace` costs it 4 us."""
        return OutboundRequest(
            self.method,
            self.url,
            headers,
            self.body,
            self.timeout,
            self.max_bytes,
            self.policy,
            self.peer,
            self.account,
            self.reuse,
            self.is_foreign,
            self.identity,
            self.share,
        )


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """A complete answer. `headers` has lowercase names and the last value of a repeated header."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json_object(self) -> Mapping[str, object] | None:
        """The body as a JSON object; None when it is anything else."""
        return parse_object(self.body)

    def json_content(self) -> Mapping[str, object] | None:
        """The body as an object: a list becomes its `items`, no body is empty; None when it is anything else."""
        return {} if not self.body and self.status < 300 else parse_content(self.body)

    @property
    def is_turned_away(self) -> bool:
        """429 (RFC 6585 §4), or a 503 that names a time to wait.

        Only the 429 says that the request wasn't processed. The service, or a gateway whose time was up, may also send
        the 503 after the request arrived (RFC 9110 §15.6.4).
        """
        return self.status == HTTPStatus.TOO_MANY_REQUESTS or (
            self.status == HTTPStatus.SERVICE_UNAVAILABLE and self.retry_after is not None
        )

    @property
    def retry_after(self) -> int | None:
        """Seconds of Retry-After (RFC 9110 §10.2.3), at most a day; a date is compared with the answer's own Date."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdecimal():
            return min(int(value[:9]), 86400)
        try:
            wait = parsedate_to_datetime(value) - parsedate_to_datetime(self.headers.get("date", ""))
        except (ValueError, TypeError):
            return None
        return min(max(int(wait.total_seconds()), 0), 86400)

"""Issuers (RFC 8414 §2, OpenID Connect Discovery §3): when two are the same, and what one publishes about itself. All
discovery happens here: for services that we connect to, people's sign-in, others' MCP servers, and foreign tokens. Each
address in the metadata is checked when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from providers.outbound.addresses import AddressPolicy
from providers.outbound.json_values import at, text_at, text_list
from providers.outbound.messages import HttpError, OutboundResponse

if TYPE_CHECKING:
    from providers.outbound.client import Outbound

LIMIT: Final = 256 * 1024  # bytes of a document
_REMEMBERED: Final = 64  # issuers per process; beyond this the oldest is fetched again
# While an address fails, its last metadata and keys count for this many seconds after they arrived, so that blocking
# the address can't delay a revocation for longer.
KEPT_IN_OUTAGE: Final = 3600
RETRY_IN_OUTAGE: Final = 30  # seconds between two fetches during an outage


@dataclass(frozen=True, slots=True)
class _FetchedMetadata:
    content: Mapping[str, object]
    at: int
    tried_at: int  # later than `at` during an outage


# By issuer; only callers with `max_age` read it.
_fetched: WeakKeyDictionary[Outbound, dict[str, _FetchedMetadata]] = WeakKeyDictionary()


class NoMetadata(Exception):
    """An issuer's metadata is unavailable. One line. `status` is set if it answered; `named` is the issuer that the
    metadata names. `why` is `unreachable`, `status`, `malformed`, or `issuer` for metadata of another issuer.
    """

    def __init__(
        self,
        why: Literal["unreachable", "status", "malformed", "issuer"],
        detail: str,
        *,
        status: int = 0,
        named: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.why = why
        self.status = status
        self.named = named


@dataclass(frozen=True, slots=True)
class IssuerFacts:
    """What we use of the metadata of an authorization server that we are a client of. `auth_methods` are those of its
    token endpoint; `answers_as` is the `iss` of every authorization response, if the server promises one (RFC 9207 §3).
    """

    issuer: str
    authorize_url: str
    token_url: str
    auth_methods: tuple[str, ...]
    answers_as: str | None


def read_server(metadata: Mapping[str, object]) -> IssuerFacts:
    """Parse metadata (RFC 8414 §2, OpenID Connect Discovery §3). Raises NoMetadata that names what is missing."""
    authorize_url, token_url = text_at(metadata, "authorization_endpoint"), text_at(metadata, "token_endpoint")
    if authorize_url is None or token_url is None:
        missing = "authorization_endpoint" if authorize_url is None else "token_endpoint"
        raise NoMetadata("malformed", f"no {missing}")
    issuer = text_at(metadata, "issuer") or ""
    return IssuerFacts(
        issuer,
        authorize_url,
        token_url,
        text_list(metadata, "token_endpoint_auth_methods_supported") or ("client_secret_basic",),
        issuer or None if at(metadata, "authorization_response_iss_parameter_supported") is True else None,
    )


def is_same_issuer(named: object, expected: str | None) -> bool:
    """Whether two issuers are identical, character by character, including a trailing slash.

    RFC 8414 §3.3, RFC 9207 §2.4, OpenID Connect Discovery §4.3 and Core §3.1.3.7 all demand identical strings: two that
    differ in a slash can belong to two tenants of one host.
    """
    return isinstance(named, str) and named == expected


def metadata_urls(issuer: str) -> tuple[str, str]:
    """The addresses of an issuer's metadata: after its path (OpenID Connect Discovery §4.1) and before it (RFC 8414
    §3.1). Both leave out a trailing slash of the issuer.
    """
    whole = issuer.removesuffix("/")
    parts = urlsplit(whole)
    inserted = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}"
    return f"{whole}/.well-known/openid-configuration", inserted


async def fetch_metadata(
    issuer: str,
    outbound: Outbound,
    *,
    policy: AddressPolicy | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109 -- for each request; `Outbound` keeps it
    now: int = 0,
    max_age: int = 0,
) -> Mapping[str, object]:
    """The metadata that this issuer publishes about itself. Raises NoMetadata.

    At most `max_age` seconds old at `now`, or `KEPT_IN_OUTAGE` while the issuer publishes none; 0 fetches again.
    `policy` None: the addresses that `outbound` allows.
    """
    known = _fetched.setdefault(outbound, {})
    said = known.get(issuer) if max_age else None
    is_kept = said is not None and 0 <= now - said.at < KEPT_IN_OUTAGE
    if said is not None and is_kept:
        fresh = max_age if said.tried_at == said.at else RETRY_IN_OUTAGE
        if 0 <= now - said.tried_at < fresh:
            return said.content
    try:
        content = _read(issuer, await _ask(issuer, outbound, policy=policy or outbound.policy, timeout=timeout))
    except NoMetadata as error:
        if said is None or not is_kept or error.why == "issuer":  # the address may now belong to someone else
            if max_age:
                known.pop(issuer, None)
            raise
        known[issuer] = replace(said, tried_at=now)
        return said.content
    if max_age:
        known.pop(issuer, None)
        while len(known) >= _REMEMBERED:
            del known[next(iter(known))]
        known[issuer] = _FetchedMetadata(content, now, now)
    return content


async def _ask(issuer: str, outbound: Outbound, *, policy: AddressPolicy, timeout: float) -> OutboundResponse:  # noqa: ASYNC109 -- passed on
    """The answer from the first address, or from the second if the first has no metadata. Servers without OpenID
    Connect answer 404 there, or as they answer any unknown address: 401, or a page.
    """
    first, second = metadata_urls(issuer)
    try:
        answer = await outbound.fetch_document(
            first, policy=policy, on_behalf_of=None, max_bytes=LIMIT, timeout=timeout
        )
        if answer.status >= 500 or (answer.status == HTTPStatus.OK and _names_issuer(answer)):
            return answer
        other = await outbound.fetch_document(
            second, policy=policy, on_behalf_of=None, max_bytes=LIMIT, timeout=timeout
        )
    except HttpError as error:
        raise NoMetadata("unreachable", error.reason) from error
    return other if other.status == HTTPStatus.OK else answer


def _names_issuer(answer: OutboundResponse) -> bool:
    content = answer.json_object()
    return content is not None and isinstance(content.get("issuer"), str)


def _read(issuer: str, answer: OutboundResponse) -> Mapping[str, object]:
    if answer.status != HTTPStatus.OK:
        raise NoMetadata("status", f"status {answer.status}", status=answer.status)
    content = answer.json_object()
    named = None if content is None else content.get("issuer")
    if content is None or not isinstance(named, str):
        raise NoMetadata("malformed", "metadata", status=answer.status)
    if not is_same_issuer(named, issuer):
        raise NoMetadata("issuer", "metadata issuer", status=answer.status, named=named)
    return content

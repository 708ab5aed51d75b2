"""Security event tokens (SET, RFC 8417) from transmitters in the settings: their signer, audience, and time.

Follows OpenID Shared Signals Framework (SSF) 1.0 §4.1: typed `secevent+jwt`, without `exp` and `sub`. Google's
Cross-Account Protection is older: its tokens may lack the type and may have `exp`. `events` distinguishes them from ID
tokens.
`server.signals.push_delivery` counts each token once; `server.signals.effects` decides what happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from providers.definitions.issuers import is_same_issuer
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.json_values import is_object
from providers.outbound.messages import HttpError
from server.deployment import Deployment
from server.http.strict_json import json_object
from server.signal_settings import TransmitterSettings
from server.signatures import jose
from server.signatures.key_sets import NoKeys, claims_of_issuer

LIMIT: Final = 64 * 1024  # bytes of a delivery
TYPES: Final = ("secevent+jwt", "application/secevent+jwt")  # RFC 8417 §2.3; RFC 7515 §4.1.9 lets the prefix be omitted
_LEEWAY: Final = 60  # seconds between the transmitter's clock and ours
_DOCUMENT_LIMIT: Final = 64 * 1024
_FETCH_TIME: Final = 3.0  # seconds
_KEPT: Final = 3600  # seconds for which a transmitter's metadata is used
_MILLISECONDS: Final = 10**11  # larger than any time in seconds before the year 5138
_ALIASES: Final = 8  # identifiers of one subject
# Where the keys of a transmitter are, and when that was found.
_found: WeakKeyDictionary[Outbound, dict[str, tuple[str, int]]] = WeakKeyDictionary()


class EventRefused(Exception):
    """The token isn't accepted. `code` is from RFC 8935 §2.4; `reason` is for the log and the transmitter."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class KeysAway(Exception):
    """The transmitter's keys or its bearer token can't be read now, so the event can't be verified; it can be sent
    again."""


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """An event that a transmitter signed. `kind` is its type's URI; `subjects` identify the people or accounts.

    `occurred_at`: when it happened, if the transmitter reports it; no later than `issued_at`. `state`: of a
    verification.
    """

    token_id: str
    issued_at: int
    occurred_at: int
    kind: str
    subjects: tuple[Mapping[str, object], ...]
    state: str | None = field(default=None, repr=False)


async def verify(
    deployment: Deployment, name: str, transmitter: TransmitterSettings, token: str, *, is_polled: bool
) -> SecurityEvent:
    """The event in a token of this transmitter. Raises EventRefused or KeysAway.

    What is polled comes from the transmitter itself, so it isn't a replay, however long it waited there.
    """
    now = deployment.now()
    claims = await signed_claims(deployment, transmitter, token, types=TYPES, has_type=not transmitter.is_google)
    audiences = transmitter.audiences or (deployment.url(f"/signals/{name}"),)
    if not is_same_issuer(claims.get("iss"), transmitter.issuer):
        raise EventRefused("invalid_issuer", "iss is another issuer")
    if not _audiences_of(claims) & set(audiences):
        raise EventRefused("invalid_audience", "aud is another receiver")
    if not transmitter.is_google and claims.keys() & {"exp", "sub"}:
        raise EventRefused("invalid_request", "exp and sub are not allowed")  # SSF 1.0 §4.1.3, §4.1.7
    token_id, issued_at = claims.get("jti"), jose.integer_claim(claims, "iat")
    if not isinstance(token_id, str) or not 1 <= len(token_id) <= 255:
        raise EventRefused("invalid_request", "jti is missing or too long")
    oldest = 0 if is_polled else now - transmitter.max_age
    if issued_at is None or not oldest <= issued_at <= now + _LEEWAY:
        raise EventRefused("invalid_request", "iat is missing, in the future, or too old")
    kind, event = _event_of(claims)
    state = event.get("state")
    return SecurityEvent(
        token_id,
        issued_at,
        _time_of(claims, event, issued_at),
        kind,
        _subjects(claims, event),
        state if isinstance(state, str) else None,
    )


async def signed_claims(
    deployment: Deployment, transmitter: TransmitterSettings, token: str, *, types: tuple[str, ...], has_type: bool
) -> Mapping[str, object]:
    """The claims of a JWT of one of these types that a key of the transmitter signed. Raises EventRefused, KeysAway.

    `has_type` False: a token without a type is accepted, too.
    """
    policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_openid)
    try:
        typ = jose.unverified_header(token).get("typ")
        if typ not in types and (has_type or typ not in {None, "JWT"}):
            raise EventRefused("invalid_request", "typ is another")
        url = transmitter.jwks_uri or await find_keys(deployment, transmitter, policy=policy)
        return await claims_of_issuer(deployment.http, token, url, policy=policy, now=deployment.now())
    except NoKeys as error:
        raise KeysAway(str(error)) from error
    except jose.TokenMalformed as error:
        raise EventRefused("invalid_key", str(error)) from error


async def find_keys(deployment: Deployment, transmitter: TransmitterSettings, *, policy: AddressPolicy) -> str:
    """The address of the transmitter's keys, from its metadata (SSF 1.0 §7). Raises KeysAway."""
    known, now = _found.setdefault(deployment.http, {}), deployment.now()
    found = known.get(transmitter.issuer)
    if found is not None and 0 <= now - found[1] < _KEPT:
        return found[0]
    keys = (await read_metadata(deployment, transmitter, policy=policy)).get("jwks_uri")
    if not isinstance(keys, str) or not (keys.startswith("https://") or policy.allow_loopback):
        raise KeysAway(f"{metadata_url(transmitter)} names no keys")
    known[transmitter.issuer] = (keys, now)
    return keys


async def read_metadata(
    deployment: Deployment, transmitter: TransmitterSettings, *, policy: AddressPolicy
) -> Mapping[str, object]:
    """The transmitter's metadata (SSF 1.0 §7). Raises KeysAway."""
    url = metadata_url(transmitter)
    try:
        answer = await deployment.http.fetch_document(
            url, policy=policy, on_behalf_of=None, max_bytes=_DOCUMENT_LIMIT, timeout=_FETCH_TIME
        )
        content = json_object(answer.body) if answer.status == HTTPStatus.OK else {}
    except (HttpError, ValueError, RecursionError) as error:
        raise KeysAway(f"no metadata at {url}") from error
    if not is_same_issuer(content.get("issuer"), transmitter.issuer):
        raise KeysAway(f"{url} is the metadata of another issuer")
    return content


def metadata_url(transmitter: TransmitterSettings) -> str:
    """SSF 1.0 §7.2.1: before the issuer's path; Google's is older (§7.2.2)."""
    parts = urlsplit(transmitter.issuer)
    name = "risc-configuration" if transmitter.is_google else "ssf-configuration"
    return f"{parts.scheme}://{parts.netloc}/.well-known/{name}{parts.path.rstrip('/')}"


def _audiences_of(claims: Mapping[str, object]) -> set[str]:
    audience = claims.get("aud")
    named: list[object] = audience if isinstance(audience, list) else [audience]  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
    return {one for one in named if isinstance(one, str)}


def _event_of(claims: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    """Type and content. Several types may only name the same event in several ways (SSF 1.0 §4.2.1)."""
    events = claims.get("events")
    if not is_object(events) or not 1 <= len(events) <= _ALIASES:
        raise EventRefused("invalid_request", "events is not one event")
    for kind, event in events.items():
        if is_object(event):
            return kind, event
    raise EventRefused("invalid_request", "the event is not an object")


def _time_of(claims: Mapping[str, object], event: Mapping[str, object], issued_at: int) -> int:
    """`event_timestamp` (CAEP 1.0 §2), which older transmitters send in milliseconds, or `toe` (RFC 8417 §2.2)."""
    said = event.get("event_timestamp", claims.get("toe"))
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said < _MILLISECONDS * 1000:
        return issued_at
    return min(issued_at, int(said if said < _MILLISECONDS else said / 1000))


def _subjects(claims: Mapping[str, object], event: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    """The subject identifiers of a person: `sub_id` (SSF 1.0 §3.1), else the older `subject` of the event."""
    return subjects_in(claims.get("sub_id") if "sub_id" in claims else event.get("subject"))


def subjects_in(subject: object) -> tuple[Mapping[str, object], ...]:
    """The simple subject identifiers in one: itself, the user of a complex one (SSF 1.0 §3.3), or aliases."""
    if not is_object(subject):
        return ()
    form = subject.get("format", subject.get("subject_type"))
    if form == "complex" or (form is None and "user" in subject):
        return subjects_in(subject.get("user")) if not _is_complex(subject.get("user")) else ()
    if form == "aliases":  # RFC 9493 §3.2.8: not nested
        named = subject.get("identifiers")
        found: list[object] = named[:_ALIASES] if isinstance(named, list) else []  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
        return tuple(one for one in found if is_object(one) and one.get("format") != "aliases")
    return (subject,)


def _is_complex(subject: object) -> bool:
    return is_object(subject) and subject.get("format") == "complex"

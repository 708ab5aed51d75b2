"""Reads others' key sets (RFC 7517 §5): of trusted issuers, sign-in providers, and clients.

A set is fetched through the guarded client and cached for five minutes. If no cached key matches, it is fetched again,
but at most every `RETRY` seconds; concurrent callers share the fetch. While the address returns no set, the last one is
used for up to `KEPT_IN_OUTAGE`; a new set replaces it, so that removed keys become invalid immediately. Addresses from
untrusted clients are cached, fetched, and looked up separately from those that the operator named. Callers decide which
keys to accept for what.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final
from weakref import WeakKeyDictionary

from providers.definitions.issuers import KEPT_IN_OUTAGE, RETRY_IN_OUTAGE
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.messages import HttpError
from server.http.strict_json import json_object
from server.signatures import jose

KEPT: Final = 300  # seconds
RETRY: Final = 10  # seconds between two fetches when no kept key fits
RETRY_FOREIGN: Final = 60  # the same, if a stranger chose the address
_MAX_BYTES: Final = 256 * 1024  # enough for keys with their certificates
_MAX_FOREIGN_BYTES: Final = 32 * 1024
_FETCH_TIME: Final = 3.0  # seconds
_REMEMBERED: Final = 256  # addresses
_MOST_KEYS: Final = 100  # of one set
_MOST_TRIED: Final = 20  # for a token that does not name its key

Jwks = tuple[dict[str, object], ...]


class NoKeys(jose.TokenMalformed):
    """The address has no key set, or the set has no key that we can use."""


@dataclass(frozen=True, slots=True)
class _FetchedKeys:
    keys: Jwks
    at: int  # when the set arrived or, if none ever did, when it was last requested
    tried_at: int  # later than `at` in an outage


@dataclass(slots=True)
class _KeySets:
    """What was fetched, and running fetches, by address."""

    fetched: OrderedDict[str, _FetchedKeys] = field(default_factory=OrderedDict[str, _FetchedKeys])
    fetching: dict[str, asyncio.Task[Jwks]] = field(default_factory=dict[str, "asyncio.Task[Jwks]"])


_known: WeakKeyDictionary[Outbound, dict[bool, _KeySets]] = (
    WeakKeyDictionary()
)  # by whether a stranger chose the address


def usable_keys(jwks: Mapping[str, object], *, algorithms: Collection[str] = jose.ISSUER_ALGORITHMS) -> Jwks:
    """The public keys of a set that fit one of the algorithms, of its first 100; empty when it holds a private key."""
    keys = jwks.get("keys")
    if not isinstance(keys, list):
        return ()
    usable: list[dict[str, object]] = []
    for jwk in keys[:_MOST_KEYS]:  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
        if not isinstance(jwk, dict):
            return ()
        members: dict[str, object] = {str(name): value for name, value in jwk.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if has_private_part(members):
            return ()
        if any(_fits(members, algorithm) for algorithm in algorithms):
            usable.append(members)
    return tuple(usable)


def has_private_part(jwk: Mapping[str, object]) -> bool:
    """Whether the key has a member that must stay with its owner."""
    return not jwk.keys().isdisjoint({"d", "k", "p", "q"})


def _fits(members: dict[str, object], algorithm: str) -> bool:
    try:
        jose.public_key(members, algorithm=algorithm)
    except jose.TokenMalformed:
        return False
    return True


def keys_by_id(keys: Jwks, kid: str | None) -> Jwks:
    """The keys that a token with this `kid` may be signed with: all when it names none."""
    return keys if kid is None else tuple(key for key in keys if key.get("kid") in {kid, None})


def first_verified(token: str, keys: Jwks, *, algorithm: str) -> dict[str, object]:
    """The claims under the first of these keys that fits. Raises TokenMalformed.

    The token's header has passed `jose.check_header`, which chose the algorithm.
    """
    for jwk in keys[:_MOST_TRIED]:
        try:
            return jose.verified_claims(token, jose.public_key(jwk, algorithm=algorithm), algorithm=algorithm)
        except jose.TokenMalformed:
            continue
    raise jose.TokenMalformed("no key of the set verifies the signature")


async def claims_of_issuer(
    outbound: Outbound,
    token: str,
    url: str,
    *,
    policy: AddressPolicy,
    now: int,
    members: Collection[str] = jose.HEADER_MEMBERS,
) -> dict[str, object]:
    """The claims of a token that a key at `url` signed. Raises TokenMalformed; NoKeys if there are no keys.

    If no kept key fits the signature, fetches again, as for an unknown `kid`: not every issuer names its keys.
    `members`: the allowed header members.
    """
    header = jose.unverified_header(token)
    algorithm = jose.check_header(header, algorithms=jose.ISSUER_ALGORITHMS, allowed=members)
    kid = key_id(header)
    keys = await keys_behind(outbound, url, kid=kid, policy=policy, on_behalf_of=None, now=now)
    try:
        return first_verified(token, keys, algorithm=algorithm)
    except jose.TokenMalformed:
        if not keys and not _cached_keys(outbound, url):
            raise NoKeys("no key set, or no usable key in it") from None
        newer = await keys_behind(outbound, url, kid=kid, policy=policy, on_behalf_of=None, now=now, is_doubted=True)
        if newer == keys:
            raise
    return first_verified(token, newer, algorithm=algorithm)


def key_id(header: Mapping[str, object]) -> str | None:
    """The key that a token says it was signed with."""
    kid = header.get("kid")
    return kid if isinstance(kid, str) else None


async def keys_behind(
    outbound: Outbound,
    url: str,
    *,
    kid: str | None,
    policy: AddressPolicy,
    on_behalf_of: str | None,
    now: int,
    is_doubted: bool = False,
) -> Jwks:
    """The keys at this address that may have signed; cached for all callers that name it. Empty when none is available.

    `on_behalf_of`: as in `Outbound.fetch_document`. `is_doubted`: no kept key fit.
    """
    known = _known.setdefault(outbound, {}).setdefault(on_behalf_of is not None, _KeySets())
    entry = known.fetched.get(url)
    if entry is not None:
        age, found = now - entry.tried_at, keys_by_id(entry.keys, kid)
        pause = RETRY if on_behalf_of is None else RETRY_FOREIGN
        kept = KEPT if entry.tried_at == entry.at else RETRY_IN_OUTAGE
        is_recent = 0 <= age < (pause if is_doubted or not found else kept)
        if is_recent and now - entry.at < KEPT_IN_OUTAGE:
            return found
    fetching = known.fetching.get(url)
    if fetching is None:
        fetching = known.fetching[url] = asyncio.create_task(
            _renew(outbound, known, url, policy=policy, on_behalf_of=on_behalf_of, now=now)
        )
    return keys_by_id(await asyncio.shield(fetching), kid)


def _cached_keys(outbound: Outbound, url: str) -> Jwks:
    entry = _known[outbound][False].fetched.get(url)
    return () if entry is None else entry.keys


async def _renew(
    outbound: Outbound, known: _KeySets, url: str, *, policy: AddressPolicy, on_behalf_of: str | None, now: int
) -> Jwks:
    try:
        keys = await _fetch(outbound, url, policy, on_behalf_of=on_behalf_of)
        last = known.fetched.get(url)
        if keys is not None:
            entry = _FetchedKeys(keys, now, now)
        elif last is not None and last.keys and 0 <= now - last.at < KEPT_IN_OUTAGE:
            entry = replace(last, tried_at=now)
        else:
            entry = _FetchedKeys((), now, now)
        known.fetched[url] = entry
        known.fetched.move_to_end(url)
        if len(known.fetched) > _REMEMBERED:
            known.fetched.popitem(last=False)
        return entry.keys
    finally:
        del known.fetching[url]


async def _fetch(outbound: Outbound, url: str, policy: AddressPolicy, *, on_behalf_of: str | None) -> Jwks | None:
    """The usable keys of the set behind the address; None if no set arrived.

    A stranger's address without any takes the whole time, like a port that does not answer.
    """
    loop = asyncio.get_running_loop()
    started, is_foreign = loop.time(), on_behalf_of is not None
    try:
        answer = await outbound.fetch_document(
            url,
            policy=policy,
            on_behalf_of=on_behalf_of,
            max_bytes=_MAX_FOREIGN_BYTES if is_foreign else _MAX_BYTES,
            timeout=_FETCH_TIME,
        )
        content = json_object(answer.body) if answer.status == HTTPStatus.OK else {}
        keys = usable_keys(content) if isinstance(content.get("keys"), list) else None
    except (HttpError, ValueError, RecursionError):
        keys = None
    if not keys and is_foreign:
        await asyncio.sleep(max(0.0, started + _FETCH_TIME - loop.time()))
    return keys

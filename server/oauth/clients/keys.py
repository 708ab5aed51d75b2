"""The public keys of a `private_key_jwt` client: registered with it, or behind its `jwks_uri`.

A `jwks_uri` is fetched through the guarded client, kept five minutes, and fetched again for an unknown key id at most
once a minute; concurrent callers share the fetch. Addresses that strangers name are kept, fetched and looked up
separately from those that the operator named. `server.oauth.clients.authentication` verifies with the keys.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import HttpError, Outbound
from server.deployment import Deployment
from server.http.addresses import counting_key
from server.oauth.clients.rules import jwk_members, key_host_allowed
from server.oauth.parameters import json_object
from vault.records import Client

KEPT: Final = 300
RETRY: Final = 60
_MAX_BYTES: Final = 32 * 1024
_FETCH_TIME: Final = 3.0
_REMEMBERED: Final = 256

Jwks = tuple[dict[str, object], ...]


@dataclass(frozen=True, slots=True)
class _Fetched:
    keys: Jwks
    at: int


@dataclass(slots=True)
class _Known:
    """What was fetched, and running fetches, by address."""

    fetched: OrderedDict[str, _Fetched] = field(default_factory=OrderedDict[str, _Fetched])
    fetching: dict[str, asyncio.Task[Jwks]] = field(default_factory=dict[str, "asyncio.Task[Jwks]"])


_known: WeakKeyDictionary[Outbound, dict[bool, _Known]] = WeakKeyDictionary()  # by whether a stranger chose the address


async def keys_of(deployment: Deployment, client: Client, *, kid: str | None, address: str, now: int) -> Jwks:
    """The keys that may have signed: those named by `kid`, all when it is absent. Empty when none is available.

    `address`: where the request came from.
    """
    jwks = client.metadata.get("jwks")
    if isinstance(jwks, dict):
        members: dict[str, object] = {str(name): value for name, value in jwks.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- stored JSON
        return _by_id(jwk_members(members), kid)
    url = client.metadata.get("jwks_uri")
    if not isinstance(url, str):
        return ()
    is_foreign = not client.is_vouched_for
    if is_foreign and not key_host_allowed(url, deployment.settings):  # stored under a looser setting
        return ()
    policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_client_metadata)
    whose = counting_key(address) if is_foreign else None
    return await keys_behind(deployment, url, kid=kid, policy=policy, on_behalf_of=whose, now=now)


async def keys_behind(
    deployment: Deployment, url: str, *, kid: str | None, policy: AddressPolicy, on_behalf_of: str | None, now: int
) -> Jwks:
    """The keys at this address that may have signed; cached for all clients that name it.

    `on_behalf_of`: as in `Outbound.fetch_document`.
    """
    known = _known.setdefault(deployment.http, {}).setdefault(on_behalf_of is not None, _Known())
    entry = known.fetched.get(url)
    age = None if entry is None else now - entry.at
    is_due = entry is None or age is None or age >= KEPT or (age >= RETRY and not _by_id(entry.keys, kid))
    if entry is not None and not is_due:
        return _by_id(entry.keys, kid)
    fetching = known.fetching.get(url)
    if fetching is None:
        fetching = known.fetching[url] = asyncio.create_task(
            _renew(deployment, known, url, policy=policy, on_behalf_of=on_behalf_of, now=now)
        )
    return _by_id(await asyncio.shield(fetching), kid)


async def _renew(
    deployment: Deployment, known: _Known, url: str, *, policy: AddressPolicy, on_behalf_of: str | None, now: int
) -> Jwks:
    try:
        keys = await _fetch(deployment, url, policy, on_behalf_of=on_behalf_of)
        known.fetched[url] = _Fetched(keys, now)
        known.fetched.move_to_end(url)
        if len(known.fetched) > _REMEMBERED:
            known.fetched.popitem(last=False)
        return keys
    finally:
        del known.fetching[url]


def _by_id(keys: Jwks, kid: str | None) -> Jwks:
    return keys if kid is None else tuple(key for key in keys if key.get("kid") in {kid, None})


async def _fetch(deployment: Deployment, url: str, policy: AddressPolicy, *, on_behalf_of: str | None) -> Jwks:
    """The keys behind the address; a failure takes the whole time, like a port that does not answer."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        answer = await deployment.http.fetch_document(
            url, policy=policy, on_behalf_of=on_behalf_of, max_bytes=_MAX_BYTES, timeout=_FETCH_TIME
        )
        keys = jwk_members(json_object(answer.body)) if answer.status == 200 else ()
    except (HttpError, ValueError, RecursionError):
        keys = ()
    if not keys:
        await asyncio.sleep(max(0.0, started + _FETCH_TIME - loop.time()))
    return keys

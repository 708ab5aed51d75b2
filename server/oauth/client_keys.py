"""The public keys of a `private_key_jwt` client: registered with it, or behind its `jwks_uri`.

A `jwks_uri` is fetched through the guarded client, kept five minutes, and looked at again for an unknown key id at most
once a minute. Verifying with the keys is left to `server.oauth.client_auth`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from providers.address import AddressPolicy
from providers.http import HttpError, Outbound
from server.deployment import Deployment
from server.oauth.client_rules import jwk_members
from server.oauth.rules import json_object
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


_fetched: WeakKeyDictionary[Outbound, OrderedDict[str, _Fetched]] = WeakKeyDictionary()


async def keys_of(deployment: Deployment, client: Client, *, kid: str | None, now: int) -> Jwks:
    """The keys that may have signed: those named by `kid`, all when it is absent. Empty when none can be had."""
    jwks = client.metadata.get("jwks")
    if isinstance(jwks, dict):
        members: dict[str, object] = {str(name): value for name, value in jwks.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- stored JSON
        return _named(jwk_members(members), kid)
    url = client.metadata.get("jwks_uri")
    if not isinstance(url, str):
        return ()
    policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_client_metadata)
    return await keys_behind(deployment, url, kid=kid, policy=policy, now=now)


async def keys_behind(deployment: Deployment, url: str, *, kid: str | None, policy: AddressPolicy, now: int) -> Jwks:
    """The keys at this address that may have signed; remembered for all who name it."""
    known = _fetched.setdefault(deployment.http, OrderedDict())
    entry = known.get(url)
    age = None if entry is None else now - entry.at
    is_due = entry is None or age is None or age >= KEPT or (age >= RETRY and not _named(entry.keys, kid))
    if entry is None or is_due:
        entry = _Fetched(await _fetch(deployment, url, policy), now)
        known[url] = entry
        known.move_to_end(url)
        if len(known) > _REMEMBERED:
            known.popitem(last=False)
    return _named(entry.keys, kid)


def _named(keys: Jwks, kid: str | None) -> Jwks:
    return keys if kid is None else tuple(key for key in keys if key.get("kid") in {kid, None})


async def _fetch(deployment: Deployment, url: str, policy: AddressPolicy) -> Jwks:
    """The keys behind the address; a failure takes the whole time, like a port that does not answer."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        answer = await deployment.http.fetch_document(url, policy=policy, max_bytes=_MAX_BYTES, timeout=_FETCH_TIME)
        keys = jwk_members(json_object(answer.body)) if answer.status == 200 else ()
    except (HttpError, ValueError, RecursionError):
        keys = ()
    if not keys:
        await asyncio.sleep(max(0.0, started + _FETCH_TIME - loop.time()))
    return keys

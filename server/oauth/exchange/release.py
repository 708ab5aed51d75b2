"""How far an upstream token may leave the vault: the release policy of one client for one account. Pure.

`proxy`: never; the client gets a handle and calls the provider through the vault. `narrowed`: only if the provider
itself limits the token to the scopes, else a handle. `full`: unchanged, if an operator explicitly set it for one
provider. `vault.exchange` decides the scopes of an exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from vault.records import Client, ClientKind, Narrowing

MEMBER: Final = "release"  # of a client's metadata: provider or connection id -> policy
DEFAULT: Final = "default"


class ReleasePolicy(StrEnum):
    """What a client can get of an upstream token."""

    PROXY = "proxy"
    NARROWED = "narrowed"
    FULL = "full"


def ceiling_of(client: Client) -> ReleasePolicy:
    """The broadest policy for this kind of client.

    MCP: upstream credentials MUST NOT reach a client. So only a client that an operator registered, and that can keep a
    secret, may ever receive one.
    """
    return ReleasePolicy.FULL if client.kind is ClientKind.MANUAL and not client.is_public else ReleasePolicy.PROXY


def policy_of(client: Client, *, provider: str, connection_id: str) -> ReleasePolicy:
    """The policy for this account: the connection's, else the provider's, else the client's own, else the default."""
    if ceiling_of(client) is ReleasePolicy.PROXY:
        return ReleasePolicy.PROXY
    if MEMBER not in client.metadata:
        return ReleasePolicy.NARROWED
    chosen = policies_of(client)
    for name in (connection_id, provider, DEFAULT):
        if name in chosen:
            return chosen[name]
    return ReleasePolicy.NARROWED


def policies_of(client: Client) -> Mapping[str, ReleasePolicy]:
    """The operator's choice for this client. Unreadable entries count as `proxy`."""
    stored = client.metadata.get(MEMBER)
    if not isinstance(stored, Mapping):
        return {}
    known = {one.value: one for one in ReleasePolicy}
    return {str(name): known.get(str(value), ReleasePolicy.PROXY) for name, value in stored.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- stored JSON


def released_narrowing(policy: ReleasePolicy, narrowing: Narrowing, *, expires: bool) -> Narrowing | None:
    """How the token's scopes are enforced outside the vault; None if it stays inside and the client gets a handle.

    A token that never `expires` isn't limited in time, so it is only released if an operator explicitly allowed it.
    """
    match policy:
        case ReleasePolicy.PROXY:
            return None
        case ReleasePolicy.NARROWED:
            return narrowing if narrowing is Narrowing.UPSTREAM and expires else None
        case ReleasePolicy.FULL:
            return narrowing if narrowing is Narrowing.UPSTREAM else Narrowing.FULL


def seconds_left(end: int, *others: int | None, now: int) -> int:
    """Seconds to the first of these ends."""
    return max(0, min(one for one in (end, *others) if one is not None) - now)

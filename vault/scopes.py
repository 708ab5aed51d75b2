"""The scope algebra and the narrowing plan: how much authority one exchange may carry. Pure.

A provider's scopes form a hierarchy (`covers`): holding one scope can include others. The authority of a set of scopes
is its closure under that hierarchy; two sets have equal authority when their closures are equal. This module doesn't
read, ask or refuse: `vault.exchange` turns missing scopes into a refusal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from vault.classes.immutable import immutable
from vault.records import Narrowing, format_scope
from vault.upstream import Downscope, ItemLimit, UpstreamPolicy

Covers = Mapping[str, frozenset[str]]
NOTHING: frozenset[str] = frozenset()


def expand(scopes: frozenset[str], covers: Covers) -> frozenset[str]:
    """These scopes and every scope that they include."""
    if not covers:
        return scopes
    found = set(scopes)
    waiting = list(scopes)
    while waiting:
        for included in covers.get(waiting.pop(), NOTHING):
            if included not in found:
                found.add(included)
                waiting.append(included)
    return frozenset(found)


def covers_all(granted: frozenset[str], wanted: frozenset[str], covers: Covers) -> bool:
    """Whether the granted scopes include all the wanted ones."""
    return wanted <= granted or wanted <= expand(granted, covers)


def missing_scopes(wanted: frozenset[str], granted: frozenset[str], covers: Covers) -> frozenset[str]:
    """The wanted scopes that the granted ones don't include."""
    return wanted - expand(granted, covers)


def meet(a: frozenset[str], b: frozenset[str], covers: Covers) -> frozenset[str]:
    """The authority that both sets hold, written with as few scopes as possible."""
    return _widest(expand(a, covers) & expand(b, covers), covers)


def _widest(scopes: frozenset[str], covers: Covers) -> frozenset[str]:
    """The same authority without scopes that another one includes; of two that include each other, the first."""
    if not covers:
        return scopes
    reach = {scope: expand(frozenset({scope}), covers) for scope in scopes}

    def is_redundant(scope: str) -> bool:
        return any(
            scope in reach[other] and (other not in reach[scope] or other < scope) for other in scopes if other != scope
        )

    return frozenset(scope for scope in scopes if not is_redundant(scope))


@lru_cache(maxsize=1024)
def scope_key(scopes: frozenset[str], item: str | None = None) -> str:
    """The key for a narrowed token of exactly these scopes and this item: equal sets, equal keys."""
    what = format_scope(scopes) if item is None else f"{format_scope(scopes)}\n{item}"  # no scope holds a line break
    return hashlib.sha256(what.encode()).hexdigest()


def derives(policy: UpstreamPolicy) -> bool:
    """Whether the provider issues narrower tokens for an access token, which uses up no refresh token."""
    return policy.narrows_by in (Downscope.NATIVE, Downscope.EXCHANGE)


@immutable
class Plan:
    """What an exchange may release, and how.

    `scopes` never holds authority outside the request, the delegation, the connection and the operator's ceiling. The
    other three name the parts of the request that the ceiling, the account and the delegation do not include; the
    caller refuses a plan with any of them.
    """

    scopes: frozenset[str]
    narrowing: Narrowing
    needs_narrow_token: bool
    scope_key: str
    outside_ceiling: frozenset[str] = NOTHING
    not_granted: frozenset[str] = NOTHING
    not_delegated: frozenset[str] = NOTHING


def plan(
    wanted: frozenset[str] | None,
    *,
    delegation: frozenset[str],
    connection: frozenset[str],
    policy_scopes: frozenset[str] | None,
    policy: UpstreamPolicy,
    item: str | None = None,
) -> Plan:
    """The plan for one request; `wanted` None means everything that was delegated to the agent and that the account
    holds.

    `policy_scopes` is the operator's ceiling for the provider, None for no ceiling. `item`: the token may reach only
    this one thing; only the provider can enforce that.
    """
    covers = policy.covers
    granted = expand(connection, covers) | policy.own
    delegated = expand(delegation, covers)
    ceiling = None if policy_scopes is None else expand(policy_scopes, covers)
    allowed = granted & delegated if ceiling is None else granted & delegated & ceiling
    if wanted is None:
        scopes = _widest(allowed, covers)
        wanted = scopes
    elif wanted <= allowed:
        scopes = wanted  # as requested, so that the key of the narrowed token is known before the row is read
    else:
        scopes = _widest(expand(wanted, covers) & allowed, covers)
    narrowing, needs_narrow_token = _narrow(scopes, connection=connection, policy=policy, item=item)
    return Plan(
        scopes=scopes,
        narrowing=narrowing,
        needs_narrow_token=needs_narrow_token,
        scope_key=scope_key(scopes, item),
        outside_ceiling=NOTHING if ceiling is None else wanted - ceiling,
        not_granted=wanted - granted,
        not_delegated=wanted - delegated,
    )


def _narrow(
    scopes: frozenset[str], *, connection: frozenset[str], policy: UpstreamPolicy, item: str | None
) -> tuple[Narrowing, bool]:
    """How these scopes are enforced, by the token or by us, and whether that needs a separate token."""
    if not scopes.isdisjoint(policy.unruled):
        return Narrowing.HOST_ONLY, False  # only the whole token reaches calls that no rule covers
    if not scopes.isdisjoint(policy.own):
        return Narrowing.ENFORCED, False  # the provider doesn't know these scopes
    if not scopes:
        return Narrowing.ENFORCED, False  # a provider without scopes: its token can do everything
    if policy.audience is not None:
        return Narrowing.UPSTREAM, False  # a token of ours, minted with these scopes
    is_all = connection - policy.always_granted <= expand(scopes, policy.covers)
    if is_all and item is None and not policy.grants_more_than_asked:
        return Narrowing.UPSTREAM, False  # the account granted nothing else
    allowed = policy.items is not ItemLimit.NONE if item is not None else policy.items is not ItemLimit.REQUIRED
    if derives(policy):
        return (Narrowing.UPSTREAM, True) if allowed else (Narrowing.ENFORCED, False)
    # RFC 6749 §6: only scopes granted as such may be requested, not those that a granted scope includes.
    if policy.narrows_by is Downscope.REFRESH_SCOPE and allowed and scopes <= connection:
        return Narrowing.UPSTREAM, True
    return Narrowing.ENFORCED, False


def is_within(answered: frozenset[str], asked: frozenset[str], *, policy: UpstreamPolicy) -> bool:
    """Whether the scopes of a narrowed answer stay within the request plus the scopes that any token may include."""
    return answered <= expand(asked, policy.covers) | expand(policy.always_granted, policy.covers)

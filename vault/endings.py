"""Grants that must be ended at their provider: their sealed tokens until that is done, and when it may happen.

Disconnecting a connection leaves one, and so does connecting an account again: the previous grant becomes an ended
connection of its own, `held` until the account is disconnected if ending it might also end the newer grant.
`vault.upkeep.revocations` calls the provider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field

from vault.classes.immutable import immutable
from vault.keys.key_ring import ConnectionKey, KeyRing
from vault.records import TENANT, ConnectionState, format_scope, new_id
from vault.refusals import CiphertextRejected
from vault.storage.database import Reader, Transaction, Value, binary, text
from vault.upstream import UpstreamPolicy

REFRESH_TOKEN = "refresh_token"
ACCESS_TOKEN = "access_token"
REVOCATION = "revocation"
SUPERSEDED = "superseded"  # the reason when a newer consent replaced the connection's grant
HELD = "held"  # the outcome while a revocation waits until its account is disconnected


_PENDING = """
    insert into upstream_revocations
        (tenant, connection_id, user_id, provider, sealed, attempts, outcome, next_at, created_at, done_at,
        owes_receipt)
    values (:tenant, :id, :user_id, :provider, :sealed, 0, :outcome, :next_at, :now, :done_at, :owes_receipt)
"""
_FIND_PENDING = """
    select sealed from upstream_revocations
    where tenant = :tenant and connection_id = :id and done_at is null and sealed is not null
"""
# Changing the counter voids the result of a running attempt with the older tokens.
_REPLACE_PENDING = """
    update upstream_revocations set sealed = :sealed, next_at = :now, attempts = attempts + 1
    where tenant = :tenant and connection_id = :id and done_at is null
"""


@immutable
class Aside:
    """A grant at a provider that no connection uses; None for `refresh_token` and `access_token` that do not open.

    `generation` is that of its former connection, 0 if it never had one.
    """

    user_id: str
    provider: str
    account: str
    label: str
    scopes: frozenset[str]
    refresh_token: str | None = field(repr=False)
    access_token: str | None = field(repr=False)
    generation: int = 0
    lease_until: int | None = None


_INSERT_ENDED = """
    insert into connections (tenant, id, user_id, provider, account, label, scopes, state, reason, generation, metadata,
        created_at, ended_at)
    values (:tenant, :id, :user_id, :provider, :account, :label, :scopes, :state, :reason, :generation, :metadata,
        :now, :now)
"""
# A person deleted in the meantime gets a key again, for as long as this takes.
_WITHOUT_PERSON = """
    insert into deletions (tenant, user_id, name, requested_at)
    select cast(:tenant as text), cast(:user_id as text), cast(:nothing as text), cast(:now as bigint)
    where not exists (select 1 from users u where u.tenant = :tenant and u.id = :user_id)
    on conflict (tenant, user_id) do nothing
"""
_SUPERSEDED = """
    select k.id from upstream_revocations r cross join connections k
    where k.tenant = r.tenant and k.id = r.connection_id
        and r.tenant = :tenant and r.user_id = :user_id and r.done_at is null and k.reason = :superseded
        and k.provider = :provider and k.account = :account and k.generation = :generation
        and k.ended_at >= (select c.created_at from connections c where c.tenant = :tenant and c.id = :former)
"""
# `+ 0` keeps SQLite from the index of ended connections, which would read everyone's.
_WAS_SUPERSEDED = """
    select k.id from connections k
    where k.tenant = :tenant and k.user_id = :user_id and k.reason = :superseded
        and k.provider = :provider and k.account = :account and k.generation = :generation
        and k.ended_at is not null
        and k.ended_at + 0 >= (select c.created_at from connections c where c.tenant = :tenant and c.id = :former)
    limit 1
"""
_RENEW_ASIDE = """
    update upstream_revocations set sealed = :sealed, attempts = attempts + 1,
        next_at = case when outcome = :held then next_at else cast(:now as bigint) end
    where tenant = :tenant and connection_id = :id and done_at is null
"""
# Any owner's: a group may have had the newest grant of an account that a person had before. Leaves out `tenant` and
# `done_at`, whose indexes would make SQLite read everyone's; no held grant is done.
_RELEASE_HELD = """
    update upstream_revocations set outcome = :pending, next_at = :now
    where outcome = :held and connection_id in (
        select k.id from connections k
        where k.tenant = :tenant and k.provider = :provider and k.account = :account and k.ended_at is not null
    )
"""
# `+ 0` makes SQLite use the index by person; the index of ended connections would read everyone's.
_RELEASE_UNKNOWN = """
    update upstream_revocations set outcome = :pending, next_at = :now
    where tenant = :tenant and user_id = :user_id and outcome = :held and done_at is null and connection_id in (
        select k.id from connections k
        where k.tenant = :tenant and k.user_id = :user_id and k.provider = :provider and k.account = :unknown
            and k.ended_at + 0 is not null
    )
"""


async def set_aside(
    transaction: Transaction, ring: KeyRing, grant: Aside, *, policy: UpstreamPolicy, now: int, is_over: bool = False
) -> str | None:
    """Keep a grant so that it can be ended at its provider; returns its ID, None for an API of ours, which has no
    grant.

    If revoking a token may end everything the person gave our app, including the newer consent, the grant is held until
    the account is disconnected. `is_over`: the account has no newer consent, so the grant is due now. The sealed tokens
    have their own key.
    """
    if policy.audience is not None:
        return None
    aside_id = new_id()
    key = await ring.create_keys(transaction, user_id=grant.user_id, connection_id=aside_id, now=now)
    which: Mapping[str, Value] = {
        "tenant": TENANT,
        "id": aside_id,
        "user_id": grant.user_id,
        "provider": grant.provider,
        "account": grant.account,
        "label": grant.label,
        "scopes": format_scope(grant.scopes),
        "state": ConnectionState.REVOKED.value,
        "reason": SUPERSEDED,
        "generation": grant.generation,
        "metadata": "{}",
        "now": now,
    }
    await transaction.execute(_INSERT_ENDED, which)
    await transaction.execute(_WITHOUT_PERSON, {**which, "nothing": ""})
    is_readable = bool(grant.refresh_token or grant.access_token)
    is_held = not is_over and policy.revoke_ends_grant is not False
    sealed = _seal_grant(key, grant) if is_readable else None
    if not is_readable:
        await ring.destroy_connection_key(transaction, aside_id)
    due_at = None if is_held else max(now, grant.lease_until or now)
    await add_pending(transaction, which, sealed=sealed, due_at=due_at, now=now)
    return aside_id


async def add_pending(
    transaction: Transaction, which: Mapping[str, Value], *, sealed: bytes | None, due_at: int | None, now: int
) -> None:
    """Record a grant to be ended; `which` names tenant, id, user_id and provider of its ended connection.

    `sealed` None: its tokens do not open, so nothing can be done. `due_at` None: it is held.
    """
    outcome = "unreadable" if sealed is None else HELD if due_at is None else "pending"
    row: Mapping[str, Value] = {
        **which,
        "sealed": sealed,
        "outcome": outcome,
        "next_at": None if sealed is None else due_at,
        "now": now,
        "done_at": None if sealed is not None else now,
        "owes_receipt": int(sealed is None),
    }
    await transaction.execute(_PENDING, row)


async def release_held(transaction: Transaction, *, user_id: str, provider: str, account: str, now: int) -> None:
    """Release an account's held grants for ending, for every user: this newer grant has ended."""
    states: Mapping[str, Value] = {"tenant": TENANT, "held": HELD, "pending": "pending", "now": now}
    which: Mapping[str, Value] = {**states, "provider": provider}
    await transaction.execute(_RELEASE_HELD, {**which, "account": account})
    await transaction.execute(_RELEASE_UNKNOWN, {**which, "user_id": user_id, "unknown": ""})


def _seal_grant(key: ConnectionKey, grant: Aside) -> bytes:
    return seal_revocation(
        key,
        refresh_token=grant.refresh_token,
        access_token=grant.access_token,
        provider=grant.provider,
        account=grant.account,
    )


async def renew_aside(
    transaction: Transaction,
    ring: KeyRing,
    grant: Aside,
    *,
    former: str,
    policy: UpstreamPolicy,
    now: int,
    is_over: bool,
) -> bool:
    """Keep newer tokens that arrived for a grant after it was set aside; whether there is such a grant. If its
    revocation is over, it was revoked with a token that had been used: the newer ones are set aside separately.

    `former`: the connection that had it. An earlier connection of the account had the same generations.
    """
    named: Mapping[str, Value] = {
        "tenant": TENANT,
        "user_id": grant.user_id,
        "provider": grant.provider,
        "account": grant.account,
        "generation": grant.generation,
        "superseded": SUPERSEDED,
        "former": former,
    }
    row = await transaction.fetch_one(_SUPERSEDED, named)
    if row is not None and await _renew(transaction, ring, text(row, "id"), grant, now=now):
        return True
    if await transaction.fetch_one(_WAS_SUPERSEDED, named) is None:
        return False
    await set_aside(transaction, ring, grant, policy=policy, now=now, is_over=is_over)
    return True


async def _renew(transaction: Transaction, ring: KeyRing, aside_id: str, grant: Aside, *, now: int) -> bool:
    """Replace the tokens of a pending revocation; False if it just ended, and its key with it."""
    try:
        key = await ring.load_key(transaction, user_id=grant.user_id, connection_id=aside_id)
    except CiphertextRejected:
        return False
    changed: Mapping[str, Value] = {
        "tenant": TENANT,
        "id": aside_id,
        "sealed": _seal_grant(key, grant),
        "held": HELD,
        "now": now,
    }
    return await transaction.execute(_RENEW_ASIDE, changed) > 0


def seal_revocation(
    key: ConnectionKey, *, refresh_token: str | None, access_token: str | None, provider: str, account: str
) -> bytes:
    """The tokens that a revocation at the provider needs, sealed."""
    tokens = json.dumps({REFRESH_TOKEN: refresh_token, ACCESS_TOKEN: access_token}, separators=(",", ":"))
    return key.seal(tokens, purpose=REVOCATION, provider=provider, account=account, generation=0)


def open_revocation(key: ConnectionKey, sealed: bytes, *, provider: str, account: str) -> tuple[str | None, str | None]:
    """Refresh token and access token of a pending revocation."""
    tokens: dict[str, str | None] = json.loads(
        key.open(sealed, purpose=REVOCATION, provider=provider, account=account, generation=0)
    )
    return tokens.get(REFRESH_TOKEN), tokens.get(ACCESS_TOKEN)


async def find_pending(
    reader: Reader, key: ConnectionKey, connection_id: str, *, provider: str, account: str
) -> tuple[str | None, str | None] | None:
    """Refresh token and access token of a pending revocation, if they open; None when there is none."""
    row = await reader.fetch_one(_FIND_PENDING, {"tenant": TENANT, "id": connection_id})
    if row is None:
        return None
    try:
        return open_revocation(key, binary(row, "sealed"), provider=provider, account=account)
    except CiphertextRejected:
        return None, None


async def replace_pending(transaction: Transaction, connection_id: str, *, sealed: bytes, now: int) -> bool:
    """Revoke newer tokens instead: those from a refresh that was in progress at disconnection. False: too late."""
    changed = await transaction.execute(
        _REPLACE_PENDING, {"tenant": TENANT, "id": connection_id, "sealed": sealed, "now": now}
    )
    return changed == 1

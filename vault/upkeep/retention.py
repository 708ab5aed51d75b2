"""Delete connections, grants, permissions and agents that ended long ago; the activity keeps what happened.

A connection whose revocation at its provider is still due stays, and so do a grant that another one is based on and the
records that keep a company from restoring what a person ended. Each batch is a separate transaction, so that others can
write in between.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from vault.classes.immutable import immutable
from vault.connections import DISCONNECTED
from vault.records import DAY, TENANT
from vault.storage.database import SWEEP_BATCH, Database, Value, text

DONE_KEPT: Final = 30 * DAY  # seconds to keep a finished revocation, which the page and `scrub` need for 7 days


@immutable
class _Kind:
    """The IDs to find, at most `batch` at a time, and what to delete for each."""

    chosen: str
    deleted: Sequence[str]
    batch: int


# The last account that a person disconnected at a service where companies connect accounts stays: it keeps theirs from
# connecting another. `services` has the names of these services between commas.
_CONNECTIONS: Final = _Kind(
    """
    select k.id from connections k
    where k.tenant = :tenant and k.ended_at is not null and k.ended_at <= :before and not exists (
        select 1 from upstream_revocations r
        where r.tenant = k.tenant and r.connection_id = k.id and r.done_at is null
    )
    and not (
        k.reason = :disconnected
        and cast(:services as text) like cast(:before_name as text) || k.provider || cast(:after_name as text)
        and exists (select 1 from users u where u.tenant = k.tenant and u.id = k.user_id)
        and k.id = (
            select n.id from connections n
            where n.tenant = k.tenant and n.user_id = k.user_id and n.provider = k.provider and n.reason = :disconnected
            order by n.ended_at desc, n.id desc limit 1
        )
    )
    limit :batch
    """,
    (
        "delete from narrowed_tokens where tenant = :tenant and connection_id = :id",
        "delete from intents where tenant = :tenant and connection_id = :id",
        "delete from delegations where tenant = :tenant and connection_id = :id",
        "delete from upstream_revocations where tenant = :tenant and connection_id = :id",
        "delete from keys.connection_keys where tenant = :tenant and connection_id = :id",
        "delete from shared_connections where tenant = :tenant and connection_id = :id",
        "delete from released_tokens where tenant = :tenant and connection_id = :id",
        "delete from connections where tenant = :tenant and id = :id",
    ),
    batch=100,
)
# `between` means `=` here and makes PostgreSQL do one index lookup each: when hardly any grant is based on another, it
# assumes that all are based on the same one and reads every grant instead.
_GRANTS: Final = _Kind(
    """
    select g.id from grants g
    where g.tenant = :tenant and g.revoked_at is not null and g.revoked_at <= :before and not exists (
        select 1 from grants d
        where d.tenant = g.tenant and d.derived_from between g.id and g.id and d.revoked_at is null
    )
    limit :batch
    """,
    (
        "delete from refresh_tokens where tenant = :tenant and grant_id = :id",
        "delete from grants where tenant = :tenant and id = :id",
    ),
    batch=100,
)
# The grants of a removed agent ended with it, so they go first or at the same age.
_CLIENTS: Final = _Kind(
    """
    select c.id from clients c
    where c.tenant = :tenant and c.removed_at is not null and c.removed_at <= :before and not exists (
        select 1 from grants g where g.tenant = c.tenant and g.client_id = c.id
    )
    limit :batch
    """,
    (
        "delete from delegations where tenant = :tenant and client_id = :id",
        "delete from tool_choices where tenant = :tenant and client_id = :id",
        "delete from api_clients where tenant = :tenant and client_id = :id",
        "delete from clients where tenant = :tenant and id = :id",
    ),
    batch=100,
)
# Only receipts that need nothing more; the activity keeps the hash of each. The keys stay, because they verify copies
# elsewhere.
_RECEIPTS: Final = """
    delete from revocation_receipts where (tenant, connection_id) in (
        select tenant, connection_id from revocation_receipts
        where tenant = :tenant and issued_at <= :before and is_open = 0 and is_final = 1
            and (settled_at is null or settled_at <= :before)
        order by issued_at limit :batch
    )
"""
_AGENT_RECEIPTS: Final = """
    delete from agent_receipts where (tenant, client_id, user_id, connection_id, ended_at) in (
        select tenant, client_id, user_id, connection_id, ended_at from agent_receipts
        where tenant = :tenant and issued_at <= :before and (
            token_hash is null or expires_at <= :before or not exists (
                select 1 from connections k
                where k.tenant = agent_receipts.tenant and k.id = agent_receipts.connection_id and k.ended_at is null
            )
        )
        order by issued_at limit :batch
    )
"""
# Ended permissions of an agent that a company lets in stay: they say whether the person or the company ended them.
_DELEGATIONS: Final = """
    delete from delegations where (tenant, user_id, client_id, connection_id) in (
        select d.tenant, d.user_id, d.client_id, d.connection_id from delegations d
        where d.tenant = :tenant and d.revoked_at is not null and d.revoked_at <= :before and not exists (
            select 1 from company_permissions p
            where p.tenant = d.tenant and p.user_id = d.user_id and p.client_id = d.client_id
        )
        limit :batch
    )
"""
_REVOCATIONS: Final = """
    delete from upstream_revocations where connection_id in (
        select connection_id from upstream_revocations
        where tenant = :tenant and done_at is not null and done_at <= :before limit :batch
    )
"""


async def forget_ended(database: Database, *, before: int, company_services: Collection[str] = ()) -> int:
    """Delete connections, grants, permissions and agents that ended at `before` or earlier; returns how many rows.

    `company_services`: the providers where companies connect people's accounts.
    """
    more = {
        "disconnected": DISCONNECTED,
        "services": f",{','.join(company_services)},",
        "before_name": "%,",
        "after_name": ",%",
    }
    counts = [
        await _forget(database, _CONNECTIONS, before=before, more=more),
        await _forget(database, _GRANTS, before=before),
        await _forget(database, _CLIENTS, before=before),
    ]
    return sum(counts) + await _delete(database, _DELEGATIONS, before=before)


async def forget_receipts(database: Database, *, before: int) -> int:
    """Delete receipts of `before` or earlier that need nothing more; returns how many.

    Receipts of agents stay while a provider token without an end may be in use.
    """
    return await _delete(database, _RECEIPTS, before=before) + await _delete(database, _AGENT_RECEIPTS, before=before)


async def forget_done(database: Database, *, now: int) -> int:
    """Delete revocations that finished long enough ago to be of no use; returns how many."""
    return await _delete(database, _REVOCATIONS, before=now - DONE_KEPT)


async def _forget(database: Database, kind: _Kind, *, before: int, more: Mapping[str, Value] | None = None) -> int:
    which: dict[str, Value] = {"tenant": TENANT, "before": before, "batch": kind.batch, **(more or {})}
    total, count = 0, kind.batch
    while count == kind.batch:
        async with database.transaction(patient=True) as transaction:
            keys = [{"tenant": TENANT, "id": text(row, "id")} for row in await transaction.fetch(kind.chosen, which)]
            for statement in kind.deleted if keys else ():
                await transaction.execute_many(statement, keys)
        count = len(keys)
        total += count
    return total


async def _delete(database: Database, sql: str, *, before: int) -> int:
    which = {"tenant": TENANT, "before": before, "batch": SWEEP_BATCH}
    total, count = 0, SWEEP_BATCH
    while count == SWEEP_BATCH:
        async with database.transaction(patient=True) as transaction:
            count = await transaction.execute(sql, which)
        total += count
    return total

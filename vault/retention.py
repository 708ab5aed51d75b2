"""Forgetting connections, grants and permissions that ended long ago; what happened with them is in the activity.

A connection whose revocation at its provider is still due stays, and so does a grant that another one stands on.
"""

from __future__ import annotations

from vault.database import SWEEP_BATCH, Transaction, text
from vault.records import TENANT

_CONNECTIONS = """
    select k.id from connections k
    where k.tenant = :tenant and k.ended_at is not null and k.ended_at <= :before and not exists (
        select 1 from upstream_revocations r
        where r.tenant = k.tenant and r.connection_id = k.id and r.done_at is null
    )
    limit :batch
"""
_OF_CONNECTION = (
    "delete from narrowed_tokens where tenant = :tenant and connection_id = :id",
    "delete from intents where tenant = :tenant and connection_id = :id",
    "delete from delegations where tenant = :tenant and connection_id = :id",
    "delete from upstream_revocations where tenant = :tenant and connection_id = :id",
    "delete from keys.connection_keys where tenant = :tenant and connection_id = :id",
    "delete from connections where tenant = :tenant and id = :id",
)
_GRANTS = """
    select g.id from grants g
    where g.tenant = :tenant and g.revoked_at is not null and g.revoked_at <= :before and not exists (
        select 1 from grants d where d.tenant = g.tenant and d.derived_from = g.id and d.revoked_at is null
    )
    limit :batch
"""
_OF_GRANT = (
    "delete from refresh_tokens where tenant = :tenant and grant_id = :id",
    "delete from grants where tenant = :tenant and id = :id",
)
_DELEGATIONS = """
    delete from delegations where (tenant, user_id, client_id, connection_id) in (
        select tenant, user_id, client_id, connection_id from delegations
        where tenant = :tenant and revoked_at is not null and revoked_at <= :before limit :batch
    )
"""


async def forget_ended(transaction: Transaction, *, before: int) -> int:
    """Forget what ended at `before` or earlier, at most a batch of each kind; the largest number of one kind."""
    which = {"tenant": TENANT, "before": before, "batch": SWEEP_BATCH}
    counts: list[int] = []
    for chosen, statements in ((_CONNECTIONS, _OF_CONNECTION), (_GRANTS, _OF_GRANT)):
        keys = [{"tenant": TENANT, "id": text(row, "id")} for row in await transaction.fetch(chosen, which)]
        counts.append(len(keys))
        if keys:
            for statement in statements:
                await transaction.execute_many(statement, keys)
    counts.append(await transaction.execute(_DELEGATIONS, which))
    return max(counts)

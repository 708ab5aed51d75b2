"""Grants that a client holds by another's token, or by a proof of its own, instead of a consent (RFC 8693).

Such a grant ends with the one behind that token, shows among the person's agents, and allows nothing without a
delegation. Ending them is `vault.grants`, verifying what they stand on `server.oauth.subjects`.
"""

from __future__ import annotations

from collections.abc import Mapping

from vault import audit, grants, revoked_tokens
from vault.database import Database, Reader, Transaction, Value
from vault.grants import grant_from
from vault.records import TENANT, Event, Grant


async def derived_grant(
    database: Database,
    *,
    user_id: str,
    client_id: str,
    derived_from: str,
    scopes: frozenset[str],
    resource: str,
    now: int,
) -> Grant:
    """The live grant that this client holds for this user by `derived_from`, made at the first time.

    `derived_from` is the id of the grant it ends with, or names what stands for one: it then holds a colon.
    Raises GrantEnded.
    """
    which: Mapping[str, Value] = {
        "tenant": TENANT,
        "user_id": user_id,
        "client_id": client_id,
        "derived_from": derived_from,
        "resource": resource,
    }
    if (held := await _find_derived(database, which)) is not None:
        return held
    async with database.transaction() as transaction:
        if (held := await _find_derived(transaction, which)) is not None:
            return held
        grant = await grants.create_grant(
            transaction,
            user_id=user_id,
            client_id=client_id,
            scopes=scopes,
            resource=resource,
            redirect_uri="",
            now=now,
        )
        await transaction.execute(
            "update grants set derived_from = :derived_from where tenant = :tenant and id = :id",
            {"tenant": TENANT, "id": grant.id, "derived_from": derived_from},
        )
        if ":" not in derived_from:
            await revoked_tokens.inherit(transaction, grant.id, derived_from=derived_from)
        await audit.append(transaction, _derived_event(grant, derived_from), now=now)
    return grant


def _derived_event(grant: Grant, derived_from: str) -> Event:
    return Event(
        kind="grant.derived",
        user_id=grant.user_id,
        client_id=grant.client_id,
        details={
            "grant": grant.id,
            "scopes": sorted(grant.scopes),
            "resource": grant.resource,
            "derived_from": derived_from,
        },
    )


async def _find_derived(reader: Reader, which: Mapping[str, Value]) -> Grant | None:
    rows = await reader.look_up(
        "select id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason"
        " from grants where tenant = :tenant and user_id = :user_id and client_id = :client_id"
        " and derived_from = :derived_from and resource = :resource and revoked_at is null"
        " order by created_at, id limit 1",
        which,
    )
    return grant_from(rows[0]) if rows else None


async def revoke_derived_grants(
    transaction: Transaction, *, client_id: str, resource: str, reason: str, now: int
) -> tuple[Grant, ...]:
    """End every grant that a client derived from tokens for a resource, of all users."""
    rows = await transaction.fetch(
        "update grants set revoked_at = :now, revoked_reason = :reason"
        " where tenant = :tenant and client_id = :client_id and resource = :resource and derived_from <> :nothing"
        " and revoked_at is null"
        " returning id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason",
        {
            "tenant": TENANT,
            "client_id": client_id,
            "resource": resource,
            "nothing": "",
            "now": now,
            "reason": reason,
        },
    )
    return await grants.ended_with(transaction, rows, now=now)

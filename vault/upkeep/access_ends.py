"""End what access requests allowed: undo its effects elsewhere, and record the end in the activity. An exchange doesn't
wait for this: it ignores a permission that has ended, or whose person has left the group. Tokens that a company's
assertions got are ended here. `vault.approvals.access_requests` has the records.
"""

from __future__ import annotations

from typing import Final

from vault import company_access, company_permissions, delegations, grants, groups
from vault.approvals import access_requests
from vault.approvals.access_requests import MEMBERSHIP, AccessRequest, AccessState, Kind
from vault.audit import audit
from vault.records import TENANT, Event
from vault.storage.database import SWEEP_BATCH, Database, Row, Transaction, Value, integer_or_none, text

_OVER: Final = """
    select id from access_requests where tenant = :tenant and state = :state and expires_at <= :now limit :limit
"""
_STOPPED: Final = "select id from access_requests where tenant = :tenant and state = 4 limit :limit"
# Requests that can't be used anymore because their basis ended, for any reason.
_ORPHANED: Final = """
    select r.id, c.removed_at, k.ended_at, d.revoked_at
    from access_requests r
    left join clients c on c.tenant = r.tenant and c.id = r.client_id
    left join connections k on k.tenant = r.tenant and k.id = r.target
    left join delegations d on d.tenant = r.tenant and d.user_id = r.user_id and d.client_id = r.client_id
        and d.connection_id = r.target
    where r.tenant = :tenant and r.state = 2 and (c.removed_at is not null or k.ended_at is not null
        or d.revoked_at is not null or (r.group_id <> :nothing and (
            select count(*) from memberships m
            where m.tenant = r.tenant and m.group_id = r.group_id and m.user_id = r.user_id
                and (m.expires_at is null or m.expires_at > :now)
        ) = 0))
"""
_ORPHANS: Final = f"{_ORPHANED} limit :limit"
_ORPHAN: Final = f"{_ORPHANED} and r.id = :id"


async def end_over(database: Database) -> int:
    """End what is over, batch after batch; returns how many."""
    ended = 0
    while True:
        found = await _find_over(database)
        done = [await _end_one(database, one) for one in found]
        ended += sum(done)
        if len(found) < SWEEP_BATCH or not any(done):
            return ended


async def _find_over(database: Database) -> list[str]:
    values: dict[str, Value] = {"tenant": TENANT, "now": database.now(), "limit": SWEEP_BATCH}
    rows = [
        *await database.fetch(_OVER, values | {"state": AccessState.PENDING.value}),
        *await database.fetch(_OVER, values | {"state": AccessState.ALLOWED.value}),
        *await database.fetch(_STOPPED, values),
        *await database.fetch(_ORPHANS, values | {"nothing": ""}),
    ]
    return list(dict.fromkeys(text(row, "id") for row in rows))


async def _end_one(database: Database, request_id: str) -> bool:
    async with database.transaction() as transaction:
        request = await access_requests.hold(transaction, request_id)
        now = database.now()
        if request is None or (reason := await _why_over(transaction, request, now=now)) is None:
            return False
        return await end(transaction, request, reason=reason, now=now)


async def _why_over(transaction: Transaction, request: AccessRequest, *, now: int) -> str | None:
    """The request, locked and read again; None if the access continues."""
    if request.state is AccessState.ENDING or (request.is_open and now >= request.expires_at):
        return "unanswered" if request.decided_at is None else "time"
    row = await transaction.fetch_one(_ORPHAN, {"tenant": TENANT, "now": now, "id": request.id, "nothing": ""})
    return None if row is None else _reason(row)


def _reason(row: Row) -> str:
    for column, reason in (
        ("removed_at", "agent_removed"),
        ("ended_at", "account_ended"),
        ("revoked_at", "permission_ended"),
    ):
        if integer_or_none(row, column) is not None:
            return reason
    return "left_group"


async def end(
    transaction: Transaction, request: AccessRequest, *, reason: str, by: str = "", via: str = "", now: int
) -> bool:
    """End a locked request, or what it gave, and record it. False when it is already over.

    `by` is the name of the person who ends it; for a program, `via` is the agent's name.
    """
    if not await access_requests.end(transaction, request, reason=reason, now=now):
        return False
    is_given = request.decided_at is not None
    if is_given:
        await _undo(transaction, request, now=now)
    details: dict[str, object] = {**facts_of(request), "reason": request.ended_reason or reason}
    details |= {name: value for name, value in (("by", by), ("via", via)) if value}
    await audit.append(
        transaction, event_of(request, "permission.ended" if is_given else "permission.over", details), now=now
    )
    return True


async def _undo(transaction: Transaction, request: AccessRequest, *, now: int) -> None:
    access = request.access
    which = {"user_id": access.user_id, "client_id": access.client_id}
    match access.kind:
        case Kind.GROUP:
            await groups.remove_member(transaction, access.group_id, access.user_id, source=MEMBERSHIP)
        case Kind.COMPANY:
            await take_company_back(transaction, request, now=now)
        case Kind.ACCOUNT:  # the exchange checks the row itself
            allowed = await delegations.get(transaction, **which, connection_id=access.target)
            has_end = allowed is not None and allowed.expires_at is not None  # otherwise the person chose it
            if request.made_permission and has_end:
                await delegations.expire(transaction, **which, connection_id=access.target, now=now)


async def take_company_back(transaction: Transaction, request: AccessRequest, *, now: int) -> None:
    """Remove what a company gave this agent; its next assertion gives what is allowed then."""
    access = request.access
    which = {"user_id": access.user_id, "client_id": access.client_id, "company": access.target}
    if await company_permissions.get(transaction, **which) is None:
        return  # the agent never came
    held = await company_permissions.hold(transaction, **which, now=now)
    await grants.revoke_company_grants(transaction, **which, now=now)
    await company_permissions.save(transaction, await company_access.take_back(transaction, held, now=now))


def facts_of(request: AccessRequest) -> dict[str, object]:
    """The event details of a request, without the names that the caller knows."""
    access = request.access
    return {"request": request.id, "kind": access.kind.value, "scopes": sorted(access.scopes), **_target_of(request)}


def _target_of(request: AccessRequest) -> dict[str, object]:
    return {"company": request.access.target} if request.access.kind is Kind.COMPANY else {}


def event_of(request: AccessRequest, kind: str, details: dict[str, object]) -> Event:
    """An event in the activity of the requester."""
    access = request.access
    return Event(
        kind,
        user_id=access.user_id,
        client_id=access.client_id or None,
        connection_id=access.target if access.kind is Kind.ACCOUNT else None,
        details=details,
    )

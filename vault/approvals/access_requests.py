"""Access requests: a person asks for access that only others can give, and the answer is a permission with an end.

`PENDING -> ALLOWED | DENIED | ENDED`, `ALLOWED -> ENDED`; `ENDING` gives no access anymore; `vault.upkeep.access_ends`
has yet to record its end and to revoke the tokens that a company's assertions got. The row is the permission: an
exchange reads it with the account (`vault.refresh.accounts`), an assertion of a company with its rules. The server
decides who may ask and answer. Writing functions record no event: the caller appends it last.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Final

from vault.classes.immutable import immutable
from vault.records import DAY, TENANT, format_scope, new_id, parse_scope
from vault.refusals import TemporarilyUnavailable, TransitionRefused
from vault.storage.database import (
    SWEEP_BATCH,
    Reader,
    Row,
    Transaction,
    Value,
    fetch_count,
    integer,
    integer_or_none,
    text,
    text_or_none,
)

MOST_OPEN: Final = 10  # open requests of one person
ANSWER_LIFETIME: Final = 7 * DAY  # seconds in which someone can answer
MEMBERSHIP: Final = "request"  # source of a group membership that came from a request
KEPT: Final = 90 * DAY  # seconds after the end
LISTED: Final = 200

_COLUMNS: Final = """
    id, user_id, client_id, kind, target, group_id, scopes, reason, lifetime, filed_by, state, created_at, expires_at,
    decided_at, decided_by, answer, made_permission, ended_at, ended_reason, confirmed_at
"""
_SELECT = """
    select id, user_id, client_id, kind, target, group_id, scopes, reason, lifetime, filed_by, state, created_at,
        expires_at, decided_at, decided_by, answer, made_permission, ended_at, ended_reason, confirmed_at
    from access_requests where tenant = :tenant
"""
_SAME: Final = "user_id = :user_id and client_id = :client_id and kind = :kind and target = :target"
_INSERT: Final = f"""
    insert into access_requests (tenant, id, user_id, client_id, kind, target, group_id, scopes, reason, lifetime,
        filed_by, state, created_at, expires_at, confirmed_at)
    values (:tenant, :id, :user_id, :client_id, :kind, :target, :group_id, :scopes, :reason, :lifetime, :filed_by,
        1, :now, :expires_at, :confirmed_at)
    on conflict (tenant, user_id, client_id, kind, target) where state = 1 do nothing
    returning {_COLUMNS}
"""  # noqa: S608 -- names of columns
_DECIDE: Final = """
    update access_requests set state = :state, decided_at = :now, decided_by = :by, answer = :answer, scopes = :scopes,
        expires_at = :expires_at, made_permission = :made_permission, ended_at = :ended_at
    where tenant = :tenant and id = :id and state = 1 and expires_at > :now
"""
_END: Final = """
    update access_requests set state = 5, ended_at = coalesce(ended_at, :now),
        ended_reason = coalesce(ended_reason, :reason)
    where tenant = :tenant and id = :id and state in (1, 2, 4)
"""
_NARROW: Final = """
    update access_requests set scopes = :scopes, expires_at = :expires_at, made_permission = :made
    where tenant = :tenant and id = :id and state = 2 and expires_at > :now and expires_at >= :expires_at
"""
_CONFIRM: Final = """
    update access_requests set confirmed_at = :now
    where tenant = :tenant and id = :id and state in (1, 2) and expires_at > :now and confirmed_at is null
"""
_STOP_OF_ASKER: Final = """
    update access_requests set state = 4, ended_at = :now, ended_reason = :reason
    where tenant = :tenant and user_id = :user_id and state in (1, 2)
    returning user_id, client_id, kind, target, decided_at, made_permission
"""
_STOP_OF_APPROVER: Final = """
    update access_requests set state = 4, ended_at = :now, ended_reason = :reason
    where tenant = :tenant and decided_by = :user_id and state = 2
    returning user_id, client_id, kind, target, decided_at, made_permission
"""
_LEAVE: Final = """
    delete from memberships
    where tenant = :tenant and group_id = :target and user_id = :user_id and source = :source
"""
_TAKE_MADE: Final = """
    update delegations set revoked_at = :now, changed_at = :now
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and connection_id = :target
        and revoked_at is null
"""


class AccessState(IntEnum):
    """As stored; numbers, so that indexes can name them."""

    PENDING = 1
    ALLOWED = 2
    DENIED = 3
    ENDING = 4
    ENDED = 5


class Kind(StrEnum):
    """What the person requests; the target is a connection, a group, or a company's name in the settings."""

    ACCOUNT = "account"
    GROUP = "group"
    COMPANY = "company"


@immutable
class RequestedAccess:
    """What a person asks for. `client_id` is empty for a group's accounts, which the person then allows agents.

    `scopes`: for an account, those requested; for a company, the names of the rules that were applied.
    """

    user_id: str
    client_id: str
    kind: Kind
    target: str
    group_id: str
    scopes: frozenset[str]
    reason: str
    lifetime: int  # seconds from the answer
    filed_by: str = "person"  # or "agent"


@immutable
class AccessRequest:
    """A request and its outcome. `expires_at` ends the question or, once allowed, the permission.

    `decided_by` is a person's ID, empty for a local command; `made_permission`: the approval also allowed the agent to
    use the account. A request that an agent filed gives no access while `confirmed_at` is None.
    """

    id: str
    access: RequestedAccess
    state: AccessState
    created_at: int
    expires_at: int
    decided_at: int | None
    decided_by: str | None
    answer: str
    made_permission: bool
    ended_at: int | None
    ended_reason: str | None
    confirmed_at: int | None

    @property
    def is_open(self) -> bool:
        """Not refused, stopped, or ended."""
        return self.state in {AccessState.PENDING, AccessState.ALLOWED}

    def status(self, now: int) -> str:
        """`pending`, `allowed`, `denied`, or `ended`; a request that no one answered in time has ended."""
        is_over = self.state is AccessState.ENDING or (self.is_open and now >= self.expires_at)
        return "ended" if is_over else self.state.name.lower()

    def is_pending(self, now: int) -> bool:
        return self.status(now) == "pending"

    def is_allowed(self, now: int) -> bool:
        return self.status(now) == "allowed"


async def ask(transaction: Transaction, access: RequestedAccess, *, now: int) -> tuple[AccessRequest, bool]:
    """The open request, and whether it is new: a person has one open request at a time for the same thing.

    Raises TemporarilyUnavailable when the person has `MOST_OPEN` open requests.
    """
    await transaction.execute(
        f"update access_requests set state = 4 where tenant = :tenant and {_SAME} and state = 1"  # noqa: S608
        " and expires_at <= :now",
        {"tenant": TENANT, **_same(access), "now": now},
    )
    known = await transaction.fetch_one(f"{_SELECT} and {_SAME} and state = 1", {"tenant": TENANT, **_same(access)})
    if known is not None:
        return _request(known), False
    if await count_open(transaction, access.user_id, now=now) >= MOST_OPEN:
        raise TemporarilyUnavailable(
            f"{MOST_OPEN} of your requests are waiting for an answer: wait, or withdraw one.", retry_after=3600
        )
    row = await transaction.fetch_one(
        _INSERT,
        {
            "tenant": TENANT,
            "id": new_id(),
            **_same(access),
            "group_id": access.group_id,
            "scopes": format_scope(access.scopes),
            "reason": access.reason,
            "lifetime": access.lifetime,
            "filed_by": access.filed_by,
            "now": now,
            "expires_at": now + ANSWER_LIFETIME,
            "confirmed_at": None if access.filed_by == "agent" else now,
        },
    )
    if row is None:  # the same request was stored concurrently
        raise TemporarilyUnavailable("This is being requested right now.", retry_after=1)
    return _request(row), True


async def find_waiting(
    reader: Reader, *, user_id: str, client_id: str, kind: Kind, target: str, now: int
) -> AccessRequest | None:
    """This person's and agent's request for this target that is open, or is allowed and not confirmed by the person."""
    row = await reader.fetch_one(
        f"{_SELECT} and {_SAME} and (state = 1 or (state = 2 and confirmed_at is null)) and expires_at > :now"
        " order by state limit 1",
        {
            "tenant": TENANT,
            "user_id": user_id,
            "client_id": client_id,
            "kind": kind.value,
            "target": target,
            "now": now,
        },
    )
    return None if row is None else _request(row)


async def count_open(reader: Reader, user_id: str, *, now: int) -> int:
    """How many requests of this person wait for an answer."""
    return await fetch_count(
        reader,
        "select count(*) as n from access_requests where tenant = :tenant and user_id = :user_id"
        " and state = 1 and expires_at > :now",
        {"tenant": TENANT, "user_id": user_id, "now": now},
    )


async def get(reader: Reader, request_id: str) -> AccessRequest | None:
    """The request with this id, of anyone and in any state."""
    row = await reader.fetch_one(f"{_SELECT} and id = :id", {"tenant": TENANT, "id": request_id})
    return None if row is None else _request(row)


async def hold(transaction: Transaction, request_id: str) -> AccessRequest | None:
    """The request, locked until the transaction ends."""
    row = await transaction.fetch_one(
        f"update access_requests set state = state where tenant = :tenant and id = :id returning {_COLUMNS}",  # noqa: S608
        {"tenant": TENANT, "id": request_id},
    )
    return None if row is None else _request(row)


async def list_of_person(reader: Reader, user_id: str) -> tuple[AccessRequest, ...]:
    """This person's requests, newest first."""
    rows = await reader.fetch(
        f"{_SELECT} and user_id = :user_id order by created_at desc, id limit :limit",
        {"tenant": TENANT, "user_id": user_id, "limit": LISTED},
    )
    return tuple(map(_request, rows))


async def list_newest(reader: Reader, *, now: int) -> tuple[AccessRequest, ...]:
    """The newest requests of everyone, in any state."""
    rows = await reader.fetch(
        f"{_SELECT} and created_at > :since order by created_at desc, id limit :limit",
        {"tenant": TENANT, "since": now - KEPT, "limit": LISTED},
    )
    return tuple(map(_request, rows))


async def list_pending(reader: Reader, *, now: int, manager: str = "") -> tuple[AccessRequest, ...]:
    """The open requests of everyone, or of the groups of this manager (a person's ID), oldest first."""
    of_groups = " and group_id in (select group_id from group_managers where tenant = :tenant and user_id = :manager)"
    rows = await reader.fetch(
        f"{_SELECT} and state = 1 and expires_at > :now{of_groups if manager else ''}"
        " order by expires_at, id limit :limit",
        {"tenant": TENANT, "now": now, "limit": LISTED, **({"manager": manager} if manager else {})},
    )
    return tuple(map(_request, rows))


async def allow(
    transaction: Transaction,
    request: AccessRequest,
    *,
    by: str,
    scopes: frozenset[str],
    expires_at: int,
    answer: str = "",
    made_permission: bool = False,
    now: int,
) -> AccessRequest | None:
    """Turn the request into the permission; returns the permission that it replaces, which has no effect anymore.

    Raises TransitionRefused when it was answered, or is over.
    """
    before = await find_allowed(transaction, request.access)
    if before is not None:
        await transaction.execute(
            "update access_requests set state = 5, ended_at = :now, ended_reason = :reason"
            " where tenant = :tenant and id = :id",
            {"tenant": TENANT, "id": before.id, "now": now, "reason": "replaced"},
        )
    facts: dict[str, Value] = {"scopes": format_scope(scopes), "expires_at": expires_at, "ended_at": None}
    made = made_permission or (before is not None and before.made_permission)
    await _decide(
        transaction, request, AccessState.ALLOWED, {**facts, "made_permission": int(made)}, by, answer, now=now
    )
    return before


async def deny(transaction: Transaction, request: AccessRequest, *, by: str, answer: str = "", now: int) -> None:
    """Raises TransitionRefused when it was answered, or is over."""
    facts: dict[str, Value] = {
        "scopes": format_scope(request.access.scopes),
        "expires_at": request.expires_at,
        "ended_at": now,
        "made_permission": 0,
    }
    await _decide(transaction, request, AccessState.DENIED, facts, by, answer, now=now)


async def _decide(
    transaction: Transaction,
    request: AccessRequest,
    state: AccessState,
    facts: dict[str, Value],
    by: str,
    answer: str,
    *,
    now: int,
) -> None:
    values: dict[str, Value] = {"tenant": TENANT, "id": request.id, "by": by, "answer": answer, "now": now}
    if await transaction.execute(_DECIDE, {**values, "state": state.value, **facts}) != 1:
        raise TransitionRefused("This request was already answered, or is over.", detail="the request isn't pending")


async def find_allowed(reader: Reader, access: RequestedAccess) -> AccessRequest | None:
    """The same person's earlier permission for the same target."""
    row = await reader.fetch_one(f"{_SELECT} and {_SAME} and state = 2", {"tenant": TENANT, **_same(access)})
    return None if row is None else _request(row)


async def company_rules(reader: Reader, *, client_id: str, company: str, now: int) -> dict[str, AccessRequest]:
    """The requests that let this agent in for a person of this company, by the person's ID."""
    rows = await reader.fetch(
        f"{_SELECT} and client_id = :client_id and kind = :kind and target = :company and state = 2"
        " and expires_at > :now",
        {"tenant": TENANT, "client_id": client_id, "company": company, "kind": Kind.COMPANY.value, "now": now},
    )
    return {one.access.user_id: one for one in map(_request, rows)}


async def confirm(transaction: Transaction, request: AccessRequest, *, now: int) -> None:
    """Confirm what the person's agent asked for. Raises TransitionRefused when it is already confirmed, or over."""
    if await transaction.execute(_CONFIRM, {"tenant": TENANT, "id": request.id, "now": now}) != 1:
        raise TransitionRefused(
            "This request was already confirmed, or is over.", detail="the request doesn't wait for a confirmation"
        )


async def narrow(
    transaction: Transaction, request: AccessRequest, *, scopes: frozenset[str], expires_at: int, now: int
) -> None:
    """Narrow what was allowed, or end it earlier. Raises TransitionRefused when it is over or would grow."""
    values: dict[str, Value] = {
        "tenant": TENANT,
        "id": request.id,
        "scopes": format_scope(scopes),
        "expires_at": expires_at,
        "made": int(request.made_permission),
        "now": now,
    }
    if not scopes <= request.access.scopes or await transaction.execute(_NARROW, values) != 1:
        raise TransitionRefused(
            "This permission has ended, or the change would widen it.",
            detail="the change isn't narrower than the permission",
        )


async def end(transaction: Transaction, request: AccessRequest, *, reason: str, now: int) -> bool:
    """Withdraw an open request, or end what was allowed. False when it is over already."""
    values = {"tenant": TENANT, "id": request.id, "reason": reason, "now": now}
    return await transaction.execute(_END, values) == 1


async def stop_of_person(transaction: Transaction, user_id: str, *, reason: str, now: int) -> None:
    """For a person who is disabled: what they requested and what they allowed has no effect from now on."""
    values = {"tenant": TENANT, "user_id": user_id, "reason": reason, "now": now}
    await _take_given(transaction, await transaction.fetch(_STOP_OF_ASKER, values), now=now)
    stopped = await transaction.fetch(_STOP_OF_APPROVER, values | {"reason": f"approver_{reason}"})
    await _take_given(transaction, stopped, now=now)


async def _take_given(transaction: Transaction, stopped: Sequence[Row], *, now: int) -> None:
    """Remove access that requests gave outside of their own rows, which no one reads anymore."""
    for row in stopped:
        which: dict[str, Value] = {"tenant": TENANT, "user_id": text(row, "user_id"), "target": text(row, "target")}
        if text(row, "kind") == Kind.GROUP.value and integer_or_none(row, "decided_at") is not None:
            await transaction.execute(_LEAVE, which | {"source": MEMBERSHIP})
        if integer(row, "made_permission"):
            await transaction.execute(_TAKE_MADE, which | {"client_id": text(row, "client_id"), "now": now})


async def stop_of_client(transaction: Transaction, client_id: str, *, now: int) -> None:
    """For an agent that is removed: if the agent comes back, none of its requests come back with it."""
    await transaction.execute(
        "update access_requests set state = 4, ended_at = :now, ended_reason = :reason"
        " where tenant = :tenant and client_id = :client_id and state in (1, 2)",
        {"tenant": TENANT, "client_id": client_id, "reason": "agent_removed", "now": now},
    )


async def forget_person(transaction: Transaction, user_id: str, *, now: int) -> None:
    """For a person who is deleted: delete their requests, and end what they allowed others."""
    which = {"tenant": TENANT, "user_id": user_id}
    await transaction.execute("delete from access_requests where tenant = :tenant and user_id = :user_id", which)
    stopped = await transaction.fetch(_STOP_OF_APPROVER, which | {"reason": "approver_deleted", "now": now})
    await _take_given(transaction, stopped, now=now)
    await transaction.execute("delete from group_managers where tenant = :tenant and user_id = :user_id", which)


async def sweep(transaction: Transaction, *, now: int) -> int:
    """Delete requests that ended long ago, at most one batch; the activity keeps a record of them."""
    return await transaction.execute(
        "delete from access_requests where tenant = :tenant and id in (select id from access_requests"
        " where tenant = :tenant and state in (3, 5) and ended_at <= :before limit :batch)",
        {"tenant": TENANT, "before": now - KEPT, "batch": SWEEP_BATCH},
    )


# Group managers


async def managers(reader: Reader, group_id: str) -> frozenset[str]:
    """The IDs of the people who manage this group, in addition to administrators."""
    rows = await reader.fetch(
        "select m.user_id from group_managers m join users u on u.tenant = m.tenant and u.id = m.user_id"
        " where m.tenant = :tenant and m.group_id = :group_id and u.disabled_at is null",
        {"tenant": TENANT, "group_id": group_id},
    )
    return frozenset(text(row, "user_id") for row in rows)


async def managed_by(reader: Reader, user_id: str) -> frozenset[str]:
    """The IDs of the groups that this person manages."""
    rows = await reader.fetch(
        "select group_id from group_managers where tenant = :tenant and user_id = :user_id",
        {"tenant": TENANT, "user_id": user_id},
    )
    return frozenset(text(row, "group_id") for row in rows)


async def set_manager(transaction: Transaction, group_id: str, user_id: str, *, is_manager: bool, now: int) -> bool:
    """Make a person a manager of the group, or stop that. False when nothing changes."""
    values: dict[str, Value] = {"tenant": TENANT, "group_id": group_id, "user_id": user_id}
    if not is_manager:
        statement = "delete from group_managers where tenant = :tenant and group_id = :group_id and user_id = :user_id"
        return await transaction.execute(statement, values) == 1
    statement = (
        "insert into group_managers (tenant, group_id, user_id, created_at) values (:tenant, :group_id, :user_id, :now)"
        " on conflict (tenant, user_id, group_id) do nothing"
    )
    return await transaction.execute(statement, values | {"now": now}) == 1


def _same(access: RequestedAccess) -> dict[str, Value]:
    return {
        "user_id": access.user_id,
        "client_id": access.client_id,
        "kind": access.kind.value,
        "target": access.target,
    }


def _request(row: Row) -> AccessRequest:
    access = RequestedAccess(
        user_id=text(row, "user_id"),
        client_id=text(row, "client_id"),
        kind=Kind(text(row, "kind")),
        target=text(row, "target"),
        group_id=text(row, "group_id"),
        scopes=parse_scope(text(row, "scopes")),
        reason=text(row, "reason"),
        lifetime=integer(row, "lifetime"),
        filed_by=text(row, "filed_by"),
    )
    return AccessRequest(
        text(row, "id"),
        access,
        AccessState(integer(row, "state")),
        integer(row, "created_at"),
        integer(row, "expires_at"),
        integer_or_none(row, "decided_at"),
        text_or_none(row, "decided_by"),
        text(row, "answer"),
        integer(row, "made_permission") == 1,
        integer_or_none(row, "ended_at"),
        text_or_none(row, "ended_reason"),
        integer_or_none(row, "confirmed_at"),
    )

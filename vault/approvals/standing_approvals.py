"""Standing approvals: a person allows a tool, account, and target in advance, for some calls a day until an end.

The target is what the tool binds of its arguments, such as the channel or the recipients' domains; everything else may
differ from call to call. One conditional statement takes a use, so that concurrent calls never share one. A
standing approval lives only under a live delegation, and `vault.delegations` deletes it before a new one begins.
`vault.exchange` decides whether a call may use one. Writing functions record no event: the caller appends it last.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import field
from typing import Final, TypeGuard

import rfc8785

from vault.classes.immutable import immutable
from vault.envelope import Context, open_sealed, seal
from vault.keys.key_ring import KeyRing
from vault.records import DAY, TENANT
from vault.refusals import ScopeRefused, StorageUnavailable, TransitionRefused
from vault.storage.database import (
    SWEEP_BATCH,
    Reader,
    Row,
    Transaction,
    Value,
    binary,
    fetch_count,
    integer,
    integer_or_none,
    text,
)

MOST_PER_DAY: Final = 100  # calls
MOST_DAYS: Final = 90
ANSWERS_KEPT: Final = 30 * DAY  # seconds in which equal answers add up to a suggestion
_KEY: Final = "approvals"

_LIVE_DELEGATION: Final = """exists (
        select 1 from delegations d
        where d.tenant = s.tenant and d.user_id = s.user_id and d.client_id = s.client_id
            and d.connection_id = s.connection_id and d.revoked_at is null
            and (d.expires_at is null or d.expires_at > :now)
    )"""
_SELECT: Final = """
    select s.user_id, s.client_id, s.connection_id, s.id, s.tool, s.payload, s.per_day, s.day, s.used, s.created_at,
        s.expires_at, s.revoked_at
    from standing_approvals s where s.tenant = :tenant and s.user_id = :user_id
"""
# `+ 0` makes SQLite use the index by person; the index by end time would read everyone's approvals.
_LIST: Final = f"""
    {_SELECT} and s.revoked_at is null and s.expires_at + 0 > :now and {_LIVE_DELEGATION} order by s.created_at, s.id
"""
_GET: Final = f"{_SELECT} and s.id = :id"
_THIS: Final = """tenant = :tenant and user_id = :user_id and client_id = :client_id
        and connection_id = :connection_id and digest = :digest"""
# A new approval of the same target keeps today's count, so that it doesn't allow the day's calls a second time.
_GIVE: Final = """
    insert into standing_approvals (tenant, user_id, client_id, connection_id, digest, id, tool, payload, per_day, day,
        used, created_at, expires_at)
    values (:tenant, :user_id, :client_id, :connection_id, :digest, :id, :tool, :payload, :per_day, :day, 0, :now,
        :expires_at)
    on conflict (tenant, user_id, client_id, connection_id, digest) do update set
        id = excluded.id, payload = excluded.payload, per_day = excluded.per_day, created_at = excluded.created_at,
        expires_at = excluded.expires_at, revoked_at = null
"""
_SPEND: Final = f"""
    update standing_approvals as s set used = case when s.day = :day then s.used + 1 else 1 end, day = :day
    where s.tenant = :tenant and s.user_id = :user_id and s.client_id = :client_id
        and s.connection_id = :connection_id and s.digest = :digest and s.revoked_at is null and s.expires_at > :now
        and (s.day < :day or (s.day = :day and s.used < s.per_day)) and {_LIVE_DELEGATION}
    returning id, used, per_day
"""  # noqa: S608 -- our own texts
_IS_LIVE: Final = f"""
    select s.id from standing_approvals s
    where s.tenant = :tenant and s.id = :id and s.revoked_at is null and s.expires_at > :now and {_LIVE_DELEGATION}
"""  # noqa: S608 -- our own texts
_COUNT: Final = """
    select count(*) as n from standing_approvals where tenant = :tenant and expires_at > :now and revoked_at is null
"""
_REVOKE: Final = """
    update standing_approvals set revoked_at = :now
    where tenant = :tenant and user_id = :user_id and id = :id and revoked_at is null
"""
_REVOKE_OF_TOOL: Final = """
    update standing_approvals set revoked_at = :now
    where tenant = :tenant and expires_at > :now and tool = :tool and revoked_at is null
"""
_GIVE_BACK: Final = f"""
    update standing_approvals as s set revoked_at = null
    where s.tenant = :tenant and s.user_id = :user_id and s.id = :id and s.revoked_at = :revoked_at
        and s.expires_at > :now and {_LIVE_DELEGATION}
"""  # noqa: S608 -- our own texts
_COUNT_YES: Final = """
    insert into approval_answers (tenant, user_id, client_id, connection_id, digest, approved, changed_at)
    values (:tenant, :user_id, :client_id, :connection_id, :digest, 1, :now)
    on conflict (tenant, user_id, client_id, connection_id, digest) do update set
        approved = case when approval_answers.changed_at > :since then approval_answers.approved + 1 else 1 end,
        changed_at = excluded.changed_at
"""


@immutable
class Binding:
    """What a standing approval covers: the person, agent, tool, account, and target."""

    user_id: str
    client_id: str
    connection_id: str
    tool: str
    target: Mapping[str, object]

    @property
    def digest(self) -> bytes:
        """Identifies it. Raises ScopeRefused when the target has no canonical form (RFC 8785)."""
        bound = {
            "client": self.client_id,
            "connection": self.connection_id,
            "target": dict(self.target),
            "tool": self.tool,
            "user": self.user_id,
        }
        return canonical_digest(bound, "These arguments can't be approved in advance.")


def canonical_digest(bound: Mapping[str, object], refusal: str) -> bytes:
    """SHA-256 of the canonical JSON (RFC 8785) of what a person approves. Raises ScopeRefused when it has none."""
    try:
        return hashlib.sha256(rfc8785.dumps(bound)).digest()  # pyright: ignore[reportArgumentType] -- checked by dumps
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise ScopeRefused(refusal, missing=frozenset()) from error


@immutable
class StandingApproval:
    """Allows `per_day` calls on each day (UTC) until `expires_at`; `used` of them were used on the day number `day`."""

    id: str
    user_id: str
    client_id: str
    connection_id: str
    tool: str
    target: Mapping[str, object] = field(repr=False)
    provider: str
    account: str  # the account's display name
    names: Mapping[str, str]  # names for the IDs in the target, as known when the person chose
    per_day: int
    day: int
    used: int
    created_at: int
    expires_at: int
    revoked_at: int | None

    def used_today(self, now: int) -> int:
        """Calls used on this day (UTC)."""
        return self.used if self.day == now // DAY else 0


@immutable
class StandingUse:
    """One call that a standing approval allowed: the `used`th of `per_day` on that day."""

    id: str
    used: int
    per_day: int


async def give(
    transaction: Transaction,
    ring: KeyRing,
    *,
    binding: Binding,
    provider: str,
    account: str,
    names: Mapping[str, str],
    per_day: int,
    expires_at: int,
    now: int,
) -> str:
    """Store the person's approval, replacing an earlier one for the same target; returns its ID.

    Raises TransitionRefused outside the limits. It allows nothing without a live delegation.
    """
    if not (0 < per_day <= MOST_PER_DAY and now < expires_at <= now + MOST_DAYS * DAY):
        raise TransitionRefused(
            f"Choose from 1 to {MOST_PER_DAY} calls a day, and an end within {MOST_DAYS} days.",
            detail="the standing approval is outside its limits",
        )
    standing_id = secrets.token_hex(8)
    payload = {"target": dict(binding.target), "provider": provider, "account": account, "names": dict(names)}
    facts: dict[str, Value] = {
        **_which(binding),
        "id": standing_id,
        "tool": binding.tool,
        "payload": seal(
            json.dumps(payload, separators=(",", ":")).encode(),
            key=ring.subkey(_KEY),
            key_id=_KEY,
            context=_context(standing_id),
        ),
        "per_day": per_day,
        "day": now // DAY,
        "now": now,
        "expires_at": expires_at,
    }
    await transaction.execute(_GIVE, facts)
    return standing_id


async def spend(transaction: Transaction, binding: Binding, *, now: int) -> StandingUse | None:
    """Use a standing approval for one call; None when there is none, or today's calls are used up."""
    row = await transaction.fetch_one(_SPEND, {**_which(binding), "day": now // DAY, "now": now})
    return None if row is None else StandingUse(text(row, "id"), integer(row, "used"), integer(row, "per_day"))


async def is_live(reader: Reader, standing_id: str, *, now: int) -> bool:
    """Whether it is still active: for the second exchange of a call that it allowed."""
    return await reader.fetch_one(_IS_LIVE, {"tenant": TENANT, "id": standing_id, "now": now}) is not None


async def list_live(reader: Reader, ring: KeyRing, user_id: str, *, now: int) -> tuple[StandingApproval, ...]:
    """The person's standing approvals that can still allow something, oldest first."""
    rows = await reader.fetch(_LIST, {"tenant": TENANT, "user_id": user_id, "now": now})
    return tuple(_read_row(row, ring) for row in rows)


async def count_live(reader: Reader, *, now: int) -> int:
    """How many standing approvals of all people haven't ended or expired, even if their permission has ended."""
    return await fetch_count(reader, _COUNT, {"tenant": TENANT, "now": now})


async def get(reader: Reader, ring: KeyRing, standing_id: str, *, user_id: str) -> StandingApproval | None:
    """The person's standing approval with that id, ended or not."""
    row = await reader.fetch_one(_GET, {"tenant": TENANT, "id": standing_id, "user_id": user_id})
    return None if row is None else _read_row(row, ring)


async def revoke(transaction: Transaction, standing_id: str, *, user_id: str, now: int) -> bool:
    """End it from this commit on; False when the person has no live one with that ID."""
    which: Mapping[str, Value] = {"tenant": TENANT, "user_id": user_id, "id": standing_id, "now": now}
    return await transaction.execute(_REVOKE, which) == 1


async def revoke_of_tool(transaction: Transaction, tool: str, *, now: int) -> int:
    """End everyone's standing approvals for a tool that was replaced; returns how many."""
    return await transaction.execute(_REVOKE_OF_TOOL, {"tenant": TENANT, "tool": tool, "now": now})


async def give_back(transaction: Transaction, standing_id: str, *, user_id: str, revoked_at: int, now: int) -> bool:
    """Undo the revocation made at that instant; the count continues. False when it has since ended in another way."""
    which: Mapping[str, Value] = {"tenant": TENANT, "user_id": user_id, "id": standing_id}
    return await transaction.execute(_GIVE_BACK, {**which, "revoked_at": revoked_at, "now": now}) == 1


async def count_answer(transaction: Transaction, binding: Binding, *, is_approved: bool, now: int) -> None:
    """Count an approval of a single call with this target; a refusal resets the count."""
    if is_approved:
        since = now - ANSWERS_KEPT
        await transaction.execute(_COUNT_YES, {**_which(binding), "now": now, "since": since})
    else:
        await transaction.execute(f"delete from approval_answers where {_THIS}", _which(binding))  # noqa: S608 -- ours


async def count_approved(reader: Reader, binding: Binding, *, now: int) -> int:
    """How many single calls with this target the person approved recently, with no refusal in between."""
    row = await reader.fetch_one(
        f"select approved from approval_answers where {_THIS} and changed_at > :since",  # noqa: S608 -- ours
        {**_which(binding), "since": now - ANSWERS_KEPT},
    )
    return 0 if row is None else integer(row, "approved")


async def sweep(transaction: Transaction, *, now: int) -> int:
    """Delete approvals that ended a day ago, and counts too old for a suggestion; the activity keeps both."""
    which: Mapping[str, Value] = {"tenant": TENANT, "batch": SWEEP_BATCH}
    ended = await transaction.execute(
        "delete from standing_approvals where tenant = :tenant and id in"
        " (select id from standing_approvals where tenant = :tenant and expires_at <= :before limit :batch)",
        {**which, "before": now - DAY},
    )
    counts = await transaction.execute(
        "delete from approval_answers where (tenant, user_id, client_id, connection_id, digest) in"
        " (select tenant, user_id, client_id, connection_id, digest from approval_answers"
        " where tenant = :tenant and changed_at <= :before limit :batch)",
        {**which, "before": now - ANSWERS_KEPT},
    )
    return ended + counts


def _which(binding: Binding) -> dict[str, Value]:
    return {
        "tenant": TENANT,
        "user_id": binding.user_id,
        "client_id": binding.client_id,
        "connection_id": binding.connection_id,
        "digest": binding.digest,
    }


def _context(standing_id: str) -> Context:
    return Context(purpose="standing_approval", tenant=TENANT, record_id=standing_id)


def _read_row(row: Row, ring: KeyRing) -> StandingApproval:
    standing_id = text(row, "id")
    payload: object = json.loads(
        open_sealed(binary(row, "payload"), key=ring.subkey(_KEY), context=_context(standing_id))
    )
    if not _is_object(payload) or not _is_object(target := payload.get("target")):
        raise StorageUnavailable("a stored approval can't be read", detail="its payload isn't a JSON object")
    names = payload.get("names")
    return StandingApproval(
        id=standing_id,
        user_id=text(row, "user_id"),
        client_id=text(row, "client_id"),
        connection_id=text(row, "connection_id"),
        tool=text(row, "tool"),
        target=target,
        provider=str(payload.get("provider")),
        account=str(payload.get("account")),
        names={name: str(value) for name, value in names.items()} if _is_object(names) else {},
        per_day=integer(row, "per_day"),
        day=integer(row, "day"),
        used=integer(row, "used"),
        created_at=integer(row, "created_at"),
        expires_at=integer(row, "expires_at"),
        revoked_at=integer_or_none(row, "revoked_at"),
    )


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict)

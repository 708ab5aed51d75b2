"""Pending messages to clients about their requests (OpenID CIBA Core 1.0 §10.2, §10.3): when, and what was issued.

Rows of `backchannel_pings`. Each is held by the process that sends it, and tried again for some minutes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Final, TypeGuard

from vault.approvals.approvals import Approval
from vault.classes.immutable import immutable
from vault.envelope import Context, open_sealed, seal
from vault.keys.key_ring import KeyRing
from vault.records import TENANT
from vault.refusals import StorageUnavailable
from vault.storage.database import Reader, Transaction, Value, binary_or_none, integer, text

HELD: Final = 60  # seconds; longer than sending one batch takes
BATCH: Final = 20  # notices that a process takes at a time
BACKOFF: Final = (10, 30, 120, 600)  # seconds to wait after each failure; after the last, the client must poll
LONGEST: Final = sum(BACKOFF) + (len(BACKOFF) + 1) * HELD  # seconds from the first attempt to the last
_KEY: Final = "approvals"
_TAKE: Final = """
    update backchannel_pings set attempts = attempts + 1, due_at = :held
    where tenant = :tenant and due_at <= :now and approval_id in (
        select approval_id from backchannel_pings where tenant = :tenant and due_at <= :now order by due_at limit :batch
    )
    returning approval_id, attempts, issued
"""
_DUE: Final = "select approval_id from backchannel_pings where tenant = :tenant and due_at <= :now limit 1"


@immutable
class DueNotice:
    """A request whose client must be notified; `attempts` includes this one. `sealed`: what an earlier attempt
    issued."""

    approval_id: str
    attempts: int
    sealed: bytes | None = field(repr=False)


@immutable
class IssuedTokens:
    """What was issued for an approval: the grant, from which access tokens can be made again, and its refresh token.

    `may_be_there`: an earlier attempt to send it may have arrived.
    """

    grant_id: str
    refresh_token: str | None = field(repr=False)
    refresh_expires_at: int | None
    may_be_there: bool = False


async def note(transaction: Transaction, approval: Approval, *, due_at: int) -> None:
    """Schedule the client's notification, if it registered for one; an answer from the person moves it forward."""
    if approval.ping is not None:
        await transaction.execute(
            "insert into backchannel_pings (tenant, approval_id, attempts, due_at) values (:tenant, :id, 0, :due_at)"
            " on conflict (tenant, approval_id) do update set due_at = excluded.due_at",
            {"tenant": TENANT, "id": approval.id, "due_at": due_at},
        )


async def is_due(reader: Reader, *, now: int) -> bool:
    """Whether any notification is due."""
    return await reader.fetch_one(_DUE, {"tenant": TENANT, "now": now}) is not None


async def take(transaction: Transaction, *, now: int) -> tuple[DueNotice, ...]:
    """The notifications that are due, held by this process until they are sent; unsettled ones become due again."""
    which: dict[str, Value] = {"tenant": TENANT, "now": now, "held": now + HELD, "batch": BATCH}
    rows = await transaction.fetch(_TAKE, which)
    return tuple(
        DueNotice(text(row, "approval_id"), integer(row, "attempts"), binary_or_none(row, "issued")) for row in rows
    )


async def keep_issued(transaction: Transaction, ring: KeyRing, approval_id: str, issued: IssuedTokens) -> None:
    """Keep what was issued until the client has it, so that every attempt sends the same grant and refresh token."""
    content: dict[str, object] = {
        "grant": issued.grant_id,
        "refresh": issued.refresh_token,
        "refresh_ends": issued.refresh_expires_at,
        "may_be_there": issued.may_be_there,
    }
    plain = json.dumps(content, separators=(",", ":")).encode()
    sealed = seal(plain, key=ring.subkey(_KEY), key_id=_KEY, context=_context(approval_id))
    await transaction.execute(
        "update backchannel_pings set issued = :issued where tenant = :tenant and approval_id = :id",
        {"tenant": TENANT, "id": approval_id, "issued": sealed},
    )


def issued_before(notice: DueNotice, ring: KeyRing) -> IssuedTokens | None:
    """What an earlier attempt issued."""
    if notice.sealed is None:
        return None
    plain = open_sealed(notice.sealed, key=ring.subkey(_KEY), context=_context(notice.approval_id))
    content: object = json.loads(plain)
    if not _is_object(content):
        raise StorageUnavailable("a stored answer can't be read", detail="it isn't a JSON object")
    refresh_token, ends = content.get("refresh"), content.get("refresh_ends")
    return IssuedTokens(
        grant_id=str(content.get("grant")),
        refresh_token=refresh_token if isinstance(refresh_token, str) else None,
        refresh_expires_at=ends if isinstance(ends, int) else None,
        may_be_there=content.get("may_be_there") is True,
    )


async def settle(transaction: Transaction, notice: DueNotice, *, is_over: bool, now: int) -> bool:
    """Delete the notice after a success or too many tries; otherwise try again later. Returns whether it was
    deleted."""
    which: dict[str, Value] = {"tenant": TENANT, "id": notice.approval_id}
    if is_over or notice.attempts > len(BACKOFF):
        await transaction.execute("delete from backchannel_pings where tenant = :tenant and approval_id = :id", which)
        return True
    await transaction.execute(
        "update backchannel_pings set due_at = :due_at where tenant = :tenant and approval_id = :id",
        which | {"due_at": now + BACKOFF[notice.attempts - 1]},
    )
    return False


def _context(approval_id: str) -> Context:
    return Context(purpose="backchannel-answer", tenant=TENANT, record_id=approval_id)


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict)

"""Every single-use expiring secret: issue it, look it up, use it exactly once. `TicketPurpose` lists the kinds.

The secret (256 bits; for a kind in SHORT, the short code that a person types) is stored as its SHA-256, the payload
sealed. Redeem an authorization code through `grants.redeem_code`, which handles a replay. Callers throttle guesses of
short codes.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Final, TypeGuard

from vault.envelope import Context, open_sealed, seal
from vault.keys.key_ring import KeyRing
from vault.records import DAY, LAST, TENANT, Ticket, TicketPurpose
from vault.refusals import StorageUnavailable, TransitionRefused
from vault.storage.database import (
    SWEEP_BATCH,
    Reader,
    Row,
    Transaction,
    Value,
    binary,
    binary_or_none,
    integer,
    integer_or_none,
    text,
    text_or_none,
)

SHORT = frozenset({TicketPurpose.DEVICE, TicketPurpose.USER_CODE})

_KEY = "tickets"
_KEPT_OF_STRANGERS = 300  # after expiry, if no one was signed in when it was created, because anyone can create many
_KEPT = DAY  # after expiry, to distinguish a late use from a forgery, and so that a replayed code ends its grant
_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 §6.1: no vowels, nothing that looks like a digit
_CODE_HALF = 4


class TicketReplayed(TransitionRefused):
    """The ticket was used before.

    `outcome` is what its first use recorded: for a code, the ID of the grant that it created. `ticket` is its record.
    """

    def __init__(
        self, description: str, *, outcome: str | None, ticket: Ticket | None = None, detail: str = ""
    ) -> None:
        super().__init__(description, detail=detail)
        self.outcome = outcome
        self.ticket = ticket


async def issue(
    transaction: Transaction,
    ring: KeyRing,
    *,
    purpose: TicketPurpose,
    payload: Mapping[str, object],
    lifetime: int,
    now: int,
    user_id: str | None = None,
    client_id: str | None = None,
    binding: bytes | None = None,
    secret: str | None = None,
) -> str:
    """Issue a ticket; returns its secret, which isn't stored. `secret` is for a code that was already shown."""
    chosen = secret or (new_user_code() if purpose in SHORT else secrets.token_urlsafe(32))
    ticket_hash = _digest(chosen, purpose)
    row = await transaction.fetch_one(
        "insert into tickets"
        " (tenant, ticket_hash, purpose, payload, user_id, client_id, binding, created_at, expires_at)"
        " values (:tenant, :ticket_hash, :purpose, :payload, :user_id, :client_id, :binding, :now, :expires_at)"
        " on conflict do nothing returning ticket_hash",
        {
            "tenant": TENANT,
            "ticket_hash": ticket_hash,
            "purpose": purpose.value,
            "payload": _seal_payload(ring, payload, purpose=purpose, ticket_hash=ticket_hash),
            "user_id": user_id,
            "client_id": client_id,
            "binding": binding,
            "now": now,
            "expires_at": now + lifetime,
        },
    )
    if row is None:  # only short codes can collide: about one in 10^10
        raise TransitionRefused(
            "this code is taken; ask for a new one", detail=f"the ticket ({purpose}) collided with another"
        )
    return chosen


async def peek(reader: Reader, ring: KeyRing, secret: str, *, purpose: TicketPurpose, now: int) -> Ticket | None:
    """The ticket if it can still be used; `consume` uses it."""
    row = await reader.fetch_one(
        "select ticket_hash, purpose, payload, user_id, client_id, binding, created_at, expires_at, consumed_at"
        " from tickets where tenant = :tenant and ticket_hash = :ticket_hash and purpose = :purpose"
        " and consumed_at is null and expires_at > :now",
        {"tenant": TENANT, "ticket_hash": _digest(secret, purpose), "purpose": purpose.value, "now": now},
    )
    return None if row is None else _ticket(row, ring)


async def find(reader: Reader, ring: KeyRing, secret: str, *, purpose: TicketPurpose) -> Ticket | None:
    """The ticket, usable or not, for about a day after its end."""
    row = await reader.fetch_one(
        "select ticket_hash, purpose, payload, user_id, client_id, binding, created_at, expires_at, consumed_at"
        " from tickets where tenant = :tenant and ticket_hash = :ticket_hash and purpose = :purpose"
        " and outcome is null",
        {"tenant": TENANT, "ticket_hash": _digest(secret, purpose), "purpose": purpose.value},
    )
    return None if row is None else _ticket(row, ring)


async def list_unused(
    reader: Reader, ring: KeyRing, *, purpose: TicketPurpose, user_id: str, client_id: str, now: int
) -> tuple[Ticket, ...]:
    """The tickets of one user and client that can still be used."""
    rows = await reader.fetch(
        "select ticket_hash, purpose, payload, user_id, client_id, binding, created_at, expires_at, consumed_at"
        " from tickets where tenant = :tenant and user_id = :user_id and client_id = :client_id"
        " and purpose = :purpose and consumed_at is null and expires_at > :now",
        {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "purpose": purpose.value, "now": now},
    )
    return tuple(_ticket(row, ring) for row in rows)


async def is_known(reader: Reader, secret: str, *, purpose: TicketPurpose) -> bool:
    """Whether a ticket with this secret was ever issued, used or not."""
    rows = await reader.look_up(
        "select 1 as one from tickets where tenant = :tenant and ticket_hash = :ticket_hash and purpose = :purpose",
        {"tenant": TENANT, "ticket_hash": _digest(secret, purpose), "purpose": purpose.value},
    )
    return bool(rows)


async def consume(transaction: Transaction, ring: KeyRing, secret: str, *, purpose: TicketPurpose, now: int) -> Ticket:
    """Use the ticket. Only one of any number of contenders succeeds; the others, and all later ones, are refused."""
    key = {"tenant": TENANT, "ticket_hash": _digest(secret, purpose), "purpose": purpose.value}
    row = await transaction.fetch_one(
        "update tickets set consumed_at = :now where tenant = :tenant and ticket_hash = :ticket_hash"
        " and purpose = :purpose and consumed_at is null and expires_at > :now"
        " returning ticket_hash, purpose, payload, user_id, client_id, binding, created_at, expires_at, consumed_at",
        key | {"now": now},
    )
    if row is not None:
        return _ticket(row, ring)
    seen = await transaction.fetch_one(
        "select ticket_hash, purpose, payload, user_id, client_id, binding, created_at, expires_at, consumed_at,"
        " outcome from tickets"
        " where tenant = :tenant and ticket_hash = :ticket_hash and purpose = :purpose",
        key,
    )
    if seen is None:
        raise TransitionRefused("this link or code is unknown", detail=f"the ticket ({purpose}) is unknown")
    if integer_or_none(seen, "consumed_at") is None:
        raise TransitionRefused("this link or code has expired", detail=f"the ticket ({purpose}) has expired")
    raise TicketReplayed(
        "this link or code was already used",
        outcome=text_or_none(seen, "outcome"),
        ticket=_ticket(seen, ring) if binary(seen, "payload") else None,  # 0.1.0 empties those of used codes
        detail=f"{purpose} replayed",
    )


async def note_outcome(
    transaction: Transaction, secret: str, *, outcome: str, purpose: TicketPurpose = TicketPurpose.CODE
) -> None:
    """Record the outcome of using the ticket, in the transaction that consumed it: for a code, the ID of the grant."""
    await transaction.execute(
        "update tickets set outcome = :outcome where tenant = :tenant and ticket_hash = :ticket_hash"
        " and purpose = :purpose and consumed_at is not null and outcome is null",
        {
            "tenant": TENANT,
            "ticket_hash": _digest(secret, purpose),
            "purpose": purpose.value,
            "outcome": outcome,
        },
    )


# Provider states, whose answers outlive their use (`vault.refresh.consents`)

_UNSETTLED_KEPT = 8 * DAY  # seconds: longer than any answer journal keeps an answer


async def state_with_outcome(
    reader: Reader, ring: KeyRing, secret: str, *, now: int
) -> tuple[Ticket, str | None] | None:
    """A used `state` and its outcome; None when it is unused or already deleted."""
    row = await reader.fetch_one(
        "select ticket_hash, purpose, payload, user_id, client_id, binding, created_at, expires_at, consumed_at,"
        " outcome from tickets where tenant = :tenant and ticket_hash = :ticket_hash and purpose = :purpose"
        " and consumed_at is not null and expires_at > :over",
        {
            "tenant": TENANT,
            "ticket_hash": _digest(secret, TicketPurpose.UPSTREAM_STATE),
            "purpose": TicketPurpose.UPSTREAM_STATE.value,
            "over": now - _KEPT,
        },
    )
    return None if row is None else (_ticket(row, ring), text_or_none(row, "outcome"))


async def unfinished_states(reader: Reader, ring: KeyRing, *, now: int) -> tuple[Ticket, ...]:
    """The used states whose outcome isn't known yet."""
    rows = await reader.fetch(
        "select ticket_hash, purpose, payload, user_id, client_id, binding, created_at, expires_at, consumed_at"
        " from tickets where tenant = :tenant and purpose = :purpose and consumed_at > :since and outcome is null",
        {"tenant": TENANT, "purpose": TicketPurpose.UPSTREAM_STATE.value, "since": now - _UNSETTLED_KEPT},
    )
    return tuple(_ticket(row, ring) for row in rows)


async def has_unfinished_states(reader: Reader, user_id: str, *, now: int) -> bool:
    """Whether an answer for this user may still be on its way into the database."""
    row = await reader.fetch_one(
        "select ticket_hash from tickets where tenant = :tenant and purpose = :purpose and consumed_at > :since"
        " and outcome is null and user_id = :user_id",
        {
            "tenant": TENANT,
            "purpose": TicketPurpose.UPSTREAM_STATE.value,
            "since": now - _UNSETTLED_KEPT,
            "user_id": user_id,
        },
    )
    return row is not None


async def settle_state(
    transaction: Transaction, ticket_hash: bytes, *, outcome: str, before: str | None = None
) -> bool:
    """Record the outcome of a used state, once; False when already recorded. `before`: the earlier outcome to
    replace."""
    changed = await transaction.execute(
        "update tickets set outcome = :outcome where tenant = :tenant and ticket_hash = :ticket_hash"
        " and purpose = :purpose and consumed_at is not null"
        " and coalesce(outcome, cast(:nothing as text)) = cast(:before as text)",
        {
            "tenant": TENANT,
            "ticket_hash": ticket_hash,
            "purpose": TicketPurpose.UPSTREAM_STATE.value,
            "outcome": outcome,
            "nothing": "",
            "before": before or "",
        },
    )
    return changed == 1


async def settle_lost_states(transaction: Transaction, *, outcome: str, now: int) -> tuple[tuple[bytes, str], ...]:
    """Settle the states whose answer can no longer come; returns their hashes and users."""
    rows = await transaction.fetch(
        "update tickets set outcome = :outcome where tenant = :tenant and purpose = :purpose and consumed_at <= :since"
        " and outcome is null returning ticket_hash, user_id",
        {
            "tenant": TENANT,
            "purpose": TicketPurpose.UPSTREAM_STATE.value,
            "outcome": outcome,
            "since": now - _UNSETTLED_KEPT,
        },
    )
    return tuple((binary(row, "ticket_hash"), text(row, "user_id")) for row in rows)


async def client_of_state(reader: Reader, ticket_hash: bytes) -> str | None:
    """The client that a state is for; None once the client was ended for this user."""
    row = await reader.fetch_one(
        "select client_id from tickets where tenant = :tenant and ticket_hash = :ticket_hash",
        {"tenant": TENANT, "ticket_hash": ticket_hash},
    )
    return None if row is None else text_or_none(row, "client_id")


_WAITING: Final[Mapping[str, Value]] = {"tenant": TENANT, "state": TicketPurpose.UPSTREAM_STATE.value}
_DETACH: Final = """
    update tickets set client_id = null where tenant = :tenant and user_id = :user_id and purpose = :state
        and consumed_at is not null and outcome is null
"""
_DETACH_CLIENT: Final = """
    update tickets set client_id = null where tenant = :tenant and client_id = :client_id and purpose = :state
        and consumed_at is not null and outcome is null
"""


async def expire_user_tickets(
    transaction: Transaction, user_id: str, *, now: int, made_until: int | None = None
) -> int:
    """End every unused ticket of a user (codes, links, states), or only those created by the time `until`.

    An answer that is still on its way connects the account, but no longer gives it to an agent.
    """
    until = LAST if made_until is None else made_until
    await transaction.execute(f"{_DETACH} and created_at <= :until", {**_WAITING, "user_id": user_id, "until": until})
    return await transaction.execute(
        "update tickets set expires_at = :now"
        " where tenant = :tenant and user_id = :user_id and consumed_at is null and expires_at > :now"
        " and created_at <= :until",
        {"tenant": TENANT, "user_id": user_id, "now": now, "until": until},
    )


async def expire_purpose(transaction: Transaction, user_id: str, *, purpose: TicketPurpose, now: int) -> int:
    """End a user's unused tickets of one kind."""
    return await transaction.execute(
        "update tickets set expires_at = :now where tenant = :tenant and user_id = :user_id and purpose = :purpose"
        " and consumed_at is null and expires_at > :now",
        {"tenant": TENANT, "user_id": user_id, "purpose": purpose.value, "now": now},
    )


async def expire_client_tickets(
    transaction: Transaction, client_id: str, *, user_id: str | None = None, now: int
) -> int:
    """End every unused ticket of a client, for one user or for all; also for answers that are still on their way."""
    which = {**_WAITING, "client_id": client_id}
    if user_id is None:
        await transaction.execute(_DETACH_CLIENT, which)
        return await transaction.execute(
            "update tickets set expires_at = :now"
            " where tenant = :tenant and client_id = :client_id and consumed_at is null and expires_at > :now",
            {"tenant": TENANT, "client_id": client_id, "now": now},
        )
    await transaction.execute(f"{_DETACH_CLIENT} and user_id = :user_id", {**which, "user_id": user_id})
    return await transaction.execute(
        "update tickets set expires_at = :now where tenant = :tenant and client_id = :client_id"
        " and user_id = :user_id and consumed_at is null and expires_at > :now",
        {"tenant": TENANT, "client_id": client_id, "user_id": user_id, "now": now},
    )


async def sweep_tickets(transaction: Transaction, *, now: int) -> int:
    """Delete, in batches, tickets that no longer matter: a thief redeems a code before its client does, never a day
    later."""
    strangers = await transaction.execute(
        "delete from tickets where ticket_hash in (select ticket_hash from tickets"
        " where tenant = :tenant and user_id is null and outcome is null"
        " and (consumed_at is null or purpose = :pushed) and purpose <> :bootstrap and expires_at <= :before"
        " limit :batch)",
        {
            "tenant": TENANT,
            "pushed": TicketPurpose.PUSHED.value,
            "bootstrap": TicketPurpose.BOOTSTRAP.value,
            "before": now - _KEPT_OF_STRANGERS,
            "batch": SWEEP_BATCH,
        },
    )
    others = await transaction.execute(
        "delete from tickets where ticket_hash in (select ticket_hash from tickets"
        " where tenant = :tenant and expires_at <= :before"
        " and (purpose <> :state or consumed_at is null or outcome is not null) limit :batch)",  # may be answered
        {
            "tenant": TENANT,
            "before": now - _KEPT,
            "state": TicketPurpose.UPSTREAM_STATE.value,
            "batch": SWEEP_BATCH,
        },
    )
    return max(strangers, others)  # a full batch of either: there may be more


def new_user_code() -> str:
    """A code to read and type, such as `BDFK-WXZR` (RFC 8628 §6.1): 34 bits, for minutes, throttled by the caller."""
    letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(2 * _CODE_HALF))
    return f"{letters[:_CODE_HALF]}-{letters[_CODE_HALF:]}"


def normal_user_code(typed: str) -> str:
    """A typed code in the form that was issued; ignores case, spaces, and hyphens."""
    letters = "".join(c for c in typed[:64].upper() if c in _CODE_LETTERS)
    return f"{letters[:_CODE_HALF]}-{letters[_CODE_HALF:]}"


def _digest(secret: str, purpose: TicketPurpose) -> bytes:
    known = normal_user_code(secret) if purpose in SHORT else secret
    return hashlib.sha256(known.encode("utf-8", "surrogatepass")).digest()


def _context(purpose: TicketPurpose, ticket_hash: bytes) -> Context:
    return Context(purpose=f"ticket:{purpose.value}", tenant=TENANT, record_id=ticket_hash.hex())


def _seal_payload(ring: KeyRing, payload: Mapping[str, object], *, purpose: TicketPurpose, ticket_hash: bytes) -> bytes:
    plain = json.dumps(dict(payload), separators=(",", ":"), sort_keys=True).encode()
    return seal(plain, key=ring.subkey(_KEY), key_id=_KEY, context=_context(purpose, ticket_hash))


def _ticket(row: Row, ring: KeyRing) -> Ticket:
    purpose = TicketPurpose(text(row, "purpose"))
    ticket_hash = binary(row, "ticket_hash")
    plain = open_sealed(binary(row, "payload"), key=ring.subkey(_KEY), context=_context(purpose, ticket_hash))
    return Ticket(
        ticket_hash=ticket_hash,
        purpose=purpose,
        payload=_json_object(plain),
        created_at=integer(row, "created_at"),
        expires_at=integer(row, "expires_at"),
        user_id=text_or_none(row, "user_id"),
        client_id=text_or_none(row, "client_id"),
        binding=binary_or_none(row, "binding"),
        consumed_at=integer_or_none(row, "consumed_at"),
    )


def _json_object(plain: bytes) -> dict[str, object]:
    value: object = json.loads(plain)
    if not _is_object(value):
        raise StorageUnavailable("a stored ticket can't be read", detail="its payload isn't a JSON object")
    return value


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)

"""Which signed checkpoints each destination has, and which process is sending them."""

from __future__ import annotations

import secrets

from vault.audit.notes import TreeHead
from vault.classes.immutable import immutable
from vault.records import TENANT
from vault.storage.database import Database, Reader, Value, integer, integer_or_none, text, text_or_none

_TURN = "turn"  # the row that a process holds while it sends


@immutable
class Delivery:
    """The newest checkpoint for a destination; `failure` is the reason if it wasn't delivered."""

    destination: str
    origin: str
    size: int
    delivered_at: int | None
    failure: str | None

    def has(self, head: TreeHead) -> bool:
        """Whether this checkpoint was delivered."""
        return self.failure is None and (self.origin, self.size) == (head.origin, head.size)


async def list_deliveries(reader: Reader) -> dict[str, Delivery]:
    """The newest delivery to each destination, by its name."""
    rows = await reader.fetch(
        "select destination, origin, size, delivered_at, failure from event_deliveries "
        "where tenant = :tenant and destination <> :turn order by destination",
        {"tenant": TENANT, "turn": _TURN},
    )
    return {
        text(row, "destination"): Delivery(
            text(row, "destination"),
            text(row, "origin"),
            integer(row, "size"),
            integer_or_none(row, "delivered_at"),
            text_or_none(row, "failure"),
        )
        for row in rows
    }


async def note_delivery(database: Database, destination: str, head: TreeHead, *, now: int, failure: str | None) -> None:
    """Record that a destination has a checkpoint, or why it doesn't, and then keep its previous one."""
    names: dict[str, Value] = {
        "tenant": TENANT,
        "destination": destination,
        "origin": head.origin,
        "size": head.size,
    }
    async with database.transaction() as transaction:
        if failure is None:
            await transaction.execute(_DELIVERED, names | {"now": now})
        else:
            await transaction.execute(_FAILED, {**names, "size": 0, "failure": failure})


_DELIVERED = (
    "insert into event_deliveries (tenant, destination, origin, size, delivered_at) "
    "values (:tenant, :destination, :origin, :size, :now) on conflict (tenant, destination) do update set "
    "origin = excluded.origin, size = excluded.size, delivered_at = excluded.delivered_at, failure = null"
)
_FAILED = (
    "insert into event_deliveries (tenant, destination, origin, size, failure) "
    "values (:tenant, :destination, :origin, :size, :failure) on conflict (tenant, destination) do update set "
    "failure = excluded.failure"
)


async def take_turn(database: Database, *, now: int, seconds: int) -> str | None:
    """Claim the turn to send, for at most this long; returns the name of the turn, None while another process has
    it."""
    turn = secrets.token_hex(8)
    async with database.transaction() as transaction:
        row = await transaction.fetch_one(
            "insert into event_deliveries (tenant, destination, origin, size, held_until) "
            "values (:tenant, :turn, :owner, 0, :until) on conflict (tenant, destination) do update "
            "set held_until = excluded.held_until, origin = excluded.origin "
            "where event_deliveries.held_until is null or event_deliveries.held_until <= :now returning size",
            {"tenant": TENANT, "turn": _TURN, "owner": turn, "until": now + seconds, "now": now},
        )
    return None if row is None else turn


async def end_turn(database: Database, turn: str) -> None:
    """Release the turn, unless another process has since taken it over."""
    async with database.transaction() as transaction:
        await transaction.execute(
            "update event_deliveries set held_until = null "
            "where tenant = :tenant and destination = :turn and origin = :owner",
            {"tenant": TENANT, "turn": _TURN, "owner": turn},
        )

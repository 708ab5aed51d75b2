"""The table of master keys: which exist, which one is current, and which others are still needed to open something.

A key is `added`, then `current`, then `previous` while what it wrapped is wrapped again, then `retired`. The keys
themselves are in their sources (`vault.keys.sources`), and in memory (`vault.keys.held_keys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from vault.classes.immutable import immutable
from vault.keys.sources.source import StoredKey, fingerprint_of
from vault.records import TENANT
from vault.refusals import StorageUnavailable
from vault.storage.database import (
    Reader,
    Row,
    Transaction,
    binary,
    binary_or_none,
    integer,
    integer_or_none,
    text,
)

MasterState = Literal["added", "current", "previous", "retired"]
STATES: Final[Mapping[str, MasterState]] = {
    "added": "added",
    "current": "current",
    "previous": "previous",
    "retired": "retired",
}
_NOT_IN_USE: Final = {"added": "added", "previous": "previous"}
_COLUMNS: Final = (
    "select id, state, check_value, wrapped, described, created_at, current_at, retired_at, uses from keys.masters"
)
_INSERT: Final = """
    insert into keys.masters (id, state, check_value, wrapped, described, created_at, current_at)
    values (:id, :state, :check_value, :wrapped, :described, :now, :current_at) on conflict (id) do nothing
    returning id
"""


@immutable
class MasterRow:
    """A master key as the database knows it. `described`: its source, for people; `uses`: wraps and unwraps."""

    stored: StoredKey
    state: MasterState
    described: str
    created_at: int
    current_at: int | None
    retired_at: int | None
    uses: int

    @property
    def id(self) -> str:
        return self.stored.id

    @property
    def is_live(self) -> bool:
        return self.state != "retired"


async def list_masters(reader: Reader) -> tuple[MasterRow, ...]:
    """All master keys, oldest first."""
    return tuple(map(read_master, await reader.fetch(f"{_COLUMNS} order by created_at, id")))


async def current_id(reader: Reader) -> str | None:
    """The current key. Read it in the transaction that stores what is wrapped."""
    row = await reader.fetch_one("select id from keys.masters where state = :current", {"current": "current"})
    return None if row is None else text(row, "id")


async def add_master(
    transaction: Transaction, stored: StoredKey, *, state: MasterState, described: str, now: int
) -> bool:
    """Add a key; False when it is already known."""
    values = {
        "id": stored.id,
        "state": state,
        "check_value": stored.check,
        "wrapped": stored.wrapped,
        "described": described,
        "now": now,
        "current_at": now if state == "current" else None,
    }
    return await transaction.fetch_one(_INSERT, values) is not None


async def promote(transaction: Transaction, key_id: str, *, now: int) -> bool:
    """Wrap with this key from now on; False when it is current, retired, or unknown."""
    row = await transaction.fetch_one(
        "update keys.masters set state = :current, current_at = :now "
        "where id = :id and state in (:added, :previous) returning id",
        {"id": key_id, "now": now, **_NOT_IN_USE, "current": "current"},
    )
    if row is None:
        return False
    await transaction.execute(
        "update keys.masters set state = :previous where state = :current and id <> :id",
        {"id": key_id, "current": "current", "previous": "previous"},
    )
    return True


async def retire(transaction: Transaction, key_id: str, *, now: int) -> bool:
    """Stop using this key and forget what would open it; False if it is the current key or already retired."""
    row = await transaction.fetch_one(
        "update keys.masters set state = :retired, retired_at = :now, wrapped = null "
        "where id = :id and state in (:added, :previous) returning id",
        {"id": key_id, "now": now, **_NOT_IN_USE, "retired": "retired"},
    )
    return row is not None


async def add_uses(transaction: Transaction, uses: Mapping[str, int]) -> None:
    """Count uses, by key id."""
    sql = "update keys.masters set uses = uses + :uses where id = :id"
    await transaction.execute_many(sql, [{"id": key_id, "uses": count} for key_id, count in sorted(uses.items())])


async def count_people(reader: Reader) -> Mapping[str, int]:
    """How many people's keys each master key wraps, by its fingerprint. Reads them all."""
    rows = await reader.fetch(
        "select kek_id, count(*) as n from keys.user_keys where tenant = :tenant group by kek_id", {"tenant": TENANT}
    )
    found: dict[str, int] = {}
    for row in rows:
        fingerprint = fingerprint_of(text(row, "kek_id"))
        found[fingerprint] = found.get(fingerprint, 0) + integer(row, "n")
    return found


async def wraps_somebody(reader: Reader, key_id: str) -> bool:
    """Whether any person's key is wrapped under it, whatever its source was at that time. Reads until it finds one."""
    row = await reader.fetch_one(
        "select user_id from keys.user_keys where tenant = :tenant and kek_id like :same_key limit 1",
        {"tenant": TENANT, "same_key": f"%-{fingerprint_of(key_id)}"},
    )
    return row is not None


def from_root(kek_id: str, sealed: bytes) -> MasterRow:
    """The master key of a vault whose database doesn't list any yet: the one that wraps its root secret."""
    return MasterRow(StoredKey(kek_id, sealed), "current", "", 0, None, None, 0)


def read_master(row: Row) -> MasterRow:
    """A record from a row of the table. Raises StorageUnavailable."""
    state = STATES.get(text(row, "state"))
    if state is None:
        raise StorageUnavailable(
            "the database holds an unexpected value", detail="the state of a master key is unknown"
        )
    return MasterRow(
        StoredKey(text(row, "id"), binary_or_none(row, "wrapped"), binary(row, "check_value")),
        state,
        text(row, "described"),
        integer(row, "created_at"),
        integer_or_none(row, "current_at"),
        integer_or_none(row, "retired_at"),
        integer(row, "uses"),
    )

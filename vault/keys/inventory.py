"""Which keys a vault has and since when, without any key: for the people who look after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from vault.keys.key_ring import ROOT
from vault.keys.signing import PURPOSE
from vault.records import TENANT
from vault.storage.database import Reader, Row, integer, integer_or_none, text

SigningState = Literal["next", "signing", "verifying", "ended"]
_RING: Final = "select id, purpose, kek_id, created_at, active_at, retired_at from keys.ring order by active_at, id"
_PEOPLE: Final = """
    select kek_id, count(*) as n, min(created_at) as first
    from keys.user_keys where tenant = :tenant group by kek_id order by kek_id
"""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key-encryption key, by its id: what is sealed under it. `since` is when the first of that was sealed."""

    id: str
    since: int
    has_root: bool
    people: int  # whose keys it wraps


@dataclass(frozen=True, slots=True)
class RingKey:
    """A signing key of our tokens. `retired_at`: from then on nothing that it signed can be valid."""

    id: str
    created_at: int
    active_at: int
    retired_at: int | None
    state: SigningState


@dataclass(frozen=True, slots=True)
class Inventory:
    """All keys that have a life of their own; those of accounts end with their accounts and are not listed."""

    masters: tuple[MasterKey, ...]
    signing: tuple[RingKey, ...]  # oldest first


async def list_keys(reader: Reader, *, now: int) -> Inventory:
    """What is in the key store now."""
    ring = await reader.fetch(_RING, {})
    counts = {text(row, "kek_id"): row for row in await reader.fetch(_PEOPLE, {"tenant": TENANT})}
    roots = {text(row, "kek_id"): integer(row, "created_at") for row in ring if text(row, "id") == ROOT}
    masters = tuple(
        MasterKey(
            kek_id,
            min(roots.get(kek_id, now), integer(counts[kek_id], "first") if kek_id in counts else now),
            kek_id in roots,
            integer(counts[kek_id], "n") if kek_id in counts else 0,
        )
        for kek_id in sorted({*counts, *roots}, key=lambda one: (one not in roots, one))
    )
    mine = [row for row in ring if text(row, "purpose") == PURPOSE]
    able = [(integer(row, "active_at"), text(row, "id")) for row in mine if _is_published(row, now)]
    _, current = max((one for one in able if one[0] <= now), default=(0, ""))  # as `SigningKeys.current` chooses
    return Inventory(masters, tuple(_ring_key(row, current=current, now=now) for row in mine))


def _is_published(row: Row, now: int) -> bool:
    retired_at = integer_or_none(row, "retired_at")
    return retired_at is None or now < retired_at


def _ring_key(row: Row, *, current: str, now: int) -> RingKey:
    kid, active_at = text(row, "id"), integer(row, "active_at")
    state: SigningState
    if not _is_published(row, now):
        state = "ended"
    elif active_at > now:
        state = "next"
    else:
        state = "signing" if kid == current else "verifying"
    return RingKey(kid, integer(row, "created_at"), active_at, integer_or_none(row, "retired_at"), state)

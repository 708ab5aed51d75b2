"""The keys of a vault and their dates, for its operators. Contains no key."""

from __future__ import annotations

from typing import Final, Literal

from vault.classes.immutable import immutable
from vault.keys import masters
from vault.keys.held_keys import ROOT
from vault.keys.masters import MasterState
from vault.keys.signing import PURPOSE
from vault.keys.sources.source import fingerprint_of
from vault.storage.database import Reader, Row, integer, integer_or_none, text

SigningState = Literal["next", "signing", "verifying", "ended"]
_RING: Final = "select id, purpose, kek_id, created_at, active_at, retired_at from keys.ring order by active_at, id"


@immutable
class MasterKey:
    """A key-encryption key by its ID, and what still needs it. `uses`: the wraps and unwraps that processes counted."""

    id: str
    state: MasterState
    described: str
    created_at: int
    active_at: int | None  # since when it is, or was, the current one
    has_root: bool
    people: int  # whose keys it wraps
    uses: int
    retired_at: int | None


@immutable
class RingKey:
    """A key that signs our tokens. `retired_at`: from then on no token that it signed can be valid."""

    id: str
    created_at: int
    active_at: int
    retired_at: int | None
    state: SigningState


@immutable
class Inventory:
    """All keys with their own lifetime. Keys of accounts end with their accounts and aren't listed."""

    masters: tuple[MasterKey, ...]
    signing: tuple[RingKey, ...]  # oldest first


async def list_keys(reader: Reader, *, now: int) -> Inventory:
    """What is in the key store now."""
    ring = await reader.fetch(_RING, {})
    people = await masters.count_people(reader)
    roots = {fingerprint_of(text(row, "kek_id")) for row in ring if text(row, "id") == ROOT}
    found = tuple(
        MasterKey(
            one.id,
            one.state,
            one.described,
            one.created_at,
            one.current_at,
            one.stored.fingerprint in roots,
            people.get(one.stored.fingerprint, 0),
            one.uses,
            one.retired_at,
        )
        for one in await masters.list_masters(reader)
    )
    mine = [row for row in ring if text(row, "purpose") == PURPOSE]
    able = [row for row in mine if _is_published(row, now)]
    active = [row for row in able if integer(row, "active_at") <= now] or able[:1]  # as `SigningKeys.current` chooses
    current = text(active[-1], "id") if active else None
    return Inventory(found, tuple(_ring_key(row, current=current, now=now) for row in mine))


def _is_published(row: Row, now: int) -> bool:
    retired_at = integer_or_none(row, "retired_at")
    return retired_at is None or now < retired_at


def _ring_key(row: Row, *, current: str | None, now: int) -> RingKey:
    kid, active_at = text(row, "id"), integer(row, "active_at")
    state: SigningState
    if not _is_published(row, now):
        state = "ended"
    elif kid == current:
        state = "signing"
    else:
        state = "next" if active_at > now else "verifying"
    return RingKey(kid, integer(row, "created_at"), active_at, integer_or_none(row, "retired_at"), state)

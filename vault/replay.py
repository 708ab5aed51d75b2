"""Remember single-use values (`jti`, nonces) until they expire. Callers decide what is single-use."""

from __future__ import annotations

import hashlib

from vault.storage.database import SWEEP_BATCH, Reader, Transaction, integer_or_none

_RESTORED = "restored"
_OF_RESTORE = hashlib.sha256(b"").digest()  # read by primary key, because PostgreSQL searched all rows for it otherwise
_LONGEST = 7200  # longest time in seconds that a value can be valid, and that a restore matters
_FIRST = """
    insert into seen (purpose, value_hash, expires_at) values (:purpose, :value_hash, :expires_at)
    on conflict (purpose, value_hash) do update set expires_at = excluded.expires_at where seen.expires_at <= :now
    returning expires_at,
        (select r.expires_at from seen r where r.purpose = :restored and r.value_hash = :of_restore) as restored
"""


async def first_use(
    transaction: Transaction, purpose: str, value: str, *, expires_at: int, now: int, made_at: int | None = None
) -> bool:
    """True the first time; False while an earlier use is stored. Commit it even when the request is refused. `made_at`:
    the value is no older than that. A value that may be older than the last restore is refused, because its use may
    have been lost. None: the value may be used again after a restore.
    """
    row = await transaction.fetch_one(
        _FIRST,
        {
            "purpose": purpose,
            "value_hash": hashlib.sha256(value.encode()).digest(),
            "expires_at": expires_at,
            "now": now,
            "restored": _RESTORED,
            "of_restore": _OF_RESTORE,
        },
    )
    if row is None:
        return False
    restored = integer_or_none(row, "restored")
    return made_at is None or restored is None or restored - _LONGEST < made_at


async def is_seen(reader: Reader, purpose: str, value: str, *, now: int) -> bool:
    """Whether a use is stored. Doesn't use the value."""
    row = await reader.fetch_one(
        "select expires_at from seen where purpose = :purpose and value_hash = :value_hash and expires_at > :now",
        {"purpose": purpose, "value_hash": hashlib.sha256(value.encode()).digest(), "now": now},
    )
    return row is not None


async def note_restore(transaction: Transaction, *, now: int) -> None:
    """Refuse values made before now, because a restored vault doesn't know which were used since the backup."""
    await transaction.execute(
        "insert into seen (purpose, value_hash, expires_at) values (:purpose, :value_hash, :expires_at) "
        "on conflict (purpose, value_hash) do update set expires_at = excluded.expires_at",
        {"purpose": _RESTORED, "value_hash": _OF_RESTORE, "expires_at": now + _LONGEST},
    )


async def sweep(transaction: Transaction, now: int) -> int:
    """Delete expired values, at most a batch; returns how many."""
    return await transaction.execute(
        "delete from seen where (purpose, value_hash) in"
        " (select purpose, value_hash from seen where expires_at <= :now limit :batch)",
        {"now": now, "batch": SWEEP_BATCH},
    )

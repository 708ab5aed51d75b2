"""Remembers single-use values (`jti`, nonces) until they expire. What is single-use is decided by callers."""

from __future__ import annotations

import hashlib

from vault.database import Transaction


async def first_use(transaction: Transaction, purpose: str, value: str, *, expires_at: int, now: int) -> bool:
    """True the first time; False while an earlier use is remembered. Commit it even when the request is refused."""
    row = await transaction.fetch_one(
        "insert into seen (purpose, value_hash, expires_at) values (:purpose, :value_hash, :expires_at) "
        "on conflict (purpose, value_hash) do update set expires_at = excluded.expires_at "
        "where seen.expires_at <= :now returning expires_at",
        {
            "purpose": purpose,
            "value_hash": hashlib.sha256(value.encode()).digest(),
            "expires_at": expires_at,
            "now": now,
        },
    )
    return row is not None


async def sweep(transaction: Transaction, now: int) -> int:
    """Forget what has expired; the number of values."""
    return await transaction.execute("delete from seen where expires_at <= :now", {"now": now})

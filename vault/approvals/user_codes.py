"""A person's own code (OpenID CIBA Core 1.0 §7.1): a client that must send it can't ask them without it.

`server.oauth.backchannel` decides which clients have to; `server.portal.approvals.user_code` is the page.
"""

from __future__ import annotations

from typing import Final

from vault.keys import passwords
from vault.records import TENANT
from vault.storage.database import Reader, Transaction, text

SHORTEST: Final = 6
LONGEST: Final = 64


async def save(transaction: Transaction, user_id: str, *, code_hash: str, now: int) -> None:
    """Set the code, or replace it."""
    await transaction.execute(
        "insert into user_codes (tenant, user_id, code_hash, changed_at) values (:tenant, :user_id, :code_hash, :now)"
        " on conflict (tenant, user_id) do update set code_hash = excluded.code_hash, changed_at = excluded.changed_at",
        {"tenant": TENANT, "user_id": user_id, "code_hash": code_hash, "now": now},
    )


async def remove(transaction: Transaction, user_id: str) -> bool:
    """Delete the code; returns whether there was one."""
    which = {"tenant": TENANT, "user_id": user_id}
    return await transaction.execute("delete from user_codes where tenant = :tenant and user_id = :user_id", which) > 0


async def has_code(reader: Reader, user_id: str) -> bool:
    """Whether the person set one."""
    return await _hash_of(reader, user_id) is not None


async def is_right(reader: Reader, user_id: str, code: str) -> bool:
    """Whether this is the person's code. Takes as long for a person without one."""
    return await passwords.verify_password(await _hash_of(reader, user_id), code)


async def _hash_of(reader: Reader, user_id: str) -> str | None:
    row = await reader.fetch_one(
        "select code_hash from user_codes where tenant = :tenant and user_id = :user_id",
        {"tenant": TENANT, "user_id": user_id},
    )
    return None if row is None else text(row, "code_hash")

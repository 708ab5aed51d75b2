"""Whether a vault can work now: its schema, its keys, and whether its storage takes a write. For `/readyz`."""

from __future__ import annotations

from vault.refusals import KeyUnavailable, StorageUnavailable
from vault.storage.database import Database, integer, schema_files

_BUCKET = "readiness"


async def check_schema(database: Database) -> None:
    """Check that this program can use the schema, even if a newer program expanded it. Raises StorageUnavailable."""
    row = await database.fetch_one(
        "select (select max(number) from schema_versions) as needed,"
        " (select max(number) from schema_migrations) as applied"
    )
    known = len(schema_files())
    if row is None or integer(row, "needed") > known or integer(row, "applied") < known:
        raise StorageUnavailable("the database has another schema version", detail=f"{row}")


async def check_keys(database: Database) -> None:
    """Check that the key store is readable and holds the ring. Raises KeyUnavailable, StorageUnavailable."""
    if await database.fetch_one("select id from keys.ring limit 1") is None:
        raise KeyUnavailable("the key store of this database is empty: restore it from a backup")


async def check_writable(database: Database) -> None:
    """Check that a row can be committed. Raises StorageUnavailable, TemporarilyUnavailable."""
    now = database.now()
    async with database.transaction() as transaction:
        await transaction.execute(
            "insert into limits (bucket, window_start, spent) values (:bucket, 0, :now) "
            "on conflict (bucket, window_start) do update set spent = excluded.spent",
            {"bucket": _BUCKET, "now": now},
        )

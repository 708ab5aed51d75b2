"""Whether a vault can work now: its schema, its keys, and whether its storage accepts a write. For `/readyz`."""

from __future__ import annotations

from vault.keys import masters
from vault.keys.key_ring import KeyRing
from vault.keys.masters import MasterRow
from vault.refusals import KeyUnavailable, StorageUnavailable
from vault.storage.database import Database, integer, schema_files

_BUCKET = "readiness"


async def check_schema(database: Database) -> None:
    """Check that this program can use the schema, even if a newer program expanded it. Raises StorageUnavailable."""
    (row,) = await database.fetch(
        "select (select max(number) from schema_versions) as needed,"
        " (select max(number) from schema_migrations) as applied"
    )
    known = len(schema_files())
    if integer(row, "needed") > known or integer(row, "applied") < known:
        raise StorageUnavailable("the database has another schema version", detail=f"{row}")


async def check_keys(database: Database, ring: KeyRing) -> None:
    """Check that the key store holds the ring, and that this process holds the master keys that calls need.

    A running process may get a newly added key later. A starting process must have all keys, because nothing depends on
    it yet. Raises KeyUnavailable, StorageUnavailable.
    """
    if await database.fetch_one("select id from keys.ring limit 1") is None:
        raise KeyUnavailable("the key store of this database is empty: restore it from a backup")
    for one in await masters.list_masters(database):
        if not ring.held.holds(one.id) and await _is_due(database, ring, one):
            refusal = ring.held.refusal(one.id)
            raise KeyUnavailable(refusal.description, detail=refusal.description)


async def _is_due(database: Database, ring: KeyRing, one: MasterRow) -> bool:
    match one.state:
        case "current":
            return True
        case "added":
            return one.id in ring.late
        case "previous":
            return await masters.wraps_somebody(database, one.id)
        case "retired":
            return False


async def check_writable(database: Database) -> None:
    """Check that a row can be committed. Raises StorageUnavailable, TemporarilyUnavailable."""
    now = database.now()
    async with database.transaction() as transaction:
        await transaction.execute(
            "insert into limits (bucket, window_start, spent) values (:bucket, 0, :now) "
            "on conflict (bucket, window_start) do update set spent = excluded.spent",
            {"bucket": _BUCKET, "now": now},
        )

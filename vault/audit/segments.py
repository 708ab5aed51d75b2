"""Segments of the activity: verified and sealed periodically, and deleted under the configured retention.

A deleted segment leaves its checkpoint, sealed under the vault's key, so that verification continues from there. Any
process of the vault may do this at any time: a segment is sealed once and deleted once, by the first to get there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vault.audit.audit import append
from vault.audit.log import load_logs
from vault.audit.proof import (
    ChainBroken,
    Checkpoint,
    Walk,
    check_end,
    last_checkpoint,
    link_after,
    load_end,
    load_start,
)
from vault.audit.tree import count_leaves
from vault.records import DAY, HOUR, LAST, TENANT, Event
from vault.storage.database import Database, Reader, Value
from vault.storage.event_chain import Link

SEGMENT: Final = 500  # events; limits what one transaction deletes, even from a cold disk
SEAL_AFTER: Final = HOUR  # seconds: a shorter segment is sealed when its first event reaches this age
SEAL_LIMIT: Final = 50_000  # events per run
PRUNE_LIMIT: Final = 200  # segments per run


async def seal(database: Database, *, now: int, limit: int | None = SEAL_LIMIT) -> int:
    """Verify what was appended since the last checkpoint and seal it in segments; the number of events verified.

    Raises ChainBroken, and seals nothing, when that part of the chain was tampered with.
    """
    key = database.event_key
    if key is None:
        return 0
    last = await last_checkpoint(database, key)
    end, start = await load_end(database), await load_start(database)
    began = link_after(last)
    walk = Walk(database, key=key, start=start, link=began)
    found: list[Checkpoint] = []
    while walk.link.height < end.link.height and (limit is None or walk.link.sequence - began.sequence < limit):
        before, unkeyed = walk.link, walk.unkeyed_count
        first_at, last_at = await walk.go(end.link.height, events=SEGMENT)
        if walk.link.sequence - before.sequence < SEGMENT and now - first_at < SEAL_AFTER:
            break  # it still grows
        found.append(
            Checkpoint(
                first_height=before.height + 1,
                first_sequence=before.sequence + 1,
                first_at=first_at,
                last_at=last_at,
                link=walk.link,
                unkeyed=walk.unkeyed_count - unkeyed,
            )
        )
    if walk.link.height >= end.link.height:
        check_end(walk, end, start)  # before anything is vouched for
    await _store(database, found, key=key)
    return walk.link.sequence - began.sequence


async def _store(database: Database, found: list[Checkpoint], *, key: bytes) -> None:
    async with database.transaction() as transaction:
        for checkpoint in found:
            row = await transaction.fetch_one(
                "insert into event_checkpoints (tenant, first_height, height, first_sequence, sequence, first_at, "
                "last_at, sealed) values (:tenant, :first_height, :height, :first_sequence, :sequence, :first_at, "
                ":last_at, :sealed) on conflict (tenant, first_height) do nothing returning height",
                _columns(checkpoint, key=key),
            )
            if row is None:  # another process sealed it; its segments may end elsewhere
                return


def _columns(checkpoint: Checkpoint, *, key: bytes) -> dict[str, Value]:
    return {
        "tenant": TENANT,
        "first_height": checkpoint.first_height,
        "height": checkpoint.link.height,
        "first_sequence": checkpoint.first_sequence,
        "sequence": checkpoint.link.sequence,
        "first_at": checkpoint.first_at,
        "last_at": checkpoint.last_at,
        "sealed": checkpoint.seal(key),
    }


async def prune(database: Database, *, retention_days: int, now: int, limit: int = PRUNE_LIMIT) -> int:
    """Delete sealed segments whose events are all older than the retention; the number of events. 0 days: keep all.

    Verifies each segment again first, so that pruning hides no tampering. Keeps events whose hash the tree doesn't have
    yet. Raises ChainBroken.
    """
    key, deleted = database.event_key, 0
    if key is None or retention_days == 0:
        return 0
    start, hashed = await load_start(database), await _last_hashed(database, key)
    for _ in range(limit):
        oldest = await _oldest_kept(database, key)
        if oldest is None or oldest.last_at >= now - retention_days * DAY or oldest.link.sequence > hashed:
            break
        walk = Walk(database, key=key, start=start, link=await _link_before(database, key, oldest))
        try:
            await walk.go(oldest.link.height)
            walk.confirm(oldest)
        except ChainBroken:
            if await _oldest_kept(database, key) == oldest:
                raise
            break  # another process pruned it in the meantime
        if not await _delete(database, replace(oldest, pruned_at=now, retention_days=retention_days), key=key, now=now):
            break  # another process is pruning it
        deleted += oldest.link.sequence - oldest.first_sequence + 1
    return deleted


async def _last_hashed(reader: Reader, key: bytes) -> int:
    """The last event whose hash the tree has; without a tree, every event counts."""
    logs = await load_logs(reader, key)
    return logs[-1].base + await count_leaves(reader) if logs else LAST


async def _oldest_kept(reader: Reader, key: bytes) -> Checkpoint | None:
    row = await reader.fetch_one(
        "select * from event_checkpoints where tenant = :tenant and pruned_at is null order by first_height limit 1",
        {"tenant": TENANT},
    )
    return None if row is None else Checkpoint.open(row, key)


async def _link_before(reader: Reader, key: bytes, checkpoint: Checkpoint) -> Link:
    row = await reader.fetch_one(
        "select * from event_checkpoints where tenant = :tenant and first_height < :height "
        "order by first_height desc limit 1",
        {"tenant": TENANT, "height": checkpoint.first_height},
    )
    return link_after(None if row is None else Checkpoint.open(row, key))


async def _delete(database: Database, gone: Checkpoint, *, key: bytes, now: int) -> bool:
    names = _columns(gone, key=key) | {"pruned_at": gone.pruned_at}
    async with database.transaction() as transaction:
        row = await transaction.fetch_one(
            "update event_checkpoints set pruned_at = :pruned_at, sealed = :sealed "
            "where tenant = :tenant and first_height = :first_height and pruned_at is null returning height",
            names,
        )
        if row is None:
            return False
        await transaction.execute(
            "delete from events where tenant = :tenant and sequence >= :first_sequence and sequence <= :sequence", names
        )
        await transaction.execute(
            "delete from event_batches where tenant = :tenant and height >= :first_height and height <= :height", names
        )
        details = {
            "first": gone.first_sequence,
            "last": gone.link.sequence,
            "first_at": gone.first_at,
            "last_at": gone.last_at,
            "retention_days": gone.retention_days,
        }
        await append(transaction, Event("activity.pruned", details=details), now=now)
    return True

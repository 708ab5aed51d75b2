"""The stored tree: reading its hashes, events before its first leaf, and hashes that are missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vault.audit.test_audit_keyed_head import change, fill
from tests.vault.audit.test_audit_log import leaves, many, simple_root, start_log, verify_chain
from vault.audit import segments
from vault.audit.audit import ChainBroken
from vault.audit.log import Log, extend, issue
from vault.audit.segments import prune, seal
from vault.audit.tree import LeafRun, Tree, count_leaves, load_leaves, narrow
from vault.keys.key_ring import KeyRing
from vault.records import DAY
from vault.storage.database import Database, binary


@pytest.fixture
async def log(database: Database, key_ring: KeyRing) -> Log:
    return await start_log(database)


@pytest.fixture
async def late(log: Log) -> Log:
    """A log that begins after event 3, although a restore brought the events before it back."""
    return replace(log, base=3)


async def test_hashes_are_read_from_any_leaf_to_any_other(database: Database, log: Log) -> None:
    for _ in range(2):
        await many(database, 300)
    await extend(database, log)
    hashed = await leaves(database)
    for begin, end in ((0, 1), (0, 256), (0, 257), (255, 257), (256, 257), (256, 512), (300, 310), (511, 513)):
        assert await load_leaves(database, begin, end) == b"".join(hashed[begin:end])
    assert await load_leaves(database, 598, 700) == b"".join(hashed[598:])
    await change(database, "delete from event_tiles where level = 0 and number = 1")
    assert await load_leaves(database, 0, 600) == b"".join(hashed[:256])
    with pytest.raises(ChainBroken) as broken:
        await verify_chain(database, log)
    assert broken.value.sequence == 257


async def test_events_before_the_first_leaf_are_left_out(database: Database, late: Log) -> None:
    await many(database, 5)  # one batch, across the first leaf
    await fill(database, 2)
    tree = await extend(database, late)
    hashed = (await leaves(database))[3:]
    assert (tree.size, await tree.root_at(4)) == (4, simple_root(hashed))
    await verify_chain(database, late)
    key = database.event_key
    assert key is not None
    await change(database, "update events set outcome = kind where sequence in (3, 5)")
    for sequence, named in ((3, 3), (4, 5)):
        broken = ChainBroken(sequence, "it was changed, removed, or inserted")
        assert (await narrow(database, key, broken, base=3)).sequence == named


@pytest.mark.parametrize("kept", [0, 1])
async def test_a_tree_without_the_hashes_above_its_leaves_does_not_grow(
    database: Database, late: Log, kept: int
) -> None:
    for count in (303, 300):
        await many(database, count)
    await extend(database, late)
    (above,) = await database.fetch("select hashes from event_tiles where level = 1")
    hashes = binary(above, "hashes")
    assert len(hashes) == 2 * 32
    await change(database, "update event_tiles set hashes = :kept where level = 1", kept=hashes[: kept * 32])
    await many(database, 213)
    with pytest.raises(ChainBroken, match="hashes of the tree before it were removed") as broken:
        await extend(database, late)
    assert broken.value.sequence == 604
    assert await count_leaves(database) == 600
    with pytest.raises(ChainBroken, match="hashes of the tree were removed") as broken:
        await Tree(database, 3, 600).root_at(512)
    assert broken.value.sequence == 4
    await change(database, "update event_tiles set hashes = :all where level = 1", all=hashes)
    assert (await extend(database, late)).size == 813


async def test_a_backlog_without_checkpoints_within_the_limit_is_added_at_once(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 3)
    await fill(database, 7)
    tree = await extend(database, log, limit=2)
    assert (tree.size, tree.stored) == (7, 0)
    await fill(database, 3)
    await seal(database, now=database.now())
    tree = await extend(database, log, limit=2)  # the next checkpoint is further away
    assert (tree.size, await tree.root_at(10)) == (10, simple_root(await leaves(database)))


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_events_that_another_process_prunes_while_the_tree_grows_are_no_fault(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch, *, is_damaged: bool
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 3)
    monkeypatch.setattr("vault.audit.proof.BATCH_PAGE", 2)
    await fill(database, 8)
    await seal(database, now=database.now())
    settle, runs = LeafRun.settle, list[LeafRun]()

    async def settle_after_others(run: LeafRun) -> None:
        runs.append(run)
        if len(runs) == 1:
            if is_damaged:
                await change(database, "delete from events where sequence = 5")
            else:
                await extend(database, log)
                assert await prune(database, retention_days=1, now=database.now() + 3 * DAY) == 6
        await settle(run)

    monkeypatch.setattr(LeafRun, "settle", settle_after_others)
    if is_damaged:
        with pytest.raises(ChainBroken) as broken:
            await extend(database, log)
        assert broken.value.sequence == 5
    else:
        assert (await extend(database, log)).size == 10  # each of the two segments left an event
        assert await issue(database, log, now=database.now()) is not None


async def test_events_are_pruned_as_soon_as_the_tree_has_the_last_one(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 3)
    await fill(database, 3)
    await extend(database, log)
    await fill(database, 3)
    await seal(database, now=database.now())
    now = database.now() + 3 * DAY
    assert await prune(database, retention_days=1, now=now) == 3
    await extend(database, log)
    assert await prune(database, retention_days=1, now=now) == 3

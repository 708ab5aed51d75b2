"""Checkpoints and pruning: what is kept is still proved, and what is gone is named with its retention rule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

import pytest

import vault.audit.segments
from tests.conftest import Store
from tests.support.inspection import verify_activity
from tests.vault.audit.test_audit_keyed_head import add, change, fill, forge
from vault import envelope
from vault.audit import proof
from vault.audit.audit import ChainBroken, list_events
from vault.audit.proof import head, last_checkpoint, prove
from vault.audit.segments import prune, seal
from vault.keys.key_ring import KeyRing
from vault.records import DAY, Event
from vault.storage.database import Database


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of three events."""
    monkeypatch.setattr(vault.audit.segments, "SEGMENT", 3)


async def days(database: Database, *, count: int, each: int = 6) -> None:
    """This many days with some events each, sealed every day; ends ten minutes before the next day begins."""
    for _ in range(count):
        await fill(database, each)
        await seal(database, now=database.now())
        database.clock_offset += DAY
    database.clock_offset -= 600


async def rows(database: Database, sql: str) -> list[int]:
    return [int(str(next(iter(row.values())))) for row in await database.fetch(sql)]


async def test_segments_are_sealed_once_they_are_full_or_old(database: Database, key_ring: KeyRing) -> None:
    await fill(database, 7)
    assert await seal(database, now=database.now()) == 7
    ends = "select sequence from event_checkpoints order by first_height"
    assert await rows(database, ends) == [3, 6]  # the seventh starts a segment that is still open
    await seal(database, now=database.now() + 3599)
    assert await rows(database, ends) == [3, 6]
    await seal(database, now=database.now() + 3600)
    assert await rows(database, ends) == [3, 6, 7]
    assert await seal(database, now=database.now() + 3600) == 0
    assert await verify_activity(database) == 7


async def test_a_run_seals_up_to_its_limit_and_the_next_one_continues(database: Database, key_ring: KeyRing) -> None:
    await fill(database, 10)
    assert [await seal(database, now=database.now(), limit=limit) for limit in (3, 4, 3)] == [3, 6, 1]
    assert await rows(database, "select sequence from event_checkpoints order by first_height") == [3, 6, 9]


async def test_old_segments_are_pruned_and_the_rest_is_proved_from_their_checkpoint(
    database: Database, key_ring: KeyRing
) -> None:
    await days(database, count=3)
    assert await prune(database, retention_days=2, now=database.now()) == 6
    report = await prove(database)
    (gone,) = report.pruned
    assert (gone.first, gone.last, gone.retention_days) == (1, 6, 2)
    assert gone.at == pytest.approx(database.now(), abs=2)
    assert (report.first, report.last) == (7, 20)  # two segments were removed, and each removal is an event
    assert await rows(database, "select min(sequence) from events") == [7]
    assert await rows(database, "select min(height) from event_batches") == [7]
    pruned = [event for event in await list_events(database) if event.kind == "activity.pruned"]
    assert [(event.details["first"], event.details["last"]) for event in pruned] == [(1, 3), (4, 6)]
    assert await prune(database, retention_days=2, now=database.now()) == 0
    assert await verify_activity(database) == 20


async def test_events_without_the_key_still_count_after_they_were_pruned(database: Database, key_ring: KeyRing) -> None:
    key = database.event_key
    for _ in range(2):  # one in each segment
        await fill(database, 2)
        database.event_key = None
        await add(database, Event("grant.created"))
        database.event_key = key
    await seal(database, now=database.now())
    assert (await prove(database)).unkeyed_count == 2
    assert await prune(database, retention_days=1, now=database.now() + 2 * DAY) == 6
    assert (await prove(database)).unkeyed_count == 2
    database.event_key = None
    await add(database, Event("grant.created"))
    database.event_key = key
    report = await prove(database)
    assert (report.unkeyed, report.unkeyed_count) == (((9, 9),), 3)


async def test_a_retention_of_no_days_keeps_everything(database: Database, key_ring: KeyRing) -> None:
    await days(database, count=2)
    assert await prune(database, retention_days=0, now=database.now() + 10_000 * DAY) == 0
    assert (await prove(database)).pruned == ()
    assert await prune(database, retention_days=1, now=database.now() + 10_000 * DAY) == 12


async def test_neighbours_under_another_retention_are_told_apart(database: Database, key_ring: KeyRing) -> None:
    await days(database, count=4)
    await prune(database, retention_days=3, now=database.now())
    await prune(database, retention_days=1, now=database.now())
    pruned = (await prove(database)).pruned
    assert [(one.first, one.last, one.retention_days) for one in pruned] == [(1, 6, 3), (7, 18, 1)]
    kept_at = (await rows(database, "select min(at) from events"))[0]  # an event of the fourth day
    times = [(one.first_at, one.last_at) for one in pruned]
    assert times == [
        (pytest.approx(kept_at - ago * DAY, abs=2), pytest.approx(kept_at - until * DAY, abs=2))
        for ago, until in ((3, 3), (2, 1))
    ]


async def test_the_chain_goes_on_when_every_event_of_it_was_pruned(database: Database, key_ring: KeyRing) -> None:
    await fill(database, 3)
    await seal(database, now=database.now())
    assert await prune(database, retention_days=1, now=database.now() + 86400) == 0
    assert await prune(database, retention_days=1, now=database.now() + 86401) == 3
    await change(database, "select 1")
    await fill(database, 3)
    assert await verify_activity(database) == 7


INSERT = "insert into events (tenant, sequence, at, kind, outcome, user_id, details)"
COPIED = "at, kind, outcome, user_id, details from events where sequence = 8"
TAMPERINGS = {  # and the event that is named
    "kept events said to be pruned": ("update event_checkpoints set pruned_at = 7 where first_height = 7", 7),
    "a checkpoint of pruned events removed": ("delete from event_checkpoints where first_height = 4", 4),
    "all checkpoints removed": ("delete from event_checkpoints", 1),
    "a checkpoint of another count": ("update event_checkpoints set sequence = 5 where first_height = 4", 4),
    "a checkpoint's time": ("update event_checkpoints set last_at = 5 where first_height = 4", 4),
    "a sealed checkpoint replaced": (
        (
            "update event_checkpoints set sealed = (select sealed from event_checkpoints where first_height = 1) "
            "where first_height = 4"
        ),
        4,
    ),
    "a kept event": ("update events set user_id = kind where sequence = 8", 8),
    "a kept event that is sealed, removed": ("delete from events where sequence = 12", 12),
    "the tag of a kept batch": ("update event_batches set tag = null where height = 8", 7),
    "an event put back among the pruned ones": (f"{INSERT} select tenant, 5, {COPIED}", 5),
    "an event before the first one": (f"{INSERT} select tenant, 0, {COPIED}", 0),
    "where a batch continues": ("update event_batches set previous_hash = hash where height = 14", 14),
}


@pytest.mark.requirement("V-09")
@pytest.mark.parametrize("what", TAMPERINGS)
async def test_tampering_after_pruning_is_noticed(database: Database, key_ring: KeyRing, what: str) -> None:
    await days(database, count=3)
    await prune(database, retention_days=2, now=database.now())
    assert await verify_activity(database) == 20
    statement, where = TAMPERINGS[what]
    await change(database, statement)
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == where


@pytest.mark.requirement("V-09")
async def test_deleted_events_cannot_be_passed_off_as_pruned(database: Database, key_ring: KeyRing) -> None:
    await days(database, count=2)
    await change(database, "delete from events where sequence <= 3")
    await change(database, "delete from event_batches where height <= 3")
    await change(database, "update event_checkpoints set pruned_at = 7 where first_height = 1")
    with pytest.raises(ChainBroken):
        await verify_activity(database)


async def test_what_was_rewritten_without_the_key_differs_from_its_checkpoint_and_is_not_pruned(
    database: Database, key_ring: KeyRing
) -> None:
    await days(database, count=2)
    await change(database, "update events set user_id = kind where sequence = 2")
    await change(database, "update event_batches set tag = null where height = 2")
    await forge(database, after=1)
    with pytest.raises(ChainBroken):
        await prune(database, retention_days=1, now=database.now() + DAY)
    with pytest.raises(ChainBroken, match="differ from their sealed record"):
        await verify_activity(database)
    assert await rows(database, "select count(*) from events") == [12]


@pytest.mark.parametrize(("height", "first"), [(2, 1), (11, 10)])
async def test_a_segment_whose_tag_was_removed_differs_from_its_checkpoint(
    database: Database, key_ring: KeyRing, height: int, first: int
) -> None:
    await days(database, count=2)
    await change(database, "update event_batches set tag = null where height = :height", height=height)
    with pytest.raises(ChainBroken, match=f"events up to {first + 2} differ from their sealed record") as broken:
        await prove(database)
    assert (broken.value.sequence, broken.value.after) == (first, first - 1)


async def test_neither_sealing_nor_pruning_goes_over_a_broken_chain(database: Database, key_ring: KeyRing) -> None:
    await days(database, count=2)
    await change(database, "update events set user_id = kind where sequence = 2")
    with pytest.raises(ChainBroken):
        await prune(database, retention_days=1, now=database.now() + DAY)
    assert len(await list_events(database)) == 12
    await change(database, "update events set user_id = :user where sequence = 2", user="alice")
    await fill(database, 5)
    await change(database, "delete from events where sequence = 17")
    await change(database, "delete from event_batches where height = 17")
    await forge(database, after=15)
    with pytest.raises(ChainBroken):
        await seal(database, now=database.now())
    assert await rows(database, "select max(sequence) from event_checkpoints") == [12]


async def test_a_checkpoint_spares_reading_what_it_sealed(database: Database, key_ring: KeyRing) -> None:
    await days(database, count=2)
    await fill(database, 2)
    key = database.event_key
    assert key is not None
    report = await prove(database, since=await last_checkpoint(database, key))
    assert (report.trusted, report.first, report.last) == (12, 13, 14)
    report = await prove(database, since=await last_checkpoint(database, key, before=database.now() - DAY - 60))
    assert (report.trusted, report.first, report.last) == (6, 7, 14)
    await change(database, "update events set user_id = kind where sequence = 2")  # before the range, so it isn't read
    assert (await prove(database, since=await last_checkpoint(database, key))).last == 14
    with pytest.raises(ChainBroken):
        await verify_activity(database)


@pytest.mark.requirement("V-09")
async def test_a_chain_cut_behind_its_last_checkpoint_is_noticed(database: Database, key_ring: KeyRing) -> None:
    await days(database, count=2)
    await change(database, "delete from events where sequence > 8")
    await change(database, "delete from event_batches where height > 8")
    await forge(database, after=7)
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == 9
    key = database.event_key
    assert key is not None
    with pytest.raises(ChainBroken):
        await prove(database, since=await last_checkpoint(database, key))


async def test_a_limit_stops_early_and_says_so(database: Database) -> None:
    await fill(database, 5)
    report = await prove(database, limit=2)
    assert (report.last, report.is_complete) == (2, False)
    assert (await prove(database, limit=5)).is_complete


@pytest.mark.parametrize(("limit", "last"), [(1, 1), (3, 3), (4, 4), (7, 7), (11, 11)])
async def test_a_limit_stops_between_checkpoints_too(
    database: Database, key_ring: KeyRing, limit: int, last: int
) -> None:
    await days(database, count=2)
    report = await prove(database, limit=limit)
    assert (report.last, report.is_complete) == (last, False)
    assert (await prove(database, limit=12)).is_complete


async def test_a_limit_counts_what_is_read_after_what_was_pruned(database: Database, key_ring: KeyRing) -> None:
    await days(database, count=3)
    assert await prune(database, retention_days=2, now=database.now()) == 6
    report = await prove(database, limit=4)
    assert (report.first, report.last, report.is_complete) == (7, 10, False)


async def test_processes_that_seal_and_prune_at_once_do_it_once(store: Store) -> None:
    databases = [await store.open() for _ in range(3)]
    try:
        for one in databases:
            await store.open_keys(one)
        await fill(databases[0], 12)
        async with asyncio.timeout(60):
            await asyncio.gather(*(seal(one, now=one.now()) for one in databases))
            now = databases[0].now() + 3 * DAY
            deleted = await asyncio.gather(
                *(prune(one, retention_days=1, now=now) for one in databases),
                *(add(one, Event("tool.called")) for one in databases for _ in range(5)),
            )
        assert sum(one for one in deleted if one is not None) == 12
        assert await verify_activity(databases[1]) == 12 + 15 + 4
    finally:
        for one in databases:
            await one.close()


class Interruption:
    """Follows a walk, and once does something after its first page, as another process may at any time."""

    def __init__(self, happen: Callable[[], Awaitable[object]]) -> None:
        self._happen: Callable[[], Awaitable[object]] | None = happen

    def take(self, sequence: int, tails: Sequence[str]) -> None:
        pass

    async def settle(self) -> None:
        happen, self._happen = self._happen, None
        if happen is not None:
            await happen()


async def test_events_that_are_pruned_while_they_are_verified_are_no_fault(
    database: Database, key_ring: KeyRing
) -> None:
    await days(database, count=3)
    following = Interruption(lambda: prune(database, retention_days=2, now=database.now()))
    report = await prove(database, follow=lambda: following)
    assert [(one.first, one.last) for one in report.pruned] == [(1, 6)]
    assert (report.first, report.last, report.is_complete) == (7, 20, True)
    following = Interruption(lambda: change(database, "delete from events where sequence = 17"))
    with pytest.raises(ChainBroken) as broken:
        await prove(database, follow=lambda: following)
    assert broken.value.sequence == 17


async def test_events_that_are_sealed_while_others_are_verified_are_no_fault(
    database: Database, key_ring: KeyRing
) -> None:
    await days(database, count=1)

    async def add_and_seal(count: int) -> None:
        await fill(database, count)
        await seal(database, now=database.now())

    for added, last in ((3, 6), (4, 9)):
        following = Interruption(lambda added=added: add_and_seal(added))
        report = await prove(database, follow=lambda following=following: following)
        assert (report.last, report.is_complete) == (last, True)
    assert (await head(database)).sequence == 13


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", '{"keyed":null,"height":null}'])
async def test_a_checkpoint_with_other_content_is_refused(database: Database, key_ring: KeyRing, content: str) -> None:
    await days(database, count=1)
    assert await verify_activity(database) == 6
    key = database.event_key
    assert key is not None
    sealed = envelope.seal(content.encode(), key=key, key_id=proof._KEY_ID, context=proof._CONTEXT)
    await change(database, "update event_checkpoints set sealed = :sealed where first_height = 4", sealed=sealed)
    with pytest.raises(ChainBroken, match="a checkpoint wasn't made by this vault") as broken:
        await verify_activity(database)
    assert broken.value.sequence == 4


async def test_a_pruned_span_is_told_with_the_times_of_its_first_and_its_last_event(
    database: Database, key_ring: KeyRing
) -> None:
    began = database.now()
    for _ in range(3):
        await fill(database, 1)
        database.clock_offset += 60
    await seal(database, now=database.now())
    assert await prune(database, retention_days=1, now=database.now() + 2 * DAY) == 3
    (gone,) = (await prove(database)).pruned
    assert gone.first_at == pytest.approx(began, abs=2)
    assert gone.last_at - gone.first_at == pytest.approx(120, abs=2)


async def test_who_has_no_key_verifies_what_is_kept(database: Database, key_ring: KeyRing) -> None:
    await days(database, count=3)
    await prune(database, retention_days=2, now=database.now())
    database.event_key = None
    assert await verify_activity(database) == 20
    assert await seal(database, now=database.now()) == 0
    assert await prune(database, retention_days=1, now=database.now()) == 0


async def test_what_was_pruned_is_recorded_with_its_rule(database: Database, key_ring: KeyRing) -> None:
    await days(database, count=2, each=3)
    await prune(database, retention_days=1, now=database.now())
    (row,) = await database.fetch("select details from events where kind = :kind", {"kind": "activity.pruned"})
    details = json.loads(str(row["details"]))
    assert (details["first"], details["last"], details["retention_days"]) == (1, 3, 1)

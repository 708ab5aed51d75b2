"""The keyed head: what someone with the database but without the vault's key can no longer do unnoticed."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Store
from tests.support.inspection import verify_activity
from vault.audit import segments
from vault.audit.audit import Activity, ChainBroken, append, head, restart_keyed_head
from vault.audit.proof import EVENT_PAGE, load_start, prove
from vault.keys.key_ring import KeyRing
from vault.records import Event
from vault.refresh import sightings
from vault.storage.database import Database, binary, integer
from vault.storage.event_chain import digest, entry_of, tail


async def add(database: Database, *events: Event) -> None:
    async with database.transaction() as transaction:
        await append(transaction, *events, now=database.now())


async def change(database: Database, sql: str, **parameters: str | int | bytes | None) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(sql, parameters)


async def fill(database: Database, count: int = 5) -> None:
    """Batches of one event each, alternately alone and with a change."""
    activity = Activity(database)
    for number in range(1, count + 1):
        event = Event("tool.called", user_id="alice", details={"number": number})
        if number % 2:
            await add(database, event)
        else:
            await activity.record(event)
    await activity.close()


async def forge(database: Database, *, after: int) -> None:
    """Number the events and recompute the hash chain, as anyone who knows the format can do without the key."""
    batches = await database.fetch(
        "select * from event_batches where height > :after order by height", {"after": after}
    )
    previous = bytes(32)
    if after:
        (row,) = await database.fetch("select hash from event_batches where height = :after", {"after": after})
        previous = binary(row, "hash")
    sequence, height = after, after
    async with database.transaction() as transaction:
        for batch in batches:
            (event,) = await transaction.fetch(
                "select * from events where sequence = :old", {"old": integer(batch, "first_sequence")}
            )
            at = integer(batch, "at")
            await transaction.execute(
                "update events set sequence = :new where sequence = :old",
                {"new": sequence + 1, "old": event["sequence"]},
            )
            hashed = digest(previous, height=height + 1, sequence=sequence, at=at, tails=[tail(entry_of(event), at=at)])
            await transaction.execute(
                "update event_batches set height = :height, first_sequence = :sequence, last_sequence = :sequence, "
                "previous_hash = :previous, hash = :hash where height = :old",
                {
                    "height": height + 1,
                    "sequence": sequence + 1,
                    "previous": previous,
                    "hash": hashed,
                    "old": batch["height"],
                },
            )
            previous, sequence, height = hashed, sequence + 1, height + 1
        await transaction.execute(
            "update event_heads set height = :height, sequence = :sequence, hash = :hash",
            {"height": height, "sequence": sequence, "hash": previous},
        )


@pytest.mark.requirement("V-09")
async def test_events_written_with_the_key_are_proved_from_the_first_on(database: Database, key_ring: KeyRing) -> None:
    assert await verify_activity(database) == 0
    await fill(database)
    report = await prove(database)
    assert (report.first, report.last, report.keyed_from) == (1, 5, 1)
    assert report.unkeyed == ()
    assert report.is_complete
    assert await verify_activity(database) == 5


@pytest.mark.requirement("V-09")
async def test_a_tail_that_was_cut_with_the_head_set_back_is_noticed(database: Database, key_ring: KeyRing) -> None:
    await fill(database)
    await change(database, "delete from events where sequence > 3")
    await change(database, "delete from event_batches where height > 3")
    await forge(database, after=2)  # this sets the head back
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == 4


@pytest.mark.requirement("V-09")
async def test_a_chain_cut_back_to_nothing_is_noticed(database: Database, key_ring: KeyRing) -> None:
    await fill(database)
    await change(database, "delete from events")
    await change(database, "delete from event_batches")
    await change(database, "update event_heads set height = 0, sequence = 0, hash = :start", start=bytes(32))
    with pytest.raises(ChainBroken):
        await verify_activity(database)
    await change(database, "update event_heads set keyed = null")
    with pytest.raises(ChainBroken):
        await verify_activity(database)
    await change(database, "delete from event_heads")
    with pytest.raises(ChainBroken):
        await verify_activity(database)


@pytest.mark.requirement("V-09")
async def test_an_event_beyond_the_head_is_named(database: Database) -> None:
    await fill(database)
    await change(
        database,
        "insert into events (tenant, sequence, at, kind, outcome, details) values (:t, 6, 7, :kind, :kind, :kind)",
        t="default",
        kind="forged",
    )
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == 6
    await change(database, "delete from events where sequence = 6")
    assert await verify_activity(database) == 5


@pytest.mark.requirement("V-09")
async def test_a_batch_beyond_the_head_is_named(database: Database) -> None:
    await fill(database)
    await change(
        database,
        "insert into event_batches (tenant, height, first_sequence, last_sequence, previous_hash, hash, at) "
        "values (:t, 6, 6, 6, :hash, :hash, 7)",
        t="default",
        hash=bytes(32),
    )
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == 6


@pytest.mark.requirement("V-09")
async def test_an_event_appended_by_the_rules_but_without_the_key_is_named(
    database: Database, key_ring: KeyRing
) -> None:
    await fill(database)
    key, database.event_key = database.event_key, None
    await add(database, Event("grant.created", user_id="mallory"))
    database.event_key = key
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == 6
    await fill(database, 2)  # a later event with the key covers it but doesn't hide it
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == 6
    report = await prove(database)
    assert (report.unkeyed, report.unkeyed_count) == (((6, 6),), 1)


async def test_neighbors_without_the_key_are_named_as_one_span(database: Database, key_ring: KeyRing) -> None:
    await fill(database)
    key = database.event_key
    for has_key in (False, False, False, True, False, False):
        database.event_key = key if has_key else None
        await add(database, Event("grant.created", user_id="mallory"))
    database.event_key = key
    report = await prove(database)
    assert (report.unkeyed, report.unkeyed_count) == (((6, 8), (10, 11)), 5)
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == 6


async def test_20_spans_without_the_key_are_named_and_all_are_counted(database: Database, key_ring: KeyRing) -> None:
    key = database.event_key
    for number in range(42):
        database.event_key = key if number % 2 == 0 else None
        await add(database, Event("grant.created", user_id="mallory"))
    database.event_key = key
    report = await prove(database)
    assert (len(report.unkeyed), report.unkeyed_count) == (20, 21)


@pytest.mark.requirement("V-09")
@pytest.mark.parametrize("count", [1, 5])
async def test_a_batch_that_claims_to_begin_pages_later_is_named(database: Database, count: int) -> None:
    await fill(database, count)
    await change(database, "update event_batches set first_sequence = :first where height = 1", first=2 + EVENT_PAGE)
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == 1


@pytest.mark.requirement("V-09")
async def test_an_event_appended_with_another_key_is_named(database: Database, key_ring: KeyRing) -> None:
    await fill(database)
    key, database.event_key = database.event_key, bytes(32)
    await add(database, Event("grant.created", user_id="mallory"))
    database.event_key = key
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == 6


REWRITTEN = {
    "altered": (["update events set user_id = :new where sequence = 3"], 3),
    "deleted": (
        ["delete from events where sequence = 3 and kind <> :new", "delete from event_batches where height = 3"],
        5,
    ),
    "reordered": (
        [
            "update events set sequence = 30 where sequence = 3 and kind <> :new",
            "update events set sequence = 3 where sequence = 4",
            "update events set sequence = 4 where sequence = 30",
        ],
        3,
    ),
}


@pytest.mark.requirement("V-09")
@pytest.mark.parametrize("how", REWRITTEN)
async def test_a_rewritten_past_with_a_hash_chain_computed_anew_is_noticed(
    database: Database, key_ring: KeyRing, how: str
) -> None:
    await fill(database)
    statements, where = REWRITTEN[how]
    async with database.transaction() as transaction:
        for statement in statements:
            await transaction.execute(statement, {"new": "mallory"} if ":new" in statement else {})
    await forge(database, after=2)
    database.event_key, key = None, database.event_key
    assert await verify_activity(database) >= 4  # without the key, nobody would notice
    database.event_key = key
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == where


async def test_many_processes_append_to_one_keyed_chain(store: Store) -> None:
    databases = [await store.open() for _ in range(3)]
    try:
        for one in databases:
            await store.open_keys(one)
        recorders = [Activity(one) for one in databases]
        async with asyncio.timeout(120):
            await asyncio.gather(
                *(recorders[number % 3].record(Event("tool.called", client_id=f"{number}")) for number in range(150)),
                *(add(databases[number % 3], Event("a"), Event("b")) for number in range(60)),
            )
        report = await prove(databases[0])
        assert (report.last, report.unkeyed_count) == (270, 0)
        for recorder in recorders:
            await recorder.close()
    finally:
        for one in databases:
            await one.close()


TEXTS = ("plain", "quote ' and $1 and \\ and ; commit", '"', "line\nfeed\ttab", "\u2028é😀", "{braces} :colon", "")


@pytest.mark.parametrize("text", TEXTS)
async def test_any_text_is_chained_as_it_is_stored(
    database: Database, key_ring: KeyRing, activity: Activity, text: str
) -> None:
    event = Event("kind", outcome="ok", user_id=text, client_id=text, details={"text": text, "zero": "\x00"})
    await add(database, event, event)
    await activity.record(event)
    assert await verify_activity(database) == 3
    rows = await database.fetch("select user_id, details from events")
    assert {row["user_id"] for row in rows} == {text}


async def test_the_key_takes_over_a_chain_that_began_without_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 2)
    database = await store.open()
    try:
        await change(database, "delete from keys.event_starts")
        await change(database, "delete from event_heads")
        await fill(database, 3)  # as an earlier release did
        await store.open_keys(database)
        await fill(database, 2)
        report = await prove(database)
        assert (report.first, report.last, report.keyed_from, report.unkeyed_count) == (1, 6, 4, 0)
        (noted,) = await database.fetch("select details from events where kind = :kind", {"kind": "activity.keyed"})
        assert noted["details"] == '{"after":3}'
        await store.open_keys(database)  # a second start changes nothing
        async with database.transaction() as transaction:  # of two that started at once, the second changes nothing
            await restart_keyed_head(transaction, bytes(32), now=database.now())
        assert (await head(database)).sequence == 6
        assert (await prove(database)).last == 6
        assert await segments.seal(database, now=database.now()) == 6  # the first segment ends before the key
        report = await prove(database)
        assert (report.last, report.keyed_from, report.unkeyed_count) == (6, 4, 0)
        assert await segments.prune(database, retention_days=1, now=database.now() + 2 * 86400) == 6
        report = await prove(database)
        assert (report.first, report.keyed_from, report.unkeyed_count) == (7, 4, 0)
    finally:
        await database.close()


async def test_a_chain_cut_back_to_before_the_key_came_into_use_is_noticed(store: Store) -> None:
    database = await store.open()
    try:
        await change(database, "delete from keys.event_starts")
        await change(database, "delete from event_heads")
        await fill(database, 3)
        await store.open_keys(database)
        for height in (3, 2):
            await change(database, "delete from events where sequence > :height", height=height)
            await change(database, "delete from event_batches where height > :height", height=height)
            (batch,) = await database.fetch("select hash from event_batches where height = :at", {"at": height})
            await change(
                database,
                "update event_heads set height = :height, sequence = :height, hash = :hash, keyed = null",
                height=height,
                hash=binary(batch, "hash"),
            )
            why = "it's missing" if height == 3 else "there were once 3 events"
            with pytest.raises(ChainBroken, match=why) as broken:
                await verify_activity(database)
            assert (broken.value.sequence, broken.value.after) == (height + 1, 0)
    finally:
        await database.close()


async def test_a_chain_that_never_used_the_key_is_verified_although_the_key_is_open(store: Store) -> None:
    database = await store.open()
    try:
        await change(database, "delete from keys.event_starts")
        await change(database, "delete from event_heads")
        await fill(database, 3)
        database.event_key = bytes(32)
        report = await prove(database)
        assert (report.first, report.last, report.keyed_from, report.unkeyed_count) == (1, 3, None, 0)
    finally:
        await database.close()


@pytest.mark.parametrize("left", ["everything", "tags", "head", "a checkpoint"])
async def test_where_the_key_came_into_use_cannot_be_forgotten_to_have_it_begin_anew(
    store: Store, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await store.open()
    try:
        await store.open_keys(database)
        await fill(database, 5)
        if left == "a checkpoint":
            monkeypatch.setattr(segments, "SEGMENT", 2)
            assert await segments.seal(database, now=database.now() + 10 * 86400)
        (kept,) = await database.fetch("select * from keys.event_starts")
        await change(database, "delete from keys.event_starts")
        if left in ("head", "a checkpoint"):
            await change(database, "update event_batches set tag = null")
        if left in ("tags", "a checkpoint"):
            await change(database, "update event_heads set keyed = null")
        await store.open_keys(database)  # the next start
        assert await load_start(database) is None
        with pytest.raises(ChainBroken, match="came into use was removed") as broken:
            await prove(database)
        assert (broken.value.sequence, broken.value.after) == (1, 0)
        if left == "everything":  # the twin: with the note, everything is as before
            names = ("tenant", "height", "sequence", "created_at")
            await change(
                database,
                "insert into keys.event_starts (tenant, height, sequence, created_at)"
                " values (:tenant, :height, :sequence, :created_at)",
                **{name: kept[name] for name in names},
            )
            assert await verify_activity(database) == 5
    finally:
        await database.close()


async def test_this_host_notices_a_key_that_began_anew_where_every_trace_of_the_first_was_removed(store: Store) -> None:
    database = await store.open()
    try:
        await store.open_keys(database)
        await fill(database, 3)
        assert await sightings.note(database, store.data) is None
        assert (store.data / sightings.FILE).stat().st_mode & 0o777 == 0o600
        assert await sightings.look(database, store.data) is None  # the twin
        for statement in (
            "delete from keys.event_starts",
            "update event_batches set tag = null",
            "update event_heads set keyed = null",
        ):
            await change(database, statement)
        await store.open_keys(database)
        assert await verify_activity(database) == 4  # the database itself shows no trace
        found = await sightings.look(database, store.data)
        assert found is not None and found.is_rekeyed
        sightings.forget(store.data)
        assert await sightings.note(database, store.data) is None
    finally:
        await database.close()


async def test_a_refused_transaction_appends_nothing(database: Database, key_ring: KeyRing) -> None:
    before = await head(database)
    with pytest.raises(KeyError):
        async with database.transaction() as transaction:
            await append(transaction, Event("grant.revoked"), now=1)
            raise KeyError("refused")
    assert await head(database) == before
    await fill(database, 1)
    assert await verify_activity(database) == 1

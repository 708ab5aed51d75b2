"""The log over the activity: its tree grows with verified events; a signed checkpoint finds what the chain can't."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.inspection import verify_activity
from tests.vault.audit.test_audit_keyed_head import add, change, fill
from vault.audit import log as logs
from vault.audit import segments
from vault.audit.audit import ChainBroken, append, list_events
from vault.audit.deliveries import end_turn, take_turn
from vault.audit.log import Log, begin_log, check_consistent, check_note, extend, issue, load_logs, rotate_log_key
from vault.audit.merkle import leaf_hash, root_of_inclusion
from vault.audit.notes import Note, NoteRefused, TreeHead
from vault.audit.proof import prove
from vault.audit.segments import prune, seal
from vault.audit.tree import LeafRun, Tree, count_leaves, leaf_data, load_leaves, narrow
from vault.keys.key_ring import KeyRing
from vault.records import DAY, Event
from vault.storage.database import Database, integer
from vault.storage.event_chain import entry_of, tail

PLACE = "vault.example/activity"


async def start_log(database: Database) -> Log:
    return await begin_log(database, place=PLACE, now=database.now())


async def many(database: Database, count: int) -> None:
    """A batch of this many events."""
    await add(database, *(Event("tool.called", user_id="alice", details={"number": one}) for one in range(count)))


async def verify_chain(database: Database, log: Log) -> None:
    """Verify the chain, and every event with its stored hash."""
    key = database.event_key
    assert key is not None
    stored = await count_leaves(database)
    await prove(database, follow=lambda: LeafRun(database, key, base=log.base, stored=stored))


async def leaves(database: Database) -> list[bytes]:
    """The leaf of every event, as its format says."""
    key = database.event_key
    assert key is not None
    rows = await database.fetch("select * from events order by sequence")
    return [
        leaf_hash(leaf_data(key, sequence=integer(row, "sequence"), tail=tail(entry_of(row), at=integer(row, "at"))))
        for row in rows
    ]


def simple_root(hashed: list[bytes]) -> bytes:
    """The definition in RFC 6962 §2.1, implemented literally."""
    if len(hashed) == 1:
        return hashed[0]
    middle = 1 << (len(hashed) - 1).bit_length() - 1
    import hashlib

    return hashlib.sha256(b"\x01" + simple_root(hashed[:middle]) + simple_root(hashed[middle:])).digest()


async def test_the_tree_is_that_of_the_events_however_it_grew(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    for count in (3, 250, 4, 600, 1):
        await many(database, count)
        tree = await extend(database, log)
        hashed = await leaves(database)
        assert tree.size == len(hashed)
        assert await tree.root_at(tree.size) == simple_root(hashed)
    stored = Tree(database, 0, await count_leaves(database))
    for size in (1, 255, 256, 257, 512, 700, 858):
        assert await stored.root_at(size) == simple_root(hashed[:size])
    for index in (0, 255, 256, 700, 857):
        path = await stored.prove(index, 858)
        assert root_of_inclusion(hashed[index], index, 858, path) == simple_root(hashed)
    await verify_chain(database, log)


async def test_a_tree_that_is_too_short_names_the_first_event_without_a_hash(
    database: Database, key_ring: KeyRing
) -> None:
    log = await start_log(database)
    await many(database, 5)
    tree = await extend(database, log)
    hashes = await load_leaves(database, 0, 5)
    assert await Tree(database, 0, 0, hashes).root_at(5) == await tree.root_at(5)
    for stored, fresh, why in ((0, hashes, "the tree is shorter"), (6, b"", "hashes of the tree were removed")):
        with pytest.raises(ChainBroken, match=why) as broken:
            await Tree(database, 7, stored, fresh).root_at(6)
        assert broken.value.sequence == 7 + 5


async def test_levels_above_are_kept(database: Database, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault.audit.tree.TILE", 4)
    monkeypatch.setattr("vault.audit.tree.TILE_BITS", 2)
    monkeypatch.setattr("vault.audit.tree.TILE_LENGTH", 128)
    log = await start_log(database)
    for count in (5, 1, 60, 7, 30):
        await many(database, count)
        await extend(database, log)
    hashed = await leaves(database)
    stored = Tree(database, 0, await count_leaves(database))
    for size in range(1, len(hashed) + 1):
        assert await stored.root_at(size) == simple_root(hashed[:size])
    rows = await database.fetch("select level, count(*) as tiles from event_tiles group by level order by level")
    assert [(row["level"], row["tiles"]) for row in rows] == [(0, 26), (1, 7), (2, 2), (3, 1)]


async def test_a_tile_has_256_hashes(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    for _ in range(2):
        await many(database, 300)
    await extend(database, log)
    stored = Tree(database, 0, await count_leaves(database))
    assert await stored.root_at(600) == simple_root(await leaves(database))
    rows = await database.fetch("select level, length(hashes) as n from event_tiles order by level, number")
    assert [(row["level"], row["n"]) for row in rows] == [(0, 256 * 32), (0, 256 * 32), (0, 88 * 32), (1, 2 * 32)]


async def test_the_last_event_of_the_largest_batch_is_named(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    await many(database, 500)
    await extend(database, log)
    await change(database, "update events set outcome = kind where sequence = 500")
    with pytest.raises(ChainBroken) as broken:
        await verify_chain(database, log)
    named = await narrow(database, database.event_key, broken.value, base=log.base)
    assert named.sequence == 500


async def test_a_backlog_grows_from_sealed_checkpoint_to_sealed_checkpoint(
    database: Database, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 3)
    await fill(database, 14)
    await seal(database, now=database.now(), limit=None)
    log = await start_log(database)
    tree = await extend(database, log, limit=4)
    assert tree.size == 14
    assert await tree.root_at(14) == simple_root(await leaves(database))


async def test_what_was_verified_on_the_way_through_a_backlog_stays(
    database: Database, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 3)
    await fill(database, 14)
    await seal(database, now=database.now(), limit=None)
    log = await start_log(database)
    await change(database, "update events set outcome = kind where sequence = 12")
    with pytest.raises(ChainBroken):
        await extend(database, log, limit=4)
    assert 0 < await count_leaves(database) < 12


async def test_a_checkpoint_is_signed_once_for_each_size(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    assert await issue(database, log, now=database.now()) is None
    await fill(database, 3)
    first = await issue(database, log, now=database.now())
    assert first is not None
    assert (first.head.origin, first.head.size) == (log.origin, 3)
    assert first.head.root == simple_root(await leaves(database))
    assert await issue(database, log, now=database.now() + 9) == first
    await fill(database, 1)
    second = await issue(database, log, now=database.now())
    assert second is not None
    assert second.head.size == 4
    assert check_note(Note.parse(str(second.note)), log) == second.head


async def test_the_newest_1000_checkpoints_are_kept(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    for count in range(3):
        await fill(database, 1)
        await issue(database, log, now=database.now())
        row = await database.fetch_one("select * from event_notes")
        if count == 0 and row is not None:
            names = ", ".join(row)
            async with database.transaction() as transaction:
                await transaction.execute_many(
                    f"insert into event_notes ({names}) values ({', '.join(f':{name}' for name in row)})",
                    [{**row, "size": -number} for number in range(999)],
                )
    sizes = [row["size"] for row in await database.fetch("select size from event_notes order by size")]
    assert (len(sizes), sizes[0], sizes[-3:]) == (1000, -996, [1, 2, 3])


TAMPERINGS = {
    "altered": ("update events set outcome = kind where sequence = 7", 7),
    "deleted": ("delete from events where sequence = 7", 7),
    "reordered": (
        (
            "update events set details = case sequence when 7 then "
            "(select details from events where sequence = 9) else (select details from events where sequence = 7) end "
            "where sequence in (7, 9)"
        ),
        7,
    ),
}


@pytest.mark.requirement("V-09")
@pytest.mark.parametrize("what", TAMPERINGS)
async def test_the_first_bad_event_of_a_batch_is_named_itself(database: Database, key_ring: KeyRing, what: str) -> None:
    log = await start_log(database)
    await fill(database, 2)
    await many(database, 20)
    await issue(database, log, now=database.now())
    await verify_chain(database, log)
    sql, bad = TAMPERINGS[what]
    await change(database, sql)
    with pytest.raises(ChainBroken) as broken:
        await verify_chain(database, log)
    assert database.event_key is not None
    named = await narrow(database, database.event_key, broken.value, base=log.base)
    assert named.sequence == bad
    with pytest.raises(ChainBroken):
        await issue(database, log, now=database.now())


@pytest.mark.requirement("V-09")
async def test_an_inserted_event_is_named(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    await fill(database, 2)
    await many(database, 20)
    await issue(database, log, now=database.now())
    for sequence in range(22, 9, -1):
        await change(database, "update events set sequence = :to where sequence = :old", to=sequence + 1, old=sequence)
    columns = "tenant, at, kind, outcome, user_id, client_id, connection_id, details"
    await change(
        database, f"insert into events (sequence, {columns}) select 10, {columns} from events where sequence = 3"
    )
    with pytest.raises(ChainBroken) as broken:
        await verify_chain(database, log)
    assert database.event_key is not None
    assert (await narrow(database, database.event_key, broken.value, base=0)).sequence == 10


@pytest.mark.requirement("V-09")
async def test_a_history_rewritten_with_the_key_doesnt_continue_the_signed_tree(store: Store) -> None:
    """Whoever has database and key can write any history, but can't change a checkpoint that left the host."""
    databases = [await store.open() for _ in range(2)]
    try:
        database = databases[0]
        await store.open_keys(database)
        log = await start_log(database)
        await fill(database, 6)
        signed = await issue(database, log, now=database.now())
        assert signed is not None
        for table in ("events", "event_batches", "event_heads", "event_tiles", "event_notes", "event_checkpoints"):
            await change(database, f"delete from {table}")
        await change(database, "delete from keys.event_starts")
        await store.open_keys(databases[1])  # with the key, as on the first day
        await many(databases[1], 8)
        assert await verify_activity(databases[1]) == 8
        tree = await extend(databases[1], log)
        with pytest.raises(ChainBroken, match="differ from a signed checkpoint") as broken:
            await check_consistent(tree, signed.head)
        assert broken.value.sequence == 1  # any event can be the one that differs
        await check_consistent(tree, TreeHead(log.origin, 8, simple_root(await leaves(databases[1]))))
    finally:
        for one in databases:
            await one.close()


@pytest.mark.requirement("V-09")
async def test_a_tail_cut_with_the_head_set_back_is_shorter_than_the_signed_tree(
    database: Database, key_ring: KeyRing
) -> None:
    log = await start_log(database)
    await fill(database, 3)
    (head,) = await database.fetch("select height, sequence, hash, keyed from event_heads")
    await fill(database, 3)
    signed = await issue(database, log, now=database.now())
    assert signed is not None
    await change(database, "delete from events where sequence > 3")
    await change(database, "delete from event_batches where height > 3")
    await change(
        database,
        "update event_heads set height = :height, sequence = :sequence, hash = :hash, keyed = :keyed",
        **{name: head[name] for name in ("height", "sequence", "hash", "keyed")},  # pyright: ignore[reportArgumentType]
    )
    assert await verify_activity(database) == 3  # an older keyed head matches
    with pytest.raises(ChainBroken) as broken:
        await extend(database, log)
    assert broken.value.sequence == 4
    with pytest.raises(ChainBroken, match="vouches for events up to 6") as missing:
        await check_consistent(Tree(database, 0, 3), signed.head)
    assert missing.value.sequence == 4


@pytest.mark.requirement("V-09")
async def test_a_changed_hash_of_the_tree_is_noticed(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    await many(database, 5)
    await issue(database, log, now=database.now())
    hashes = await load_leaves(database, 0, 5)
    await change(database, "update event_tiles set hashes = :hashes", hashes=hashes[:64] + bytes(32) + hashes[96:])
    with pytest.raises(ChainBroken) as broken:
        await verify_chain(database, log)
    assert broken.value.sequence == 3
    await change(database, "update event_tiles set hashes = :hashes", hashes=hashes)
    await verify_chain(database, log)
    await change(database, "delete from event_tiles")
    await many(database, 1)
    with pytest.raises(ChainBroken):
        await prove(database, follow=lambda: LeafRun(database, database.event_key or b"", base=0, stored=5))


async def test_a_checkpoint_of_another_log_or_with_a_forged_signature_is_refused(
    database: Database, key_ring: KeyRing
) -> None:
    log = await start_log(database)
    await fill(database, 3)
    issued = await issue(database, log, now=database.now())
    assert issued is not None
    text = str(issued.note)
    assert check_note(Note.parse(text), log) == issued.head
    with pytest.raises(NoteRefused, match="another log"):
        check_note(Note.parse(text.replace(PLACE, "other.example/activity")), log)
    with pytest.raises(NoteRefused, match="is wrong"):
        check_note(Note.parse(text.replace("\n3\n", "\n2\n")), log)
    stranger = text.replace("— ", "— stranger.example/")
    with pytest.raises(NoteRefused, match="isn't signed by a key of this vault"):
        check_note(Note.parse(stranger), log)
    await change(database, "update event_notes set note = :note", note=text.replace("\n3\n", "\n2\n"))
    with pytest.raises(ChainBroken, match="a checkpoint of the vault was changed"):
        await issue(database, log, now=database.now())


async def test_pruned_events_leave_their_hashes_and_every_proof(
    database: Database, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 3)
    log = await start_log(database)
    await fill(database, 8)
    hashed = await leaves(database)
    await seal(database, now=database.now())
    assert await prune(database, retention_days=1, now=database.now() + 3 * DAY) == 0  # they aren't in the tree yet
    signed = await issue(database, log, now=database.now())
    assert signed is not None
    assert await prune(database, retention_days=1, now=database.now() + 3 * DAY) == 6
    await verify_chain(database, log)
    tree = await extend(database, log)
    await check_consistent(tree, signed.head)
    path = await tree.prove(1, signed.head.size)
    assert root_of_inclusion(hashed[1], 1, signed.head.size, path) == signed.head.root
    assert (await issue(database, log, now=database.now())) != signed


async def test_a_log_that_begins_late_leaves_out_what_was_pruned(
    database: Database, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 3)
    await fill(database, 7)
    await seal(database, now=database.now())
    assert await prune(database, retention_days=1, now=database.now() + 3 * DAY) == 6
    log = await start_log(database)
    assert log.base == 6
    tree = await extend(database, log)
    assert await tree.root_at(tree.size) == simple_root(await leaves(database))
    await verify_chain(database, log)


async def test_a_log_that_begins_late_names_events_by_their_own_numbers(
    database: Database, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 3)
    await fill(database, 7)
    await seal(database, now=database.now())
    await prune(database, retention_days=1, now=database.now() + 3 * DAY)
    monkeypatch.setattr("vault.audit.proof.BATCH_PAGE", 2)
    log = await start_log(database)
    (head,) = await database.fetch("select height, sequence, hash, keyed from event_heads")
    assert (log.base, head["sequence"]) == (6, 9)
    await many(database, 4)
    signed = await issue(database, log, now=database.now())
    assert signed is not None
    hashes = await load_leaves(database, 0, 7)
    await change(database, "update event_tiles set hashes = :hashes", hashes=hashes[:128] + bytes(32) + hashes[160:])
    with pytest.raises(ChainBroken) as broken:
        await verify_chain(database, log)
    assert broken.value.sequence == 11
    await change(database, "update event_tiles set hashes = :hashes", hashes=hashes)
    await change(database, "update events set outcome = kind where sequence = 12")
    with pytest.raises(ChainBroken) as broken:
        await verify_chain(database, log)
    assert (await narrow(database, database.event_key or b"", broken.value, base=6)).sequence == 12
    for tree, root, why, first in (
        (Tree(database, 6, 3), signed.head.root, "vouches for events up to 13", 10),
        (Tree(database, 6, 7), bytes(32), "events up to 13 differ", 7),
    ):
        with pytest.raises(ChainBroken, match=why) as broken:
            await check_consistent(tree, replace(signed.head, root=root))
        assert broken.value.sequence == first
    await change(database, "delete from events where sequence > 9")
    await change(database, "delete from event_batches where last_sequence > 9")
    await change(
        database,
        "update event_heads set height = :height, sequence = :sequence, hash = :hash, keyed = :keyed",
        **{name: head[name] for name in ("height", "sequence", "hash", "keyed")},  # pyright: ignore[reportArgumentType]
    )
    with pytest.raises(ChainBroken, match="hashes of events up to 13") as broken:
        await extend(database, log)
    assert broken.value.sequence == 10
    await change(database, "update event_notes set note = :note", note="changed")
    with pytest.raises(ChainBroken, match="a checkpoint of the vault was changed") as broken:
        await issue(database, log, now=database.now())
    assert broken.value.sequence == 13


@pytest.mark.parametrize("is_hashed", [False, True])
async def test_a_log_begins_after_what_a_release_without_a_tree_pruned(
    database: Database, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch, *, is_hashed: bool
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 3)
    log = await start_log(database)
    await fill(database, 7)
    if is_hashed:
        await extend(database, log)
    await seal(database, now=database.now())
    names = ("id", "purpose", "sealed", "kek_id", "created_at", "active_at")
    (row,) = await database.fetch("select * from keys.ring where purpose = :purpose", {"purpose": logs.PURPOSE})
    await change(database, "delete from keys.ring where purpose = :purpose", purpose=logs.PURPOSE)  # unknown there now
    assert await prune(database, retention_days=1, now=database.now() + 3 * DAY) == 6
    values = ", ".join(f":{name}" for name in names)
    await change(
        database,
        f"insert into keys.ring ({', '.join(names)}) values ({values})",
        **{name: row[name] for name in names},  # pyright: ignore[reportArgumentType]
    )
    later = await start_log(database)
    assert (later.origin, later.base) == (log.origin, 0 if is_hashed else 6)
    issued = await issue(database, later, now=database.now())
    assert issued is not None
    await verify_chain(database, later)


async def test_a_new_key_signs_beside_the_old_one_for_a_while(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    await fill(database, 2)
    now = database.now()
    made = await rotate_log_key(database, log, now=now)
    log = (await load_logs(database, database.event_key or b""))[-1]
    assert log.verifiers[-1] == made
    both = await issue(database, log, now=now)
    assert both is not None
    assert both.note.signed_by(log.verifiers) == log.verifiers
    assert check_note(both.note, log).size == 3  # along with the event that names both keys
    for passed, names in ((30 * 86400 - 1, log.verifiers), (30 * 86400, (made,))):
        await fill(database, 1)
        late = await issue(database, log, now=now + passed)
        assert late is not None
        assert late.note.signed_by(log.verifiers) == names
    newest = await rotate_log_key(database, log, now=now)
    rotations = [one.details for one in await list_events(database) if one.kind == "activity.key_rotated"]
    assert [(one["previous"], one["key"]) for one in rotations[1:]] == [(str(made), str(newest))]
    await change(
        database, "update keys.ring set sealed = :sealed where purpose = :purpose", sealed=b"x", purpose="activity-log"
    )
    with pytest.raises(ChainBroken, match="wasn't made by this vault") as broken:
        await load_logs(database, database.event_key or b"")
    assert broken.value.sequence == 1  # without the key, no event is vouched for
    database.event_key = None
    with pytest.raises(ChainBroken, match="key isn't open") as broken:
        await start_log(database)
    assert broken.value.sequence == 1


async def test_a_restored_vault_begins_another_log(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    await fill(database, 2)
    assert await start_log(database) == log
    async with database.transaction() as transaction:
        await append(transaction, Event("vault.restored"), now=database.now())
    assert await logs.restarted_after(database, log) == 2
    other = await start_log(database)
    assert other.origin != log.origin
    assert await start_log(database) == other
    assert await load_logs(database, database.event_key or b"") == (log, other)
    issued = await issue(database, other, now=database.now())
    assert issued is not None
    assert issued.head.size == 4


async def test_a_log_names_its_restarts_as_earlier_releases_did(database: Database, key_ring: KeyRing) -> None:
    """Otherwise an upgrade would look like a restore."""
    await fill(database, 2)
    async with database.transaction() as transaction:
        await append(transaction, Event("vault.restored", details={"known": 1}), now=1_790_000_000)
    log = await start_log(database)
    assert log.restarts == {hashlib.sha256(b'3,1790000000,vault.restored,{"known":1}').hexdigest()[:32]: 1}


async def test_each_restore_begins_another_log_though_the_activity_is_as_short_as_before(
    database: Database, key_ring: KeyRing
) -> None:
    """A backup of three events is restored twice: the second log has covered more events than exist afterward."""
    first = await start_log(database)
    await fill(database, 3)
    (head,) = await database.fetch("select height, sequence, hash, keyed from event_heads")
    made = [first]
    for number in range(3):
        for table in ("events", "event_batches"):
            column = "sequence" if table == "events" else "height"
            await change(database, f"delete from {table} where {column} > 3")
        await change(
            database,
            "update event_heads set height = :height, sequence = :sequence, hash = :hash, keyed = :keyed",
            **{name: head[name] for name in ("height", "sequence", "hash", "keyed")},  # pyright: ignore[reportArgumentType]
        )
        async with database.transaction() as transaction:
            event = Event("vault.restored", details={"known": 3, "number": number})
            await append(transaction, event, now=database.now())
        assert await logs.restarted_after(database, made[-1]) == 3
        made.append(await start_log(database))
        assert await start_log(database) == made[-1]
        assert await logs.restarted_after(database, made[-1]) is None
        begun = [one.details for one in await list_events(database) if one.kind == "activity.log_begun"]
        assert (begun[-1]["origin"], begun[-1]["former"]) == (made[-1].origin, made[-2].origin)
    assert len({log.origin for log in made}) == 4
    assert await load_logs(database, database.event_key or b"") == tuple(made)
    await change(database, "delete from events where sequence = 4")  # pruned, but the last log remembers the restores
    assert await logs.restarted_after(database, first, later=made[1:]) == 3


async def test_checkpoints_end_before_what_a_restore_recorded_itself(database: Database, key_ring: KeyRing) -> None:
    log = await start_log(database)
    await fill(database, 2)
    held = [Event("connection.quarantined", user_id="alice", connection_id=f"c{one}") for one in range(4)]
    async with database.transaction() as transaction:
        await append(transaction, *held, now=database.now())
        await append(transaction, Event("vault.restored", details={"quarantined": 4}), now=database.now())
    assert await logs.restarted_after(database, log) == 2  # in the way that an earlier release recorded it
    written_then = replace(log, restarts=None)
    assert await logs.restarted_after(database, written_then) == 2
    assert await logs.restarted_after(database, replace(written_then, after=7)) is None


async def test_a_turn_is_ended_by_its_owner_alone(database: Database) -> None:
    now = database.now()
    first = await take_turn(database, now=now, seconds=60)
    assert first is not None
    assert await take_turn(database, now=now, seconds=60) is None
    second = await take_turn(database, now=now + 100, seconds=60)  # the first turn took too long
    assert second is not None
    await end_turn(database, first)
    assert await take_turn(database, now=now + 100, seconds=60) is None
    await end_turn(database, second)
    assert await take_turn(database, now=now + 100, seconds=60) is not None


async def test_processes_that_issue_at_once_sign_the_same_tree(store: Store) -> None:
    databases = [await store.open() for _ in range(3)]
    try:
        for one in databases:
            await store.open_keys(one)
        await fill(databases[0], 12)
        made = await asyncio.gather(*(start_log(one) for one in databases))
        assert len({log.origin for log in made}) == 1
        issued = await asyncio.gather(
            *(issue(one, made[0], now=one.now()) for one in databases for _ in range(2)), fill(databases[1], 4)
        )
        last = await issue(databases[2], made[0], now=databases[2].now())
        assert last is not None
        assert last.head.size == 16
        assert last.head.root == simple_root(await leaves(databases[0]))
        hashed = await leaves(databases[0])
        for one in issued[:-1]:
            assert one is not None
            assert one.head.root == simple_root(hashed[: one.head.size])
    finally:
        for one in databases:
            await one.close()

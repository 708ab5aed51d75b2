"""The answer journal: durable before the database has it, torn writes detected, adopted once, removed after a week."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import WAIT, Room, open_room, second_process
from vault.records import Connection
from vault.refresh import leases, sightings
from vault.refresh.concurrency import UpstreamTokenRequest
from vault.refresh.journal import (
    FOLDER,
    GROWTH,
    JOURNAL,
    KEEP,
    SLOT,
    Journal,
    JournalEntry,
    encode,
    write_answer,
)
from vault.refresh.journal_recovery import adopt_all
from vault.refresh.journal_slots import slots_for, wipe_remains
from vault.refresh.refresh_request import Spender, open_refresh_token
from vault.refusals import StorageUnavailable, VaultError
from vault.upkeep.revocations import BACKOFF, list_revocations, revoke_upstream
from vault.upstream import RevokeOutcome, RotationMode, TokenAnswer

DAY = 1_700_000_000


def entry(connection_id: str = "one", generation: int = 1, *, at: int = DAY) -> JournalEntry:
    return JournalEntry(connection_id, generation, "owner", fence=generation, at=at, sealed=b"sealed" * 50)


def only_file(data: Path) -> Path:
    (path,) = (data / FOLDER).iterdir()
    return path


async def test_an_answer_is_found_by_every_process_of_the_host_and_after_a_restart(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    assert await first.entries() == ()
    await first.append(entry())
    await second.append(entry("two"))
    await second.append(entry("one", 2))
    assert [found.generation for found in await first.find("one")] == [2, 1]
    assert {(found.connection_id, found.generation) for found in await first.entries()} == {("one", 2), ("two", 1)}
    first.close()
    second.close()
    again = Journal(tmp_path)
    assert await again.find("two") == (entry("two"),)
    await again.append(entry("three"))
    again.close()
    files = sorted((tmp_path / FOLDER).iterdir())
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600, 0o600]
    assert [path.stat().st_size for path in files] == [8192 * 64] * 2


async def test_a_newer_answer_takes_the_place_of_the_older_and_more_slots_are_made(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for generation in range(1, 4):
        await journal.append(entry("one", generation))
    assert [found.generation for found in await journal.find("one")] == [3]
    for number in range(GROWTH):
        await journal.append(entry(str(number)))
    assert only_file(tmp_path).stat().st_size == 2 * SLOT * GROWTH
    assert len(await journal.entries()) == GROWTH + 1
    journal.close()


async def test_a_torn_or_altered_write_counts_as_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.append(entry())
    journal.close()
    path = only_file(tmp_path)
    whole = path.read_bytes()
    start = next(offset for offset in range(0, len(whole), SLOT) if whole[offset : offset + 4] == b"TVJ1")
    length = whole[start : start + SLOT].rstrip(b"\0").__len__()
    for cut in range(0, length, 7):
        path.write_bytes(whole[: start + cut] + bytes(len(whole) - start - cut))
        assert await Journal(tmp_path).entries() == ()
        spoiled = bytearray(whole)
        spoiled[start + cut] ^= 0xFF
        path.write_bytes(spoiled)
        assert await Journal(tmp_path).find("one") == ()
    path.write_bytes(whole[: start + length - 1])
    assert await Journal(tmp_path).entries() == ()
    path.write_bytes(whole)
    assert await Journal(tmp_path).find("one") == (entry(),)


async def test_answers_are_wiped_after_seven_days(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.append(entry("old", at=DAY))
    await journal.append(entry("young", at=DAY + 10))
    await journal.sweep(now=DAY + 7 * 86400)
    assert {found.connection_id for found in await journal.entries()} == {"old", "young"}
    await journal.sweep(now=DAY + 7 * 86400 + 1)
    assert [found.connection_id for found in await journal.entries()] == ["young"]
    assert only_file(tmp_path).read_bytes().count(b"sealed") == 1
    journal.close()


LARGE = JournalEntry("one", 2, "owner", fence=2, at=DAY, sealed=bytes(range(256)) * 140)  # 35 KiB: six slots


async def test_an_answer_larger_than_a_slot_takes_several_and_is_found_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.append(entry("one", 1))
    await journal.append(entry("two", 1))
    await journal.append(LARGE)
    assert await journal.find("one") == (LARGE,)
    assert only_file(tmp_path).read_bytes().count(b"TVJ+") == slots_for(len(encode(LARGE))) - 1 > 3
    journal.close()
    again = Journal(tmp_path)
    assert await again.find("one") == (LARGE,)
    await again.append(entry("one", 3))  # a small one replaces it, and the other slots are free again
    assert await again.find("one") == (entry("one", 3),)
    for number in range(GROWTH - 2):
        await again.append(entry(f"other {number}"))
    assert only_file(tmp_path).stat().st_size == SLOT * GROWTH
    assert len(await again.entries()) == GROWTH
    again.close()


async def test_an_answer_of_64_kib_is_kept_and_one_beyond_all_bounds_is_refused_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    tokens = write_answer("s" * 65536, None, TokenAnswer("a" * 32768, "r" * 32768, expires_in=60)).encode()
    largest = JournalEntry("one", 1, "owner", fence=1, at=DAY, sealed=tokens)
    await journal.append(largest)
    assert await journal.find("one") == (largest,)
    beyond = JournalEntry("two", 1, "owner", fence=1, at=DAY, sealed=b"")
    left = 32 * 8192 - len(encode(beyond)) - 31 * len("TVJ+")  # bytes of base64 that fit into 32 slots
    fits = replace(beyond, sealed=b"x" * (left // 4 * 3))
    await journal.append(fits)
    assert await journal.find("two") == (fits,)
    with pytest.raises(StorageUnavailable, match="too large"):
        await journal.append(replace(fits, generation=2, sealed=fits.sealed + b"x"))
    assert set(await journal.entries()) == {largest, fits}
    journal.close()


async def test_a_large_answer_that_was_cut_anywhere_counts_as_not_written(tmp_path: Path) -> None:
    """Cut after each byte of the head, at each border of a slot and around it, with an older answer before it."""
    record = encode(LARGE)
    borders = [border + shift for border in range(SLOT, len(record), SLOT) for shift in (-1, 0, 1, 3, 4, 5)]
    before = encode(JournalEntry("one", 1, "owner", fence=1, at=DAY, sealed=b"y" * len(LARGE.sealed)))
    folder = tmp_path / FOLDER
    folder.mkdir()
    path = folder / "000.journal"
    for cut in [*range(1, 300), *borders, len(record) - 1]:
        for left in (bytes(len(record)), before):  # the rest is free, or contains the answer that was overwritten
            torn = record[:cut] + left[cut:]
            if torn != record:  # both end with the same byte
                path.write_bytes(torn.ljust(GROWTH * SLOT, b"\0"))
                assert [found for found in await Journal(tmp_path).find("one") if found.generation == 2] == [], cut
        path.write_bytes(record[:cut])  # here, the file itself ends
        assert await Journal(tmp_path).entries() == ()
    for spoiled in (*borders, len(record) - 1):
        broken = bytearray(record)
        broken[min(spoiled, len(record) - 1)] ^= 1
        path.write_bytes(broken.ljust(GROWTH * SLOT, b"\0"))
        assert await Journal(tmp_path).entries() == ()
    path.write_bytes(record.ljust(GROWTH * SLOT, b"\0"))
    assert await Journal(tmp_path).entries() == (LARGE,)


async def test_where_a_larger_answer_is_torn_the_one_before_it_is_still_there(tmp_path: Path) -> None:
    """The larger one is written elsewhere first; the writer died before it wiped the old one."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    path = folder / "000.journal"
    small, record = encode(entry()).ljust(SLOT, b"\0"), encode(LARGE)
    path.write_bytes((small + record[: 2 * SLOT]).ljust(GROWTH * SLOT, b"\0"))
    for journal in (Journal(tmp_path), Journal(tmp_path)):
        assert await journal.find("one") == (entry(),)
        await journal.reserve("two", now=DAY)
        assert await journal.find("one") == (entry(),)
        journal.close()
    path.write_bytes((small + record).ljust(GROWTH * SLOT, b"\0"))
    assert await Journal(tmp_path).find("one") == (LARGE,)


async def test_a_file_of_the_first_release_is_read(tmp_path: Path) -> None:
    """Built here as that release wrote it: 56 bytes of head, JSON, slots of 8192 bytes."""
    body = b'{"connection_id":"one","generation":7,"owner":"them","fence":9,"at":1700000000,"sealed":"c2VhbGVk"}'
    head = b"TVJ1" + len(body).to_bytes(4, "big") + sha256(b"one").digest()[:16] + sha256(body).digest()
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "000.journal").write_bytes(bytes(3 * 8192) + (head + body).ljust(61 * 8192, b"\0"))
    old = JournalEntry("one", 7, "them", fence=9, at=DAY, sealed=b"sealed")
    journal = Journal(tmp_path)
    assert await journal.entries() == (old,)
    assert await journal.is_ahead("one", generation=7, era=0)
    assert not await journal.is_ahead("one", generation=8, era=0)
    await journal.append(entry("two"))
    assert set(await journal.entries()) == {old, entry("two")}
    journal.close()


async def test_what_another_process_wrote_is_known_within_a_moment_and_at_once_behind_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = Journal(tmp_path), Journal(tmp_path)
    await mine.append(entry("mine", 3))
    assert not await mine.is_ahead("one", generation=1, era=0)
    await other.append(entry("one", 1))
    assert await mine.is_ahead("one", generation=1, era=1)
    monkeypatch.setattr("vault.refresh.journal.LOOK_EVERY", 3600.0)
    await mine.look()
    await other.append(entry("one", 2))
    assert not await mine.is_ahead("one", generation=2, era=1)
    assert await mine.is_ahead("mine", generation=3, era=1)
    assert await mine.is_ahead("one", generation=2, era=2)
    mine.close()
    other.close()


async def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    mine, other = Journal(tmp_path), Journal(tmp_path)
    await mine.append(entry("mine", 1))
    await other.append(entry("one", 1))
    other.close()
    path = tmp_path / FOLDER / "001.journal"
    os.utime(path, ns=(DAY, DAY))  # long ago, because a recently written file might change again unnoticed
    assert await mine.is_ahead("one", generation=1, era=1)
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(DAY, DAY))
    assert await mine.is_ahead("one", generation=1, era=2)
    os.utime(path)
    assert not await mine.is_ahead("one", generation=1, era=3)
    mine.close()


async def test_a_file_whose_answers_are_over_is_cut_to_what_is_left_of_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(4 * GROWTH):
        at = DAY + (KEEP if number % 4 == 3 else 0)
        sealed = LARGE.sealed if number % 32 == 31 else b"sealed"
        await journal.append(JournalEntry(str(number), 1, "owner", fence=1, at=at, sealed=sealed))
    before = only_file(tmp_path).stat().st_size
    kept = {number for number in range(4 * GROWTH) if number % 4 == 3}
    for _ in range(3):  # first, the small ones move together, then there is room for the large ones
        await journal.sweep(now=DAY + KEEP + 1)
    assert only_file(tmp_path).stat().st_size < before / 2
    assert {int(found.connection_id) for found in await journal.entries()} == kept
    await journal.append(entry("31", 2))
    await journal.append(entry("new"))
    journal.close()
    again = Journal(tmp_path)
    assert {found.connection_id for found in await again.entries()} == {*map(str, kept), "new"}
    assert only_file(tmp_path).read_bytes().count(b'"connection_id"') == len(kept) + 1
    again.close()


async def test_answers_that_come_while_a_file_is_cut_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(4 * GROWTH):
        await journal.append(entry(str(number), at=DAY + (KEEP if number % 8 == 0 else 0)))
    later = DAY + KEEP + 1

    async def go_on(name: str) -> None:
        for generation in range(2, 8):
            await journal.append(entry(name, generation, at=later))

    names = [*(str(number) for number in range(0, 4 * GROWTH, 8)), "new", "newer"]
    await asyncio.gather(journal.sweep(now=later), *map(go_on, names), journal.sweep(now=later))
    found = {one.connection_id: one.generation for one in await journal.entries()}
    assert found == dict.fromkeys(names, 7)
    journal.close()
    other = Journal(tmp_path)
    assert {one.connection_id: one.generation for one in await other.entries()} == found
    other.close()


async def test_files_of_ended_processes_are_wiped_and_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    living, ended, mine = Journal(tmp_path), Journal(tmp_path), Journal(tmp_path)
    await living.append(entry("living"))
    await ended.append(entry("ended"))
    await mine.append(entry("mine", at=DAY + KEEP))
    ended.close()
    await mine.sweep(now=DAY + KEEP)
    assert len(list((tmp_path / FOLDER).iterdir())) == 3
    await mine.sweep(now=DAY + KEEP + 1)
    assert {found.connection_id for found in await mine.entries()} == {"living", "mine"}
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    living.close()
    mine.close()


@pytest.mark.parametrize(("access", "refresh"), [(6000, 40), (40, 6000), (6000, 6000), (30_000, 30_000)])
async def test_large_tokens_survive_the_end_of_their_process_before_the_commit(
    store: Store, access: int, refresh: int
) -> None:
    async with open_room(store, rotation=RotationMode.REVOKES) as room:
        room.slack.padding = (access, refresh)
        connection = await die_before_the_commit(room)
        (found,) = await room.vault.journal.find(connection.id)
        assert len(found.sealed) > access + refresh
        assert room.slack.issued[(await room.exchange()).value]
        assert [send.outcome for send in room.slack.sends] == ["Rotation"]


async def test_room_for_large_tokens_is_reserved_before_they_are_sent(room: Room) -> None:
    room.slack.padding = (20_000, 20_000)
    connection = await room.connect()
    room.pass_time(3600)
    journal = room.vault.journal
    async with room.held_refresh() as slow:
        reserved = journal._rooms[connection.id].slots  # pyright: ignore[reportPrivateUsage]
        room.slack.gate.set()
        await slow
    (found,) = await journal.find(connection.id)
    needed = slots_for(len(encode(found)))
    assert 1 < needed <= reserved <= needed + 1


async def test_without_room_for_the_answer_nothing_is_sent(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    in_the_way = room.store.data / FOLDER
    in_the_way.write_text("not a folder")
    with pytest.raises(StorageUnavailable, match="can't write to"):
        await room.exchange()
    assert room.slack.sends == []
    assert (await room.row(connection)).sent_at is None
    in_the_way.unlink()
    assert await room.exchange()


@pytest.mark.parametrize("how", ["removed", "moved away"])
async def test_a_journal_that_was_taken_away_is_made_anew_before_the_next_refresh(room: Room, how: str) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    assert await room.exchange()
    folder = room.store.data / FOLDER
    shutil.rmtree(folder) if how == "removed" else folder.rename(folder.with_name("elsewhere"))
    room.pass_time(3600)
    assert await room.exchange()
    other = Journal(room.store.data)
    assert [entry.generation for entry in await other.find(connection.id)] == [2]
    other.close()


async def test_an_answer_is_not_wiped_with_the_old_one_whose_place_it_takes(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path), Journal(tmp_path)
    for name in ("old", "older"):
        await journal.append(JournalEntry(name, 1, "owner", fence=1, at=0, sealed=b"x"))
    later = KEEP + 1
    sweeping = asyncio.create_task(journal.sweep(now=later))
    await asyncio.sleep(0)
    await journal.append(JournalEntry("older", 2, "owner", fence=2, at=later, sealed=b"y"))
    await journal.append(JournalEntry("old", 2, "owner", fence=2, at=later, sealed=b"z"))
    await sweeping
    assert sorted((entry.connection_id, entry.generation) for entry in await other.entries()) == [
        ("old", 2),
        ("older", 2),
    ]
    await journal.sweep(now=2 * later)
    assert await other.entries() == ()
    journal.close()
    other.close()


async def die_before_the_commit(room: Room, *, account: str = "alice") -> Connection:
    """A connection whose answer is in the journal and whose process died without committing it."""
    connection = await room.connect(account=account)
    room.pass_time(3600)
    async with second_process(room) as dying, asyncio.timeout(WAIT):
        await dying.database.hold_liveness(dying.vault.owner)
        facts = await dying.row(connection)
        async with dying.database.transaction() as transaction:
            lease = await leases.claim(transaction, facts, owner=dying.vault.owner, now=room.now)
        assert lease is not None
        key = facts.key(dying.vault.keys)
        spender = Spender(
            dying.vault,
            room.slack,
            dying.vault.policies["slack"],
            facts=facts,
            request=UpstreamTokenRequest(connection.id, 1),
            key=key,
            refresh_token=open_refresh_token(key, facts),
        )
        async with room.database.transaction() as transaction:
            await transaction.execute("alter table intents rename to intents_away")
        task = asyncio.create_task(spender.spend(lease))
        while not await room.vault.journal.find(connection.id):
            await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    async with room.database.transaction() as transaction:
        await transaction.execute("alter table intents_away rename to intents")
    assert (await room.row(connection)).generation == 1
    return connection


@pytest.mark.parametrize("rotation", list(RotationMode))
async def test_an_answer_that_its_process_could_not_commit_is_taken_up_by_the_next(
    store: Store, rotation: RotationMode
) -> None:
    async with open_room(store, rotation=rotation) as room:
        connection = await die_before_the_commit(room)
        assert room.slack.issued[(await room.exchange()).value]
        assert len(room.slack.sends) == 1
        assert (await room.row(connection)).generation == 2
        room.pass_time(3600)
        assert room.slack.issued[(await room.exchange()).value]
        assert [send.outcome for send in room.slack.sends] == ["Rotation", "Rotation"]


async def test_an_answer_that_came_a_moment_ago_is_found_although_its_lease_has_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row shows a send: then the files are read, however recently that was done."""
    monkeypatch.setattr("vault.refresh.journal.LOOK_EVERY", 3600.0)
    async with open_room(store, rotation=RotationMode.STRICT) as room:
        await room.vault.journal.is_ahead("another", generation=1, era=room.vault.database.server_changes)
        connection = await die_before_the_commit(room)
        await room.vault.journal.look()  # the test itself waited for the answer
        room.vault.journal._others.clear()  # pyright: ignore[reportPrivateUsage]  as if that had been a moment before
        async with room.database.transaction() as transaction:
            await leases.lapse(transaction, await room.row(connection))
        assert room.slack.issued[(await room.exchange()).value]
        assert [send.outcome for send in room.slack.sends] == ["Rotation"]


@pytest.mark.parametrize("has_lapsed", [False, True])
async def test_a_start_commits_what_the_last_run_could_not(room: Room, *, has_lapsed: bool) -> None:
    connection = await die_before_the_commit(room)
    if has_lapsed:
        async with room.database.transaction() as transaction:
            await leases.lapse(transaction, await room.row(connection))
    assert await adopt_all(room.vault) == 1
    assert await adopt_all(room.vault) == 0
    assert sightings.read(room.store.data) is None, "the crash explains it: the database isn't older"
    facts = await room.row(connection)
    assert (facts.generation, facts.sent_at, facts.lease_owner) == (2, None, None)
    assert await room.exchange()
    assert len(room.slack.sends) == 1


async def test_an_answer_that_cannot_be_committed_keeps_no_other_from_it(store: Store) -> None:
    async with open_room(store) as room:
        held = [await die_before_the_commit(room, account=name) for name in ("one", "two", "three")]
        async with room.database.transaction() as transaction:
            await room.vault.keys.destroy_connection_key(transaction, held[1].id)
        assert await adopt_all(room.vault) == 2
        assert [(await room.row(one)).generation for one in held] == [2, 1, 2]


async def test_an_answer_that_the_storage_never_takes_keeps_no_start_waiting(room: Room) -> None:
    bad, good = await room.connect(account="bad"), await die_before_the_commit(room, account="good")
    facts = await room.row(bad)
    answer = TokenAnswer("at", "rt", scopes=frozenset({"half of a character: \ud800"}), expires_in=3600)
    sealed = facts.key(room.vault.keys).seal(
        write_answer("spent", None, answer),
        purpose=JOURNAL,
        provider=facts.provider,
        account=facts.account,
        generation=1,
    )
    await room.vault.journal.append(JournalEntry(bad.id, 1, "gone", fence=1, at=room.now, sealed=sealed))
    async with asyncio.timeout(WAIT):
        assert await adopt_all(room.vault) == 1
    assert [(await room.row(one)).generation for one in (bad, good)] == [1, 2]


async def test_a_database_that_came_back_older_is_brought_up_again(sqlite_store: Store, tmp_path: Path) -> None:
    async with open_room(sqlite_store) as room:
        connection = await room.connect()
    older = tmp_path / "older"
    older.mkdir()
    for path in sqlite_store.data.glob("*.sqlite*"):
        shutil.copy2(path, older)
    room.pass_time(3600)
    async with second_process(room) as later:
        for _ in range(3):
            assert await later.exchange()
            later.pass_time(3600)
        assert (await later.row(connection)).generation == 4
    for path in sqlite_store.data.glob("*.sqlite*"):
        path.unlink()
    for path in older.iterdir():
        shutil.copy2(path, sqlite_store.data)
    room.pass_time(3 * 3600)
    async with second_process(room) as restored:
        assert (await restored.row(connection)).generation == 1
        assert await adopt_all(restored.vault) == 1
        assert (await restored.row(connection)).generation == 4
        assert room.slack.issued[(await restored.exchange()).value]
    assert {send.outcome for send in room.slack.sends} == {"Rotation"}


async def disconnect(room: Room, connection: Connection) -> None:
    await room.disconnect(connection)
    room.pass_time(61)  # the dead process's lease has expired


@pytest.mark.parametrize("is_adopted_at_start", [True, False])
async def test_an_answer_of_a_connection_that_was_disconnected_meanwhile_is_revoked(
    room: Room, *, is_adopted_at_start: bool
) -> None:
    connection = await die_before_the_commit(room)
    spent, newest = room.slack.sends[0].refresh_token, room.slack.families[0].refresh_token
    await disconnect(room, connection)
    if is_adopted_at_start:
        await adopt_all(room.vault)
    assert await revoke_upstream(room.vault, connection.id) == "revoked"
    assert [refresh_token for refresh_token, _ in room.slack.revocations] == [newest]
    assert newest != spent


async def test_without_an_answer_the_token_that_was_held_is_revoked(room: Room) -> None:
    connection = await room.connect()
    held = room.slack.families[0].refresh_token
    await disconnect(room, connection)
    assert await adopt_all(room.vault) == 0
    assert await revoke_upstream(room.vault, connection.id) == "revoked"
    assert [refresh_token for refresh_token, _ in room.slack.revocations] == [held]


async def test_handing_an_answer_over_once_leaves_the_backoff_of_its_revocation(room: Room) -> None:
    connection = await die_before_the_commit(room)
    await disconnect(room, connection)
    room.slack.revoke_outcomes.append(RevokeOutcome.FAILED)
    assert await revoke_upstream(room.vault, connection.id) == "failed"
    await adopt_all(room.vault)
    assert await revoke_upstream(room.vault, connection.id) == "failed"
    assert len(room.slack.revocations) == 1
    room.pass_time(BACKOFF[1] + 1)
    assert await revoke_upstream(room.vault, connection.id) == "revoked"


async def test_a_destroyed_key_makes_a_journalled_answer_unreadable(room: Room) -> None:
    connection = await die_before_the_commit(room)
    async with room.database.transaction() as transaction:
        await room.vault.keys.destroy_connection_key(transaction, connection.id)
    assert await adopt_all(room.vault) == 0
    with pytest.raises(VaultError):
        await room.exchange()


async def test_no_token_stands_readable_in_the_journal(room: Room) -> None:
    await room.connect()
    room.pass_time(3600)
    await room.exchange()
    assert b"TVJ1" in only_file(room.store.data).read_bytes()
    assert b"CANARY" not in only_file(room.store.data).read_bytes()


def test_what_free_slots_still_hold_of_a_connection_is_overwritten_and_nothing_else(tmp_path: Path) -> None:
    one, two = (encode(replace(entry(name), sealed=b"s" * 2 * SLOT)) for name in ("one", "two"))
    slots = slots_for(len(one) - 64)
    path = tmp_path / "journal"
    path.write_bytes((one.ljust(slots * SLOT, b".") + two.ljust(slots * SLOT, b".")) * 2)
    before = path.read_bytes()
    descriptor = os.open(path, os.O_RDWR)
    try:
        wipe_remains(descriptor, range(2 * slots), ["three"])
        assert path.read_bytes() == before
        wipe_remains(descriptor, range(2 * slots), ["one", "three"])  # the additional slots are in use again
    finally:
        os.close(descriptor)
    assert path.read_bytes() == bytes(slots * SLOT) + before[slots * SLOT :]


@pytest.mark.parametrize("leaves_earlier", [True, False])
async def test_a_journalled_answer_has_what_it_replaced_ended(room: Room, *, leaves_earlier: bool) -> None:
    connection = await room.connect()
    facts = await room.row(connection)
    key, answer = facts.key(room.vault.keys), TokenAnswer("at", "rt", expires_in=3600, leaves_earlier=leaves_earlier)
    written = write_answer(open_refresh_token(key, facts), None, answer)
    assert ("leaves_earlier" in written) is leaves_earlier  # an older version reads all other answers as before
    sealed = key.seal(written, purpose=JOURNAL, provider=facts.provider, account=facts.account, generation=1)
    await room.vault.journal.append(JournalEntry(connection.id, 1, "gone", fence=1, at=room.now, sealed=sealed))
    async with asyncio.timeout(WAIT):
        assert await adopt_all(room.vault) == 1
    found = await list_revocations(room.database, connection.user_id)
    assert [(one.outcome, one.is_superseded) for one in found] == [("pending", True)] * leaves_earlier

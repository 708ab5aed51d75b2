"""The answer journal: durable before the database has it, torn writes noticed, adopted once, gone after a week."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Store
from tests.exchanging import Room, open_room, second_process
from vault import connections, leases
from vault.adoption import adopt_all
from vault.flights import Wish
from vault.journal import FOLDER, GROWTH, KEEP, SLOT, Entry, Journal
from vault.records import Connection
from vault.refusals import StorageUnavailable, VaultError
from vault.revocations import BACKOFF, revoke_upstream
from vault.spending import Spender, open_refresh_token
from vault.upstream import RevokeOutcome, Rotation

WAIT = 20.0  # seconds: the bound of every wait here
DAY = 1_700_000_000


def entry(connection_id: str = "one", generation: int = 1, *, at: int = DAY) -> Entry:
    return Entry(connection_id, generation, "owner", fence=generation, at=at, sealed=b"sealed" * 50)


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    async with open_room(store) as opened:
        yield opened


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
    assert [path.stat().st_size for path in files] == [SLOT * GROWTH] * 2


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
    await journal.sweep(now=DAY + KEEP + 1)
    assert [found.connection_id for found in await journal.entries()] == ["young"]
    assert only_file(tmp_path).read_bytes().count(b"sealed") == 1
    journal.close()


async def test_an_answer_too_large_for_a_slot_is_refused_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(StorageUnavailable, match="too large"):
        await journal.append(Entry("one", 1, "owner", fence=1, at=DAY, sealed=b"x" * SLOT))
    assert await journal.entries() == ()
    journal.close()


async def test_without_room_for_the_answer_nothing_is_sent(room: Room) -> None:
    connection = await room.connect()
    room.pass_time(3600)
    in_the_way = room.store.data / FOLDER
    in_the_way.write_text("not a folder")
    with pytest.raises(StorageUnavailable, match="cannot write in"):
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
        await journal.append(Entry(name, 1, "owner", fence=1, at=0, sealed=b"x"))
    later = KEEP + 1
    sweeping = asyncio.create_task(journal.sweep(now=later))
    await asyncio.sleep(0)
    await journal.append(Entry("older", 2, "owner", fence=2, at=later, sealed=b"y"))
    await journal.append(Entry("old", 2, "owner", fence=2, at=later, sealed=b"z"))
    await sweeping
    assert sorted((entry.connection_id, entry.generation) for entry in await other.entries()) == [
        ("old", 2),
        ("older", 2),
    ]
    await journal.sweep(now=2 * later)
    assert await other.entries() == ()
    journal.close()
    other.close()


async def die_before_the_commit(room: Room) -> Connection:
    """A connection whose answer is in the journal, and whose process is gone without having committed it."""
    connection = await room.connect()
    room.pass_time(3600)
    async with second_process(room) as dying, asyncio.timeout(WAIT):
        await dying.database.hold_liveness(dying.vault.owner)
        facts = await dying.row(connection)
        async with dying.database.transaction() as transaction:
            lease = await leases.claim(transaction, facts, owner=dying.vault.owner, now=room.now)
        assert lease is not None
        key = await facts.key(dying.vault.keys)
        spender = Spender(
            dying.vault,
            room.slack,
            dying.vault.policies["slack"],
            facts=facts,
            wish=Wish(connection.id, 1),
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


@pytest.mark.parametrize("rotation", list(Rotation))
async def test_an_answer_that_its_process_could_not_commit_is_taken_up_by_the_next(
    store: Store, rotation: Rotation
) -> None:
    async with open_room(store, rotation=rotation) as room:
        connection = await die_before_the_commit(room)
        assert room.slack.issued[(await room.exchange()).value]
        assert len(room.slack.sends) == 1
        assert (await room.row(connection)).generation == 2
        room.pass_time(3600)
        assert room.slack.issued[(await room.exchange()).value]
        assert [send.outcome for send in room.slack.sends] == ["Rotated", "Rotated"]


async def test_a_start_commits_what_the_last_run_could_not(room: Room) -> None:
    connection = await die_before_the_commit(room)
    assert await adopt_all(room.vault) == 1
    assert await adopt_all(room.vault) == 0
    facts = await room.row(connection)
    assert (facts.generation, facts.sent_at, facts.lease_owner) == (2, None, None)
    assert await room.exchange()
    assert len(room.slack.sends) == 1


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
    assert {send.outcome for send in room.slack.sends} == {"Rotated"}


async def disconnect(room: Room, connection: Connection) -> None:
    async with room.database.transaction() as transaction:
        await connections.disconnect(transaction, room.vault.keys, connection, now=room.now)
    room.pass_time(61)  # the lease of the dead process has run out


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

"""The master key changes while processes serve: nothing fails, nothing is lost, and the former key ends."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import KeySettings, Store
from tests.support.rooms.vault_room import Room, open_room, second_process
from vault import users
from vault.keys import masters
from vault.keys.inventory import MasterKey, list_keys
from vault.keys.key_ring import KeyRing
from vault.keys.sources import key_source
from vault.keys.sources.private_file import append_private, create_private
from vault.keys.sources.source import fingerprint_of
from vault.refusals import KeyUnavailable, StorageUnavailable, TransitionRefused
from vault.storage.database import Database, binary, text
from vault.upkeep import health, key_rotation, replicas
from vault.upkeep.key_rotation import SETTLED, KeyUpkeep
from vault.upkeep.replicas import Replica


def beside(store: Store, data: Path) -> Store:
    """The same vault on another host, with the current key file."""
    data.mkdir(exist_ok=True)
    shutil.copy2(store.data / "master.key", data)
    return Store(f"sqlite:///{store.data}/vault.sqlite" if store.is_sqlite else store.url, data)


@asynccontextmanager
async def other_host(room: Room, data: Path) -> AsyncGenerator[Room]:
    async with second_process(replace(room, store=beside(room.store, data))) as opened:
        yield opened


async def says(room: Room, *, version: str = "1.0.0", knows_keys: bool = True) -> None:
    """Report itself, as the upkeep does every half minute."""
    held = frozenset(room.vault.keys.held.ids()) if knows_keys else None
    said = Replica(room.vault.owner, "host", "serve", version, 1, room.now, {}, {}, held)
    async with room.database.transaction() as transaction:
        await replicas.note_replica(transaction, said)


async def upkeep(room: Room, state: KeyUpkeep | None = None) -> None:
    await key_rotation.keep(room.database, room.vault.keys, state or KeyUpkeep(), owner=room.vault.owner)


async def add(room: Room) -> str:
    ring = room.vault.keys
    made = await ring.held.source.create({row.stored.fingerprint for row in ring.held.rows})
    async with room.database.transaction() as transaction:
        await masters.add_master(transaction, made.record, state="added", described="here", now=room.now)
    await ring.learn_masters(room.database)
    return made.key.id


async def promote(room: Room, key_id: str) -> None:
    async with room.database.transaction() as transaction:
        await key_rotation.promote(transaction, room.vault.keys, key_id, now=room.now)


async def retire(room: Room, key_id: str) -> None:
    (row,) = [one for one in await masters.list_masters(room.database) if one.id == key_id]
    async with room.database.transaction() as transaction:
        await key_rotation.retire(transaction, row, now=room.now)


async def master_keys(database: Database) -> dict[str, MasterKey]:
    return {one.id: one for one in (await list_keys(database, now=database.now())).masters}


async def former(room: Room) -> str:
    (only,) = await masters.list_masters(room.database)
    return only.id


async def people(room: Room, count: int, *, first: int = 0) -> None:
    """More people, each with a key."""
    async with room.database.transaction() as transaction:
        for number in range(first, first + count):
            made = await users.create_user(transaction, f"person {number}", now=room.now)
            await room.vault.keys.create_keys(transaction, user_id=made.id, connection_id=f"c{number}", now=room.now)


async def test_a_key_has_a_time_from_which_it_is_current_and_none_before(room: Room) -> None:
    (first,) = await masters.list_masters(room.database)
    assert (first.state, first.current_at) == ("current", first.created_at)
    added = await add(room)
    assert {one.id: one.current_at for one in await masters.list_masters(room.database)}[added] is None


@pytest.mark.requirement("V-03")
async def test_the_master_key_changes_under_calls_in_two_processes(room: Room, tmp_path: Path) -> None:
    await room.connect()
    await people(room, 5)
    old = await former(room)
    async with other_host(room, tmp_path / "other") as other:
        await says(room)
        await says(other)
        stop, served = asyncio.Event(), 0

        async def calls(caller: Room) -> None:
            nonlocal served
            while not stop.is_set():
                await caller.exchange(account="alice")
                served += 1

        running = [asyncio.create_task(calls(room)), asyncio.create_task(calls(other))]
        new = await add(room)
        with pytest.raises(TransitionRefused, match="don't have the key"):
            await promote(room, new)
        shutil.copy2(room.store.data / "master.key", other.store.data)
        await upkeep(other)
        await upkeep(room)
        await promote(room, new)
        await upkeep(other)
        await other.connect(account="after")
        await people(room, 1, first=5)  # this process doesn't know about the rotation yet
        await upkeep(room)
        stop.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*running)
        assert served > 2
        found = await master_keys(room.database)
        assert {key: (one.state, one.people, one.has_root or one.people > 0) for key, one in found.items()} == {
            old: ("previous", 0, False),
            new: ("current", 7, True),
        }
        room.pass_time(SETTLED)
        await retire(room, old)
    (room.store.data / "master.key").write_text(kept_line(room.store, 1))
    async with second_process(room) as again:
        await again.exchange(account="alice")
        assert again.vault.keys.held.ids() == (new,)


def kept_line(store: Store, number: int) -> str:
    return (store.data / "master.key").read_text().splitlines()[number] + "\n"


@pytest.mark.requirement("V-03")
async def test_wrapping_again_goes_on_after_a_kill(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rotation, "PAGE", 3)
    await people(room, 10)
    old, new = await former(room), await add(room)
    await promote(room, new)
    await room.vault.keys.learn_masters(room.database)
    pages = 0
    fetch = room.database.fetch

    async def dies(sql: str, parameters: object = ()) -> object:
        nonlocal pages
        pages += "user_id > :after" in sql
        if pages == 3:
            raise StorageUnavailable("killed")
        return await fetch(sql, parameters)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(room.database, "fetch", dies)
    with pytest.raises(StorageUnavailable):
        await key_rotation.rewrap_all(room.database, room.vault.keys)
    monkeypatch.setattr(room.database, "fetch", fetch)
    halfway = (await master_keys(room.database))[old].people
    assert 0 < halfway < 10
    async with second_process(room) as other:
        assert await key_rotation.rewrap_all(other.database, other.vault.keys) == halfway
        assert await key_rotation.rewrap_all(other.database, other.vault.keys) == 0
        row = await other.database.fetch_one("select user_id from keys.user_keys limit 1")
        assert row is not None
        connection = await other.database.fetch_one("select connection_id from keys.connection_keys limit 1")
        assert connection is not None
        await other.vault.keys.load_key(
            other.database, user_id=text(row, "user_id"), connection_id=text(connection, "connection_id")
        )


async def test_a_person_deleted_meanwhile_does_not_come_back(room: Room) -> None:
    await people(room, 1)
    new = await add(room)
    await promote(room, new)
    await room.vault.keys.learn_masters(room.database)
    page = await room.database.fetch("select user_id, wrapped, kek_id from keys.user_keys")
    async with room.database.transaction() as transaction:
        await room.vault.keys.destroy_user_key(transaction, text(page[0], "user_id"))
    await key_rotation._rewrap(room.database, room.vault.keys, page, [])
    assert await room.database.fetch("select user_id from keys.user_keys") == []


async def test_a_key_that_came_from_another_source_before_is_the_same_key(room: Room) -> None:
    await people(room, 1)
    key_id = room.vault.keys.held.rows[0].id
    fingerprint = fingerprint_of(key_id)
    async with room.database.transaction() as transaction:
        await transaction.execute("update keys.user_keys set kek_id = :was", {"was": f"earlier-{fingerprint}"})
    assert await masters.wraps_somebody(room.database, key_id)
    assert not await masters.wraps_somebody(room.database, f"file-{fingerprint[::-1]}")


async def test_a_key_is_retired_only_when_nothing_needs_it(room: Room) -> None:
    await people(room, 2)
    old, new = await former(room), await add(room)
    with pytest.raises(TransitionRefused, match="current master key"):
        await retire(room, old)
    await promote(room, new)
    room.pass_time(SETTLED)
    with pytest.raises(TransitionRefused, match=r"people's keys \(2\)"):
        await retire(room, old)
    await upkeep(room)
    await retire(room, old)
    with pytest.raises(TransitionRefused, match="retired"):
        await retire(room, old)
    await room.vault.keys.learn_masters(room.database)
    assert room.vault.keys.held.holds(old)  # for calls that read something under it a moment ago
    room.pass_time(59)
    await room.vault.keys.learn_masters(room.database)
    assert room.vault.keys.held.holds(old)
    room.pass_time(1)
    await room.vault.keys.learn_masters(room.database)
    assert not room.vault.keys.held.holds(old)
    await health.check_keys(room.database, room.vault.keys)
    with pytest.raises(TransitionRefused):
        await promote(room, old)


async def test_a_key_that_returns_under_its_former_master_key_is_wrapped_again_in_ten_minutes(room: Room) -> None:
    """For example, another process wrote it when its transaction began before the rotation."""
    await people(room, 1)
    row = await room.database.fetch_one("select wrapped, kek_id from keys.user_keys")
    assert row is not None
    state, new = KeyUpkeep(), await add(room)
    await promote(room, new)
    for _ in range(2):
        await upkeep(room, state)
    async with room.database.transaction() as transaction:
        await transaction.execute("update keys.user_keys set wrapped = :wrapped, kek_id = :kek_id", row)
    for passed, count in ((599, 0), (1, 1)):
        room.pass_time(passed)
        await upkeep(room, state)
        assert (await master_keys(room.database))[new].people == count


async def test_a_key_waits_for_transactions_that_began_before_the_rotation(room: Room) -> None:
    old, new = await former(room), await add(room)
    await promote(room, new)
    room.pass_time(59)
    with pytest.raises(TransitionRefused, match="try again in 1 s"):
        await retire(room, old)
    room.pass_time(1)
    await retire(room, old)


async def test_an_added_key_can_be_taken_back(room: Room) -> None:
    new = await add(room)
    await retire(room, new)
    with pytest.raises(TransitionRefused, match="isn't a key to rotate to"):
        await promote(room, new)
    again = await add(room)  # a different key: the retired line in the file isn't used again
    assert again != new
    await promote(room, again)


async def test_rotating_back_is_a_rotation(room: Room) -> None:
    await people(room, 2)
    old, new = await former(room), await add(room)
    await promote(room, new)
    await upkeep(room)
    await promote(room, old)
    await upkeep(room)
    found = await master_keys(room.database)
    assert (found[old].state, found[old].people, found[new].people) == ("current", 2, 0)


@pytest.mark.parametrize("fault", ["earlier release", "without the key"])
async def test_a_rotation_waits_for_each_process_that_serves(room: Room, tmp_path: Path, fault: str) -> None:
    async with other_host(room, tmp_path / "other") as other:
        new = await add(room)
        await says(other, knows_keys=fault != "earlier release")
        with pytest.raises(TransitionRefused, match=other.vault.owner):
            await promote(room, new)
        shutil.copy2(room.store.data / "master.key", other.store.data)
        await upkeep(other)
        await says(other)
        await promote(room, new)


async def test_a_rotation_does_not_wait_for_a_process_that_is_gone(room: Room) -> None:
    new = await add(room)
    await says(room, knows_keys=False)
    with pytest.raises(TransitionRefused):
        await promote(room, new)
    room.pass_time(90)
    with pytest.raises(TransitionRefused):
        await promote(room, new)
    room.pass_time(1)
    await promote(room, new)


async def test_a_process_is_ready_only_with_the_keys_that_calls_need(room: Room, tmp_path: Path) -> None:
    await people(room, 1)
    async with other_host(room, tmp_path / "other") as other:
        new = await add(room)
        await health.check_keys(other.database, other.vault.keys)  # nothing needs the new key yet
        with pytest.raises(KeyUnavailable, match=new):
            await upkeep(other)  # but its upkeep reports that it is missing
        await promote(room, new)
        with pytest.raises(KeyUnavailable, match=new):
            await health.check_keys(other.database, other.vault.keys)
        shutil.copy2(room.store.data / "master.key", other.store.data)
        await upkeep(other)
        await health.check_keys(other.database, other.vault.keys)


async def test_a_process_that_starts_without_an_added_key_is_not_ready(room: Room, tmp_path: Path) -> None:
    beside(room.store, tmp_path / "late")
    new = await add(room)
    late = Store(beside(room.store, tmp_path / "new").url, tmp_path / "late")
    async with second_process(replace(room, store=late)) as started:
        with pytest.raises(KeyUnavailable, match=new):
            await health.check_keys(started.database, started.vault.keys)
        shutil.copy2(room.store.data / "master.key", late.data)
        await upkeep(started)
        await health.check_keys(started.database, started.vault.keys)


async def test_a_start_without_a_key_that_wraps_something_is_refused(room: Room) -> None:
    await people(room, 1)
    old, new = await former(room), await add(room)
    await promote(room, new)
    both = (room.store.data / "master.key").read_text()
    for number, needed in ((1, old), (0, new)):
        (room.store.data / "master.key").write_text(both.splitlines()[number] + "\n")
        database = await room.store.open()
        try:
            with pytest.raises(KeyUnavailable) as refused:
                await room.store.open_keys(database)
            assert needed in refused.value.detail
            (room.store.data / "master.key").write_text(both)
            await room.store.open_keys(database)
        finally:
            await database.close()
    await upkeep(room)
    (room.store.data / "master.key").write_text(both.splitlines()[1] + "\n")
    async with second_process(room) as started:  # nothing is wrapped by the former key anymore
        await health.check_keys(started.database, started.vault.keys)


async def test_a_key_with_another_check_value_does_not_start(room: Room) -> None:
    sql = "update keys.masters set check_value = :check"
    (row,) = await masters.list_masters(room.database)
    for check in (b"x" * 32, row.stored.check):
        async with room.database.transaction() as transaction:
            await transaction.execute(sql, {"check": check})
        if check == row.stored.check:
            await room.store.open_keys(room.database)
        else:
            with pytest.raises(KeyUnavailable, match="is another one"):
                await room.store.open_keys(room.database)


async def test_a_vault_of_an_earlier_release_lists_its_key_at_its_next_start(room: Room) -> None:
    await people(room, 1)
    before = await masters.list_masters(room.database)
    async with room.database.transaction() as transaction:
        await transaction.execute("delete from keys.masters")
    await room.store.open_keys(room.database)
    after = await masters.list_masters(room.database)
    assert [(one.stored, one.state) for one in after] == [(one.stored, one.state) for one in before]
    assert (await master_keys(room.database))[before[0].id].people == 1


async def test_uses_of_keys_are_counted(room: Room) -> None:
    state = KeyUpkeep()
    await key_rotation.count_uses(room.database, room.vault.keys, state)
    only = await former(room)
    before = (await master_keys(room.database))[only].uses
    await people(room, 3)
    await key_rotation.count_uses(room.database, room.vault.keys, state)
    assert (await master_keys(room.database))[only].uses == before + 6  # each key was wrapped once and opened once
    await key_rotation.count_uses(room.database, room.vault.keys, state)
    assert (await master_keys(room.database))[only].uses == before + 6


PASSPHRASE = "a passphrase that only tests use"


@pytest.mark.parametrize("to", ["environment", "passphrase"])
async def test_a_vault_moves_from_one_source_to_another(sqlite_store: Store, to: str) -> None:
    environment = {
        "TOKEN_VAULT_KEY": base64.b64encode(bytes(range(32))).decode(),
        "TOKEN_VAULT_PASSPHRASE": PASSPHRASE,
    }
    async with open_room(sqlite_store) as room:
        await people(room, 1)
        settings = KeySettings(to, also=KeySettings("file"))
        source = key_source(settings, data=sqlite_store.data, environment=environment)
        ring = await KeyRing.open(room.database, source)
        moved = replace(room, vault=replace(room.vault, keys=ring))
        old, new = await former(moved), await add(moved)
        assert new.startswith(f"{to}-")
        await promote(moved, new)
        await upkeep(moved)
        moved.pass_time(SETTLED)
        await retire(moved, old)
        (sqlite_store.data / "master.key").unlink()
        alone = key_source(KeySettings(to), data=sqlite_store.data, environment=environment)
        await people_open(room.database, await KeyRing.open(room.database, alone))
        with pytest.raises(KeyUnavailable):
            await sqlite_store.open_keys(room.database)


async def people_open(database: Database, ring: KeyRing) -> None:
    row = await database.fetch_one("select user_id from keys.user_keys")
    assert row is not None
    await ring.load_key(database, user_id=text(row, "user_id"), connection_id="c0")


async def test_a_variable_may_hold_the_present_and_the_next_key(tmp_path: Path) -> None:
    first, second = (base64.b64encode(bytes([number] * 32)).decode() for number in (1, 2))
    one = key_source(KeySettings("environment"), data=tmp_path, environment={"TOKEN_VAULT_KEY": first})
    made = await one.create(())
    with pytest.raises(KeyUnavailable, match="openssl rand"):
        await one.create({made.key.fingerprint})
    both = key_source(KeySettings("environment"), data=tmp_path, environment={"TOKEN_VAULT_KEY": f"{first} {second}"})
    assert (await both.create({made.key.fingerprint})).key.id != made.key.id
    assert await both.open(made.record)


async def test_of_two_promotions_at_once_one_key_is_current(room: Room) -> None:
    keys = [await add(room), await add(room)]
    await asyncio.gather(*(promote(room, one) for one in keys))
    states = [row.state for row in await masters.list_masters(room.database)]
    assert sorted(states) == ["current", "previous", "previous"]


@pytest.mark.parametrize("written", [True, False])
def test_a_key_that_was_not_written_whole_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    file = tmp_path / "master.key"
    assert create_private(file, "first\n")
    real = os.write
    if not written:
        monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:3]))
        with pytest.raises(KeyUnavailable, match="can't write"):
            append_private(file, "second\n")
    else:
        append_private(file, "second\n")
    assert file.read_text() == ("first\nsecond\n" if written else "first\n")


async def test_a_live_process_is_listed_however_many_ended_that_started_later(room: Room) -> None:
    ended = Replica("", "host", "serve", "1.0.0", room.now, room.now - replicas.LATE - 1, {}, {}, None)
    async with room.database.transaction() as transaction:
        for number in range(501):
            await replicas.note_replica(transaction, replace(ended, id=f"ended-{number}"))
        await replicas.note_replica(transaction, replace(ended, id="live", started_at=1, seen_at=room.now))
    assert [one.id for one in await key_rotation.list_without(room.database, "any", now=room.now)] == ["live"]


async def test_a_process_reports_its_troubles_in_canonical_json(room: Room) -> None:
    troubles = {"b": "storage_busy", "a": "key_unavailable"}
    said = Replica("id", "host", "serve", "1.0.0", room.now, room.now, troubles, troubles, None)
    async with room.database.transaction() as transaction:
        await replicas.note_replica(transaction, said)
    (row,) = await room.database.fetch("select failing, providers from replicas")
    assert set(row.values()) == {'{"a":"key_unavailable","b":"storage_busy"}'}
    (found,) = await replicas.list_replicas(room.database)
    assert (found.failing, found.providers) == (troubles, troubles)


@pytest.mark.parametrize("is_away", [True, False])
async def test_a_key_that_is_away_keeps_only_its_own_rows_from_being_wrapped(room: Room, *, is_away: bool) -> None:
    await people(room, 3)
    first = room.vault.keys.held.ids()[0]
    row = await room.database.fetch_one("select user_id from keys.user_keys order by user_id limit 1")
    assert row is not None
    key_id = await add(room)
    await promote(room, key_id)
    await room.vault.keys.learn_masters(room.database)
    names = {"id": text(row, "user_id"), "away": "local-0123456789abcdef" if is_away else first}
    async with room.database.transaction() as transaction:
        await transaction.execute("update keys.user_keys set kek_id = :away where user_id = :id", names)
    if is_away:
        with pytest.raises(KeyUnavailable):
            await key_rotation.rewrap_all(room.database, room.vault.keys)
    else:
        await key_rotation.rewrap_all(room.database, room.vault.keys)
    wrapped = (await masters.count_people(room.database)).get(key_id.rpartition("-")[2], 0)
    assert wrapped == (2 if is_away else 3)


async def test_what_is_wrapped_already_keeps_no_other_from_being_wrapped(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_rotation, "new_id", str)  # in the order of the table
    await people(room, 3)
    key_id = await add(room)
    await promote(room, key_id)
    await room.vault.keys.learn_masters(room.database)
    rows = await room.database.fetch("select user_id, wrapped, kek_id from keys.user_keys order by user_id")
    user_id, former = text(rows[0], "user_id"), text(rows[0], "kek_id")
    wrapped = binary(rows[0], "wrapped")
    made = room.vault.keys.rewrap_user_key(wrapped, user_id=user_id, from_id=former, to_id=key_id)
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update keys.user_keys set wrapped = :made, kek_id = :key_id where user_id = :user_id",
            {"made": made, "key_id": key_id, "user_id": user_id},
        )
    assert await key_rotation.rewrap_all(room.database, room.vault.keys) == len(rows) - 1


async def test_a_damaged_key_keeps_no_other_from_being_wrapped(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rotation, "PAGE", 2)
    await people(room, 4)
    users_before = len(await room.database.fetch("select user_id from keys.user_keys"))
    key_id = await add(room)
    await promote(room, key_id)
    await room.vault.keys.learn_masters(room.database)
    row = await room.database.fetch_one("select user_id from keys.user_keys order by user_id limit 1")
    assert row is not None
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update keys.user_keys set wrapped = :junk where user_id = :id", {"junk": b"junk", "id": row["user_id"]}
        )
    told: list[tuple[str, int, int | None]] = []

    def tell(step: str, done: int, total: int | None) -> None:
        told.append((step, done, total))

    assert await key_rotation.rewrap_all(room.database, room.vault.keys, tell=tell) == users_before - 1
    assert await key_rotation.rewrap_all(room.database, room.vault.keys) == 0
    assert {one[0] for one in told} == {"Wrapping people's keys"}
    assert told[-1][1:] == (users_before, users_before)
    counted = await masters.count_people(room.database)
    assert counted[fingerprint_of(key_id)] == users_before - 1

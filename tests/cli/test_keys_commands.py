"""`keys`: three commands change the master key; each refusal names the next step."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest

from server.administration import master_keys
from server.administration.actor import Actor
from server.app import open_deployment
from server.settings import load_settings
from tests.support.commands import content, run
from tests.support.processes import Place
from vault.refusals import TransitionRefused
from vault.upkeep import replicas
from vault.upkeep.key_rotation import SETTLED
from vault.upkeep.replicas import Replica


def pass_time(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(place.data / "keys.sqlite")) as database:
        database.execute("update masters set current_at = current_at - ?", (SETTLED,))
        database.commit()


async def masters(place: Place) -> dict[str, dict[str, object]]:
    rows = await content(place, "keys", "list")
    assert isinstance(rows, list)
    return {row["id"]: row for row in rows if row["kind"] == "master"}


async def test_the_master_key_is_changed_by_three_commands(place: Place) -> None:
    (old,) = await masters(place)
    nothing = await run(place, "keys", "rotate")
    assert nothing.exit_code == 1
    assert "run token-vault keys add first" in nothing.stderr
    new = (await content(place, "keys", "add"))["id"]
    twice = await run(place, "keys", "add")
    assert twice.exit_code == 1
    assert "rotate to it, or retire it" in twice.stderr
    rotated = await run(place, "keys", "rotate", "--wait", "0")
    assert rotated.exit_code == 0, rotated.output
    assert f"{new} is now the master key" in rotated.stdout
    pass_time(place)
    retired = await run(place, "keys", "retire", old)
    assert retired.exit_code == 0, retired.output
    assert "Backups made under it still need it" in retired.stdout
    found = await masters(place)
    assert {key: row["state"] for key, row in found.items()} == {old: "retired", new: "current"}
    assert found[new]["root"] is True
    assert int(str(found[new]["uses"])) > 0  # no server runs that could count those of the rotation
    assert found[new]["source"] == str(place.data / "master.key")
    lines = (place.data / "master.key").read_text().splitlines()
    (place.data / "master.key").write_text(lines[1] + "\n")
    kinds = [event["kind"] for event in await content(place, "activity")]
    assert [kind for kind in kinds if kind.startswith("master_key.")] == [
        "master_key.added",
        "master_key.rotated",
        "master_key.retired",
    ]
    (place.data / "master.key").write_text(lines[0] + "\n")
    wrong = await run(place, "keys", "list")
    assert wrong.exit_code == 1
    assert "this key didn't seal the database" in wrong.stderr


async def test_a_rotation_waits_until_each_process_says_that_it_has_the_key(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master_keys, "LOOK_EVERY", 0.01)
    async with open_deployment(load_settings(None, data=place.data), data=place.data) as deployment:
        actor = Actor(deployment, None, "command_line")
        new = await master_keys.add(actor)
        deployment.database.clock_offset += master_keys.STARTING
        said = Replica("other", "host", "serve", "1.0.0", 1, deployment.now(), {}, {}, frozenset())
        async with deployment.transaction() as transaction:
            await replicas.note_replica(transaction, said)
        with pytest.raises(TransitionRefused, match="Give it to them"):
            await master_keys.rotate(actor, None, patience=3)
        waiting = asyncio.Event()
        rotating = asyncio.create_task(master_keys.rotate(actor, None, patience=10_000, tell=lambda *_: waiting.set()))
        async with asyncio.timeout(30):
            await waiting.wait()
        assert not rotating.done()
        async with deployment.transaction() as transaction:
            await replicas.note_masters(transaction, "other", [new])
        async with asyncio.timeout(30):
            assert await rotating == (new, 0)


async def test_an_added_key_that_was_lost_can_be_taken_back(place: Place) -> None:
    before = (place.data / "master.key").read_text()
    new = (await content(place, "keys", "add"))["id"]
    (place.data / "master.key").write_text(before)
    lost = await run(place, "keys", "rotate", "--wait", "0")
    assert f"doesn't have the master key {new}" in lost.stderr
    assert (await run(place, "keys", "retire", new)).exit_code == 0
    unknown = await run(place, "keys", "retire", "file-0")
    assert "keys list shows them" in unknown.stderr

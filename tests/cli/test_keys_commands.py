"""`keys`: the master key changes by three commands, and each refusal says the next step."""

from __future__ import annotations

import contextlib
import sqlite3

from tests.support.commands import content, run
from tests.support.processes import Place
from vault.upkeep.key_rotation import SETTLED


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
    assert {key: row["state"] for key, row in (await masters(place)).items()} == {old: "current", new: "added"}
    rotated = await run(place, "keys", "rotate")
    assert rotated.exit_code == 0, rotated.output
    assert f"{new} is the master key now" in rotated.stdout
    early = await run(place, "keys", "retire", old)
    assert "try again in" in early.stderr
    pass_time(place)
    current = await run(place, "keys", "retire", new)
    assert "rotate to another one first" in current.stderr
    retired = await run(place, "keys", "retire", old)
    assert retired.exit_code == 0, retired.output
    assert "Backups made under it still need it" in retired.stdout
    unknown = await run(place, "keys", "retire", "file-0")
    assert "keys list shows them" in unknown.stderr
    found = await masters(place)
    assert {key: row["state"] for key, row in found.items()} == {old: "retired", new: "current"}
    assert found[new]["root"] is True
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

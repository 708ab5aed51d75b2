"""Attacks on the activity by a database writer who lacks the vault's key: change, remove, move, insert, truncate."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.target import Target, verify_copy
from vault.refresh import sightings
from vault.storage.event_chain import digest, entry_of, tail


class Copy:
    """The two databases of a stopped vault."""

    def __init__(self, data: Path) -> None:
        self.main, self.keys = sqlite3.connect(data / "vault.sqlite"), sqlite3.connect(data / "keys.sqlite")
        self.main.row_factory = sqlite3.Row

    def run(self, *statements: str) -> None:
        for statement in statements:
            (self.keys if "keys." in statement else self.main).execute(statement.replace("keys.", ""))
        self.close()

    def close(self) -> None:
        for one in (self.main, self.keys):
            one.commit()
            one.close()


def forge(copy: Copy, *, change: str, after: int) -> None:
    """Change the data and recompute all later hashes, as anyone who knows the format can."""
    main = copy.main
    main.execute(change)
    batches = main.execute("select * from event_batches where height > ? order by height", (after,)).fetchall()
    previous = bytes(main.execute("select hash from event_batches where height = ?", (after,)).fetchone()["hash"])
    for batch in batches:
        rows = main.execute(
            "select * from events where sequence between ? and ? order by sequence",
            (batch["first_sequence"], batch["last_sequence"]),
        ).fetchall()
        tails = [tail(entry_of(dict(row)), at=batch["at"]) for row in rows]
        before = batch["first_sequence"] - 1
        made = digest(previous, height=batch["height"], sequence=before, at=batch["at"], tails=tails)
        main.execute(
            "update event_batches set previous_hash = ?, hash = ? where height = ?", (previous, made, batch["height"])
        )
        previous = made
    main.execute("update event_heads set hash = ?", (previous,))


LAST = "(select max(height) from event_batches)"
CUT = (
    f"delete from events where sequence >= (select first_sequence from event_batches where height = {LAST})",
    f"delete from event_batches where height = {LAST}",
)
HEAD_BACK = (
    "update event_heads set height = (select max(height) from event_batches),"
    " sequence = (select max(last_sequence) from event_batches),"
    f" hash = (select hash from event_batches where height = {LAST})"
)
LAST_EVENT = " from events where sequence = (select max(sequence) from events)"
WAYS: dict[str, tuple[str, ...]] = {
    "an outcome is changed": ("update events set outcome = 'no' where sequence = 5",),
    "who did it is changed": ("update events set user_id = 'somebody' where sequence = 5",),
    "details are changed": ("update events set details = '{}' where sequence = 7",),
    "a time is changed": ("update events set at = at - 60 where sequence = 5",),
    "an event is removed": ("delete from events where sequence = 5",),
    "the last event is removed": ("delete from events where sequence = (select max(sequence) from events)",),
    "two events change places": (
        "update events set sequence = -1 where sequence = 5",
        "update events set sequence = 5 where sequence = 6",
        "update events set sequence = 6 where sequence = -1",
    ),
    "a batch is removed": ("delete from event_batches where height = 3",),
    "the tail is cut": CUT,
    "the tail is cut and the head set back": (*CUT, HEAD_BACK),
    "everything is removed": ("delete from events", "delete from event_batches", "delete from event_heads"),
    "everything is removed with the note of the key": (
        "delete from events", "delete from event_batches", "delete from event_heads", "delete from keys.event_starts",
    ),
    "an event stands beyond the head": (
        "insert into events select tenant, sequence + 1, at, kind, outcome, user_id, client_id, connection_id, '{}'"
        + LAST_EVENT,
    ),
    "a tag is removed": ("update event_batches set tag = null where height = 4",),
    "all tags are removed": ("update event_batches set tag = null",),
    "the keyed head is removed": ("update event_heads set keyed = null",),
    "the keyed head is of another batch": ("update event_heads set keyed = hash",),
    "the note of the key is removed": ("delete from keys.event_starts",),
    "the note of the key is moved to the end": ("update keys.event_starts set height = 9, sequence = 20",),
    "a checkpoint is made up": (
        "delete from event_checkpoints",
        "insert into event_checkpoints select tenant, 1, 4, 1, 6, at, at, hash, at from event_batches where height = 4",
    ),
}  # fmt: skip


@pytest.fixture
async def copied_data(target: Target, tmp_path: Path) -> Path:
    """A copy of the running vault's data, made once its host has seen events, which it checks every 30 seconds."""
    async with asyncio.timeout(90):
        while (seen := sightings.read(target.place.data)) is None or not seen.sequence:
            await asyncio.sleep(0.5)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    for found in target.place.data.iterdir():
        if found.is_file() and ".sqlite" not in found.name:
            shutil.copy2(found, data / found.name)
    for name in ("vault.sqlite", "keys.sqlite"):
        with sqlite3.connect(target.place.data / name) as here, sqlite3.connect(data / name) as there:
            here.backup(there)
        (data / name).chmod(0o600)
    return data


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_noticed_when(target: Target, copied_data: Path, way: str) -> None:
    code, said = await verify_copy(target, copied_data)
    assert code == 0, said  # the twin
    try:
        Copy(copied_data).run(*WAYS[way])
    except sqlite3.OperationalError as error:
        pytest.fail(f"the attack itself is wrong: {error}")
    code, said = await verify_copy(target, copied_data)
    assert code == 1, said
    assert "Traceback" not in said


async def test_it_is_noticed_that_all_events_and_all_traces_of_them_are_gone(target: Target, copied_data: Path) -> None:
    """Nothing in the database shows it, but the host's own record does."""
    tables = ("events", "event_batches", "event_heads", "event_checkpoints", "event_tiles", "event_notes")
    wiped = [f"delete from {one}" for one in (*tables, "event_deliveries", "keys.event_starts")]
    Copy(copied_data).run(*wiped, "delete from keys.ring where purpose = 'activity-log'")
    code, said = await verify_copy(target, copied_data)
    assert (code, "this host saw" in said) == (1, True), said


FORGERIES: dict[str, Callable[[], str]] = {
    "an event is changed": lambda: "update events set details = '{\"forged\":true}' where sequence = 7",
    "an event is somebody else's": lambda: "update events set user_id = 'somebody' where sequence = 7",
}


@pytest.mark.parametrize("way", FORGERIES)
async def test_it_is_noticed_with_all_hashes_made_anew_when(target: Target, copied_data: Path, way: str) -> None:
    copy = Copy(copied_data)
    forge(copy, change=FORGERIES[way](), after=1)
    copy.close()
    code, said = await verify_copy(target, copied_data)
    assert code == 1, said
    assert "Traceback" not in said

# ruff: noqa: ISC004 -- statements of several lines
"""Attacks on the activity of several writers, with pruned and sealed segments, by anyone who can write the database."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner

from server.cli import app
from tests.attacks.activity.attack_history import CUT, HEAD_BACK, WAYS
from tests.conftest import PostgresCluster, Store, first_run
from vault.audit import segments
from vault.audit.audit import Activity
from vault.records import Event
from vault.storage.event_chain import digest, entry_of, tail

DAY = 86400


@dataclass
class History:
    """A stopped vault. Events 1 to 40 are pruned, 41 to 81 are sealed, 82 to 121 are the tail."""

    data: Path
    cluster: PostgresCluster
    database: str | None  # None: SQLite

    async def copy(self, folder: Path) -> History:
        data = folder / "copy"
        shutil.copytree(self.data, data)
        data.chmod(0o700)
        name = None if self.database is None else await self.cluster.create(template=self.database)
        made = History(data, self.cluster, name)
        made.configure()
        return made

    @property
    def url(self) -> str:
        return f"sqlite://{self.data}/vault.sqlite" if self.database is None else self.cluster.url(self.database)

    def configure(self) -> None:
        (self.data / "config.toml").write_text(f'[database]\nurl = "{self.url}"\n', encoding="utf-8")

    async def run(self, *statements: str) -> None:
        if self.database is None:
            with closing(sqlite3.connect(self.data / "vault.sqlite")) as main:
                main.execute("attach database ? as keys", (str(self.data / "keys.sqlite"),))
                for statement in statements:
                    main.execute(statement)
                main.commit()
            return
        connection = await asyncpg.connect(self.url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def rows(self, query: str) -> Sequence[dict[str, object]]:
        if self.database is None:
            with closing(sqlite3.connect(self.data / "vault.sqlite")) as main:
                main.row_factory = sqlite3.Row
                return [dict(row) for row in main.execute(query)]
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def verify(self, *more: str) -> tuple[int, str]:
        words = ["activity", "verify", "--data", str(self.data), *more]
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
        return done.exit_code, done.output + repr(done.exception or "")


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
async def history(
    request: pytest.FixtureRequest, postgres: PostgresCluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[History]:
    data = tmp_path_factory.mktemp("history") / "data"
    data.mkdir(mode=0o700)
    name = None if request.param == "sqlite" else await postgres.create()
    made = History(data, postgres, name)
    store = Store(made.url, data)
    await first_run(store)
    writers = [await store.open(), await store.open()]
    try:
        for one in writers:
            await store.open_keys(one)  # creates the activity's key
        activities = [Activity(one) for one in writers]

        async def append(count: int) -> None:
            for number in range(count):
                event = Event("tool.called", user_id=f"person{number % 3}", details={"number": number})
                await activities[number % 2].record(event)

        await append(40)
        assert await segments.seal(writers[0], now=writers[0].now() + 2 * 3600) >= 40
        assert await segments.prune(writers[1], retention_days=1, now=writers[1].now() + 3 * DAY) >= 40
        await append(40)
        assert await segments.seal(writers[1], now=writers[1].now() + 4 * DAY) >= 40
        await append(40)
        for one in activities:
            await one.close()
    finally:
        for one in writers:
            await one.close()
    made.configure()
    code, said = await made.verify("--json")
    report = json.loads(said.partition("\n''")[0].removesuffix("''"))
    assert (code, report["whole"]) == (0, True), said
    assert report["pruned"], said
    checkpoints = await made.rows("select pruned_at from event_checkpoints order by first_height")
    assert [one["pruned_at"] is None for one in checkpoints] == [False, True]
    yield made


MIDDLE, TAIL = 60, 110  # events of the sealed segment and of the tail
SEGMENT_WAYS: dict[str, tuple[str, ...]] = {
    "an event of the sealed segment is changed": (f"update events set outcome = 'no' where sequence = {MIDDLE}",),
    "an event of the sealed segment is removed": (f"delete from events where sequence = {MIDDLE}",),
    "an event of the tail is changed": (f"update events set user_id = 'person9' where sequence = {TAIL}",),
    "two writers' events change places": (
        f"update events set sequence = -1 where sequence = {TAIL}",
        f"update events set sequence = {TAIL} where sequence = {TAIL + 1}",
        f"update events set sequence = {TAIL + 1} where sequence = -1",
    ),
    "two writers' events change their persons": (
        f"update events set user_id = 'x' where sequence = {TAIL}",
        f"update events set user_id = (select user_id from events where sequence = {TAIL}) where sequence = {TAIL + 1}",
    ),
    "two writers' batches change their tags": (
        "update event_batches set tag = (select b.tag from event_batches b where b.height = event_batches.height + 1)"
        " where height = (select max(height) - 3 from event_batches)",
    ),
    "the sealed segment is removed with its checkpoint": (
        "delete from events where sequence <= (select max(sequence) from event_checkpoints)",
        "delete from event_batches where height <= (select max(height) from event_checkpoints)",
        "delete from event_checkpoints where pruned_at is null",
    ),
    "the sealed segment passes for pruned": (
        "delete from events where sequence <= (select max(sequence) from event_checkpoints)",
        "delete from event_batches where height <= (select max(height) from event_checkpoints)",
        "update event_checkpoints set pruned_at = (select max(c.pruned_at) from event_checkpoints c)",
    ),
    "the sealed segment has the seal of the pruned one": (
        "delete from events where sequence <= (select max(sequence) from event_checkpoints)",
        "delete from event_batches where height <= (select max(height) from event_checkpoints)",
        "update event_checkpoints set pruned_at = (select max(c.pruned_at) from event_checkpoints c),"
        " sealed = (select c.sealed from event_checkpoints c where c.pruned_at is not null)",
    ),
    "the checkpoint of the pruned segment is removed": ("delete from event_checkpoints where pruned_at is not null",),
    "all checkpoints are removed": ("delete from event_checkpoints",),
    "the pruned segment is not pruned": ("update event_checkpoints set pruned_at = null",),
    "a checkpoint reaches further": ("update event_checkpoints set sequence = sequence + 1",),
    "a checkpoint's seal is cut": ("update event_checkpoints set sealed = substr(sealed, 1, 40)",),
    "the tail is cut to the checkpoint and the head set back": (
        "delete from events where sequence > (select max(sequence) from event_checkpoints)",
        "delete from event_batches where height > (select max(height) from event_checkpoints)",
        HEAD_BACK,
    ),
    "the tail is cut, the head and its keyed value set to the next": (
        *CUT,
        HEAD_BACK,
        "update event_heads set keyed = hash",
    ),
    "the last batch is there twice": (
        "insert into events select tenant, sequence + 1, at, kind, outcome, user_id, client_id, connection_id, details"
        " from events where sequence = (select max(sequence) from events)",
        "insert into event_batches (tenant, height, first_sequence, last_sequence, previous_hash, hash, at, tag)"
        " select tenant, height + 1, first_sequence + 1, last_sequence + 1, hash, hash, at, tag from event_batches"
        " where height = (select max(height) from event_batches)",
        "update event_heads set height = height + 1, sequence = sequence + 1",
    ),
}
_OF_SMALL_HEIGHTS = {"a checkpoint is made up", "the note of the key is moved to the end"}
ALL = {
    name: tuple(one.replace("sequence = 5", "sequence = 105").replace("sequence = 6", "sequence = 106") for one in ways)
    for name, ways in WAYS.items()
    if name not in _OF_SMALL_HEIGHTS
} | SEGMENT_WAYS


def _move_into_tail(statement: str) -> str:
    """Move the heights and sequence numbers of the other file's changes into the tail."""
    moved = statement.replace("sequence = 7", "sequence = 107")
    for height in (3, 4):
        moved = moved.replace(f"height = {height}", f"height = (select max(height) - {height} from event_batches)")
    return moved


@pytest.mark.parametrize("way", ALL)
async def test_it_is_noticed_when(history: History, tmp_path: Path, way: str) -> None:
    copy = await history.copy(tmp_path)
    code, said = await copy.verify()
    assert code == 0, said  # the twin
    await copy.run(*map(_move_into_tail, ALL[way]))
    code, said = await copy.verify()
    assert code == 1, said
    assert "tampered" in said or "written by an earlier release" in said, said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [MIDDLE, TAIL])
async def test_it_is_noticed_with_all_hashes_made_anew(history: History, tmp_path: Path, number: int) -> None:
    """Change an event and recompute every later hash, as anyone who knows the format can."""
    copy = await history.copy(tmp_path)
    await copy.run(f"update events set user_id = 'somebody' where sequence = {number}")
    batches = await copy.rows("select * from event_batches order by height")
    rows = {int(str(row["sequence"])): row for row in await copy.rows("select * from events")}
    previous, statements = bytes(batches[0]["previous_hash"]), []
    for batch in batches:
        first, last = int(str(batch["first_sequence"])), int(str(batch["last_sequence"]))
        tails = [tail(entry_of(rows[one]), at=batch["at"]) for one in range(first, last + 1)]
        made = digest(previous, height=batch["height"], sequence=first - 1, at=batch["at"], tails=tails)
        as_blob = ("X'%s'" if copy.database is None else "decode('%s', 'hex')") % made.hex()
        before = ("X'%s'" if copy.database is None else "decode('%s', 'hex')") % previous.hex()
        statements.append(
            f"update event_batches set previous_hash = {before}, hash = {as_blob} where height = {batch['height']}"
        )
        previous = made
    statements.append("update event_heads set hash = (select hash from event_batches order by height desc limit 1)")
    await copy.run(*statements)
    code, said = await copy.verify()
    assert (code, "tampered" in said) == (1, True), said


async def test_trusting_the_sealed_record_still_reads_what_came_after_it(history: History, tmp_path: Path) -> None:
    copy = await history.copy(tmp_path)
    await copy.run(f"update events set outcome = 'no' where sequence = {TAIL}")
    code, said = await copy.verify("--since", "2100-01-01")
    assert (code, "tampered" in said) == (1, True), said


async def test_accepting_unkeyed_events_accepts_no_change_of_a_keyed_one(history: History, tmp_path: Path) -> None:
    """`--allow-unkeyed` is for a release that ran next to this one: an event without its tag must not pass for one."""
    copy = await history.copy(tmp_path)
    height = "(select max(height) - 2 from event_batches)"
    await copy.run(f"update event_batches set tag = null where height = {height}")
    code, said = await copy.verify("--allow-unkeyed")
    assert (code, "tampered" in said) == (1, True), said

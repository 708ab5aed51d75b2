"""What a backup's bytes and lines may contain: every damage is refused with a word for it, and its twin opens."""

from __future__ import annotations

import errno
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

import vault.storage.postgres
from tests.conftest import KeySettings, Store
from tests.support.rooms.vault_room import Room, open_room
from vault.audit.proof import head, prove
from vault.backup import backups
from vault.backup.backups import Backup, Header
from vault.keys.sealed_file import CHUNK, MAGIC, BackupRefused, SealedWriter, read_content, read_header
from vault.keys.sources import key_source
from vault.refusals import KeyUnavailable
from vault.storage.database import Database, Value, schema_files
from vault.storage.snapshots import snapshot, tables

KEY = bytes(32)
TAG = 16
HEAD = b"header"
START = len(MAGIC) + 4 + len(HEAD)


def sealed_file(content: bytes, *, header: bytes = HEAD) -> bytes:
    file = io.BytesIO()
    writer = SealedWriter(file, key=KEY, header=header)
    for at in range(0, len(content), 100_000):
        writer.write(content[at : at + 100_000])
    writer.finish()
    return file.getvalue()


def read_chunks(whole: bytes) -> list[bytes]:
    file = io.BytesIO(whole)
    return list(read_content(file, key=KEY, header=read_header(file)))


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(0, [0]), (1, [1]), (CHUNK, [CHUNK]), (CHUNK + 1, [CHUNK, 1]), (3 * CHUNK, [CHUNK] * 3)],
)
def test_content_is_cut_into_full_chunks_and_comes_back_whole(size: int, chunks: list[int]) -> None:
    content = bytes(one % 251 for one in range(size))
    whole = sealed_file(content)
    found = read_chunks(whole)
    assert [len(one) for one in found] == chunks
    assert b"".join(found) == content
    assert len(whole) == START + sum(4 + one + TAG for one in chunks)


@pytest.mark.parametrize("size", [1, 64 * 1024])
def test_a_header_has_up_to_64_kibibytes(size: int) -> None:
    assert read_header(io.BytesIO(sealed_file(b"", header=b"h" * size))) == b"h" * size


@pytest.mark.parametrize("size", [0, 64 * 1024 + 1])
def test_a_header_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(BackupRefused) as refused:
        read_header(io.BytesIO(sealed_file(b"", header=b"h" * size)))
    assert refused.value.detail == "the length of the header is wrong"


def test_a_header_that_is_cut_off_is_refused() -> None:
    with pytest.raises(BackupRefused) as refused:
        read_header(io.BytesIO(sealed_file(b"content")[: START - 1]))
    assert refused.value.detail == "the header is cut off"


def with_length(whole: bytes, by: int) -> bytes:
    """With another length before the first chunk."""
    length = int.from_bytes(whole[START : START + 4], "big") + by
    return whole[:START] + length.to_bytes(4, "big") + whole[START + 4 :]


TWO = sealed_file(b"c" * (CHUNK + 1))
DAMAGED = {
    "without content": (TWO[:START], 0),
    "with half a length": (TWO[: START + 3], 0),
    "with a chunk that is shorter than its tag": (
        sealed_file(b"")[:START] + (TAG - 1).to_bytes(4, "big") + b"t" * 15,
        0,
    ),
    "with a longer length": (with_length(sealed_file(b"content"), 1), 0),
    "without the last chunk": (TWO[: START + 4 + CHUNK + TAG], 0),
    "with half of the last length": (TWO[: START + 4 + CHUNK + TAG + 2], 1),
    "with the last chunk cut off": (TWO[:-1], 1),
    "with a changed last chunk": (TWO[:-1] + bytes([TWO[-1] ^ 1]), 1),
    "with more after the end": (TWO + b"\x00\x00\x00\x10" + b"t" * TAG, 1),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_content_is_refused_and_the_chunk_is_named(how: str) -> None:
    assert b"".join(read_chunks(TWO)) == b"c" * (CHUNK + 1)
    whole, chunk = DAMAGED[how]
    with pytest.raises(BackupRefused) as refused:
        read_chunks(whole)
    assert refused.value.detail == f"chunk {chunk} doesn't open or is missing"


def test_a_chunk_that_claims_to_be_longer_than_any_is_refused_before_it_is_read() -> None:
    file = io.BytesIO(with_length(sealed_file(b"c" * CHUNK), 1) + b"x")
    with pytest.raises(BackupRefused, match="damaged"):
        list(read_content(file, key=KEY, header=read_header(file)))
    assert file.tell() == START + 4


def backup(path: Path, lines: list[object], *, end: bytes = b"\n") -> Backup:
    header = Header(1, "v", len(schema_files()), with_keys=False, kek_id="k", is_passphrase=False, wrapped=b"w")
    path.write_bytes(sealed_file(b"\n".join(json.dumps(one).encode() for one in lines) + end, header=header.encode()))
    return Backup(path, header, KEY)


ROW = ["users", {"id": "u", "picture": {"$": "AAE="}, "n": 1, "none": None}]
COUNT = {"rows": {"users": 1, "clients": 0}}


def test_rows_are_read_with_their_bytes(tmp_path: Path) -> None:
    assert "users" in tables()
    row = {"id": "u", "picture": b"\x00\x01", "n": 1, "none": None}
    assert list(backup(tmp_path / "b", [ROW, COUNT]).rows()) == [("users", row)]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([ROW], "rows are missing"),
        ([COUNT], "rows are missing"),
        ([ROW, ROW, COUNT], "rows are missing"),
        ([ROW, {"rows": {"users": 1, "clients": 1}}], "rows are missing"),
        ([["strangers", {}], COUNT], "a line can't be read"),
        ([["users", []], COUNT], "a line can't be read"),
        ([ROW, {"rows": 1}], "a line can't be read"),
        ([["users", {"id": [1]}], COUNT], "a value has the wrong type"),
        ([["users", {"id": 1.5}], COUNT], "a value has the wrong type"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, lines: list[object], why: str) -> None:
    with pytest.raises(BackupRefused) as refused:
        list(backup(tmp_path / "b", lines).rows())
    assert refused.value.detail == why


def test_a_last_line_without_its_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupRefused) as refused:
        list(backup(tmp_path / "b", [ROW, COUNT], end=b"").rows())
    assert refused.value.detail == "the last line is cut off"


async def test_a_column_with_another_name_is_refused(database: Database) -> None:
    async with database.transaction() as transaction:
        for name in ("id, name", "id)", ""):
            with pytest.raises(BackupRefused) as refused:
                await backups._insert(transaction, "seen", [{name: "x"}])
            assert refused.value.detail == "a column has the wrong name or type"
        row: dict[str, Value] = {"purpose": "p", "value_hash": b"h", "expires_at": 1}
        await backups._insert(transaction, "seen", [row])
    assert await database.fetch("select purpose, value_hash, expires_at from seen") == [row]


async def test_a_file_that_cant_be_written_or_read_is_named(room: Room, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with snapshot(room.store.url, data=room.store.data) as seen:
        with pytest.raises(BackupRefused, match=r"can't write .*file/b"):
            await backups.write_backup(
                tmp_path / "file" / "b", seen, ring=room.vault.keys, with_keys=False, now=room.now
            )
        with pytest.raises(BackupRefused, match="already exists: choose another name"):
            await backups.write_backup(tmp_path / "file", seen, ring=room.vault.keys, with_keys=False, now=room.now)
        made = await backups.write_backup(tmp_path / "b", seen, ring=room.vault.keys, with_keys=False, now=room.now)
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["b", "file"]
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    source = room.vault.keys.held.source
    assert (await Backup.open(tmp_path / "b", source)).header == made.header
    with pytest.raises(BackupRefused, match=r"can't read .*missing"):
        await Backup.open(tmp_path / "missing", source)
    damaged = replace(made.header, wrapped=bytes(len(made.header.wrapped)))
    (tmp_path / "damaged").write_bytes(sealed_file(b"", header=damaged.encode()))
    with pytest.raises(KeyUnavailable, match="can't open the backup"):
        await Backup.open(tmp_path / "damaged", source)


async def test_a_file_that_appears_while_a_backup_is_written_is_kept(room: Room, tmp_path: Path) -> None:
    def appear(step: str, done: int, total: int | None) -> None:
        (tmp_path / "b").write_text("another")

    async with snapshot(room.store.url, data=room.store.data) as seen:
        with pytest.raises(BackupRefused, match="already exists: choose another name"):
            await backups.write_backup(
                tmp_path / "b", seen, ring=room.vault.keys, with_keys=False, now=room.now, tell=appear
            )
    assert (tmp_path / "b").read_text() == "another"
    assert [one.name for one in tmp_path.iterdir() if "partial" in one.name] == []


async def test_a_file_system_without_hard_links_gets_whole_backups_that_replace_none(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fat(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source), None, str(target))

    def appear(step: str, done: int, total: int | None) -> None:
        (tmp_path / "taken").write_text("another")

    monkeypatch.setattr(os, "link", fat)
    async with snapshot(room.store.url, data=room.store.data) as seen:
        made = await backups.write_backup(tmp_path / "b", seen, ring=room.vault.keys, with_keys=False, now=room.now)
        with pytest.raises(BackupRefused, match="already exists: choose another name"):
            await backups.write_backup(
                tmp_path / "taken", seen, ring=room.vault.keys, with_keys=False, now=room.now, tell=appear
            )
    assert (await Backup.open(tmp_path / "b", room.vault.keys.held.source)).header == made.header
    assert (tmp_path / "taken").read_text() == "another"
    assert [one.name for one in tmp_path.iterdir() if "partial" in one.name] == []


SLOW = """
    create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.8); return new; end $$;
    create trigger slow before insert on users for each statement execute function slow()
"""


async def test_a_statement_of_a_restore_may_take_longer_than_one_of_a_call(
    postgres_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault.storage.postgres, "STATEMENT_TIMEOUT", 0.5)
    async with open_room(postgres_store) as room:
        await room.connect()
        async with snapshot(room.store.url, data=room.store.data) as seen:
            await backups.write_backup(tmp_path / "b", seen, ring=room.vault.keys, with_keys=False, now=room.now)
        async with room.database.transaction() as transaction:
            for statement in SLOW.split(";\n"):
                await transaction.execute(statement, {})
        source = key_source(KeySettings(), data=room.store.data)
        backup = await Backup.open(tmp_path / "b", source)
        judged = await backups.restore(backup, room.database, source=source, policies={}, force=True)
        assert len(judged) == 1


@pytest.mark.parametrize("is_keyed", [True, False])
async def test_a_backup_from_before_the_activity_had_a_key_has_it_from_its_restore_on(
    room: Room, tmp_path: Path, *, is_keyed: bool
) -> None:
    await room.connect()
    await room.exchange()
    last = (await head(room.database)).sequence
    if not is_keyed:
        async with room.database.transaction() as transaction:
            await transaction.execute("update event_heads set keyed = null")
            await transaction.execute("update event_batches set tag = null")
    async with snapshot(room.store.url, data=room.store.data) as seen:
        await backups.write_backup(tmp_path / "b", seen, ring=room.vault.keys, with_keys=False, now=room.now)
    source = room.vault.keys.held.source
    opened = await Backup.open(tmp_path / "b", source)
    await backups.restore(opened, room.database, source=source, policies=room.vault.policies, force=True)
    report = await prove(room.database)
    assert (report.first, report.keyed_from, report.unkeyed_count) == (1, 1 if is_keyed else last + 1, 0)
    assert len(await room.events("activity.keyed")) == (0 if is_keyed else 1)

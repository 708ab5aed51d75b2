"""A database file with lost or corrupted last writes: a start finds the newest token in the journal, or refuses."""

from __future__ import annotations

import random
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Store
from tests.support.rooms.vault_room import Room, open_room, vault_over
from vault.audit.audit import Activity
from vault.records import Connection
from vault.refresh import leases
from vault.refresh.journal import Journal
from vault.refresh.journal_recovery import adopt_all
from vault.refresh.refresh_request import open_refresh_token
from vault.refusals import VaultError
from vault.upstream import RotationMode

REFRESHES = 4
WAL_HEADER = 32  # bytes
FRAME = 4096 + 24


async def use_account(room: Room) -> Connection:
    """An account whose refreshes are only in the write-ahead log, not in the database file."""
    connection = await room.connect()
    for name in ("vault.sqlite", "keys.sqlite"):
        with closing(sqlite3.connect(room.store.data / name)) as connecting:
            assert connecting.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0
    for _ in range(REFRESHES):
        room.pass_time(3600)
        assert await room.exchange()
    return connection


async def start_vault(room: Room, data: Path, connection: Connection) -> str | None:
    """The refresh token that a vault with these files would use; None if it doesn't start."""
    store = Store(f"sqlite://{data / 'vault.sqlite'}", data)
    try:
        database = await store.open()
    except VaultError:
        return None
    database.clock_offset = room.database.clock_offset
    activity, journal = Activity(database), Journal(data)
    try:
        vault = vault_over(
            database,
            await store.open_keys(database),
            activity,
            journal=journal,
            rotation=room.slack.rotation,
            slack_double=room.slack,
            google_double=room.google,
        )
        await adopt_all(vault)
        facts = await leases.read(database, connection.id)
        assert facts is not None
        return open_refresh_token(facts.key(vault.keys), facts)
    except VaultError:
        return None
    finally:
        journal.close()
        await activity.close()
        await database.close()


def copy_folder(data: Path, to: Path) -> None:
    """Copied by another process: closing files that SQLite has open here would release its locks."""
    subprocess.run(["cp", "-a", str(data), str(to)], check=True)


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def flip(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def lose_a_frame(content: bytes, chance: random.Random) -> bytes:
    """A page in the middle that the disk never wrote, although it wrote later ones."""
    first = WAL_HEADER + FRAME * chance.randrange((len(content) - WAL_HEADER) // FRAME)
    return content[:first] + bytes(FRAME) + content[first + FRAME :]


@pytest.mark.parametrize("spoil", [cut, flip, lose_a_frame], ids=["cut off", "a bit flipped", "a page not written"])
async def test_a_spoilt_write_ahead_log_brings_back_no_older_token(
    sqlite_store: Store, tmp_path: Path, spoil: object
) -> None:
    chance, starts, went_back = random.Random(7), 0, 0
    async with open_room(sqlite_store, rotation=RotationMode.REVOKES) as room:
        connection = await use_account(room)
        newest = room.slack.families[0].refresh_token
        for number in range(12):
            data = tmp_path / f"{number}"
            copy_folder(sqlite_store.data, data)
            for name in ("vault.sqlite-shm", "keys.sqlite-shm"):
                (data / name).unlink(missing_ok=True)  # as after a power loss
            log = data / "vault.sqlite-wal"
            log.write_bytes(spoil(log.read_bytes(), chance))
            went_back += await generation_of(data, connection) < 1 + REFRESHES
            token = await start_vault(room, data, connection)
            assert token in (newest, None)
            starts += token is not None
    assert starts > 0
    assert went_back > 0  # some refreshes were really missing from the log


async def generation_of(data: Path, connection: Connection) -> int:
    """The generation according to the damaged database alone."""
    copy = data.with_name(data.name + " looked at")
    copy_folder(data, copy)
    database = await Store(f"sqlite://{copy / 'vault.sqlite'}", copy).open()
    try:
        facts = await leases.read(database, connection.id)
        assert facts is not None
        return facts.generation
    finally:
        await database.close()

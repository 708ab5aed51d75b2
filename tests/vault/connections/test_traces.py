"""A disconnected connection and a deleted person leave no data on this host."""

from __future__ import annotations

import base64
import shutil
import sqlite3
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from server.lifecycle.maintenance import scrub
from tests.conftest import KeySettings, Store
from tests.support.rooms.vault_room import GOOGLE_SCOPES, Room, open_room, second_process
from tests.support.seeded_grant import seed
from tests.vault.keys.test_key_rotation import add, promote, upkeep
from tests.vault.refresh.parts.test_journal_places import full_disk
from vault import connections, users
from vault.backup import backups
from vault.backup.backups import Backup
from vault.envelope import Context
from vault.keys.key_ring import ConnectionKey
from vault.keys.sources import key_source
from vault.keys.sources.local import LocalKey
from vault.keys.sources.source import StoredKey
from vault.records import Connection
from vault.refresh import consents
from vault.refresh.consents import Consent
from vault.refusals import GrantEnded, KeyUnavailable
from vault.storage.database import Row, Value, binary
from vault.storage.snapshots import snapshot, tables
from vault.upkeep import receipts, revocations
from vault.upkeep.revocations import BACKOFF
from vault.upstream import RevokeOutcome

HOUR = 3600


@pytest.fixture
async def local(sqlite_store: Store) -> AsyncGenerator[Room]:
    async with open_room(sqlite_store) as opened:
        yield opened


async def delete(room: Room) -> None:
    """Does what `token-vault users remove` does."""
    user_id = room.alice.user.id
    for connection in await connections.list_connections(room.database, user_id):
        await room.disconnect(connection)
        await revocations.revoke_upstream(room.vault, connection.id)
    async with room.database.transaction() as transaction:
        await users.delete_user(transaction, user_id, now=room.now)
    await revocations.finish_deletions(room.vault)


def texts(row: Row) -> set[bytes]:
    """All secrets and sealed values of a row in pieces, because even a part must not remain."""
    values = [value for value in row.values() if isinstance(value, bytes)]
    return {value[start : start + 16] for value in values for start in range(0, len(value) - 15, 16)}


async def secrets_of(room: Room, connection: Connection) -> set[bytes]:
    sql = (
        "select refresh_sealed as a, access_sealed as b from connections where id = :id",
        "select salt as a from keys.connection_keys where connection_id = :id",
        "select sealed as a from narrowed_tokens where connection_id = :id",
        "select sealed as a from upstream_revocations where connection_id = :id",
    )
    found: set[bytes] = set()
    for one in sql:
        for row in await room.database.fetch(one, {"id": connection.id}):
            found |= texts(row)
    for entry in await room.vault.journal.find(connection.id):
        found |= {entry.sealed[start : start + 16] for start in range(0, len(entry.sealed) - 15, 16)}
    return found


def left_in(data: Path, known: set[bytes]) -> dict[str, int]:
    """How many of the pieces are in each file of the data directory, literally or in base64."""
    found: dict[str, int] = {}
    for path in sorted(data.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            # base64 in the journal begins at any of three phases, so 12 bytes of each piece appear there completely
            forms = known | {base64.b64encode(piece[shift:][:12]) for piece in known for shift in range(3)}
            count = sum(1 for piece in forms if piece in content)
            if count:
                found[path.name] = count
    return found


async def use_account(room: Room) -> tuple[Connection, set[bytes]]:
    """An account whose tokens changed several times, and everything of it that was ever sealed."""
    connection = await room.connect()
    known: set[bytes] = set()
    for _ in range(4):
        await room.exchange()
        known |= await secrets_of(room, connection)
        room.pass_time(HOUR)
    return connection, known


async def test_nothing_of_a_disconnected_account_is_left_in_any_file(local: Room) -> None:
    connection, known = await use_account(local)
    assert {"keys.sqlite-wal", "vault.sqlite-wal", "000.journal"} <= left_in(local.store.data, known).keys()
    await local.disconnect(connection)
    known |= await secrets_of(local, connection)
    assert await revocations.revoke_upstream(local.vault, connection.id) == "revoked"
    assert left_in(local.store.data, known) == {}
    assert not local.vault.tasks.has_traces


@pytest.mark.long
async def test_nothing_is_left_among_many_accounts_that_come_and_go(local: Room) -> None:
    """Pages of the files are split and joined: free space in a page may contain a copy of a cell."""
    known: set[bytes] = set()
    for number in range(150):
        connection = await local.connect(account=f"account-{number}")
        if number % 3:
            known |= await secrets_of(local, connection)
            await local.disconnect(connection)
            known |= await secrets_of(local, connection)
    while await revocations.run_due(local.vault):
        pass
    assert left_in(local.store.data, known) == {}


async def test_nothing_of_a_deleted_person_is_left_in_any_file(local: Room) -> None:
    _, known = await use_account(local)
    row = await local.database.fetch_one(
        "select wrapped from keys.user_keys where user_id = :id", {"id": local.alice.user.id}
    )
    assert row is not None
    assert binary(row, "wrapped")
    known |= texts(row)
    await delete(local)
    assert left_in(local.store.data, known) == {}


async def test_a_reader_that_holds_the_files_only_delays_it(local: Room) -> None:
    connection, known = await use_account(local)
    reader = sqlite3.connect(local.store.data / "keys.sqlite", isolation_level=None)
    reader.execute("begin")
    reader.execute("select count(*) from connection_keys").fetchone()
    await local.disconnect(connection)
    assert await revocations.revoke_upstream(local.vault, connection.id) == "revoked"
    assert local.vault.tasks.has_traces
    reader.execute("rollback")
    reader.close()
    await revocations.scrub(local.vault, ())
    assert not local.vault.tasks.has_traces
    assert "keys.sqlite-wal" not in left_in(local.store.data, known)


async def test_a_journal_that_cant_be_written_only_delays_it(
    local: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection, known = await use_account(local)
    await local.disconnect(connection)
    with full_disk(monkeypatch):
        assert await revocations.revoke_upstream(local.vault, connection.id) == "revoked"
    assert local.vault.tasks.has_traces
    assert "000.journal" in left_in(local.store.data, known)
    assert "traces not wiped yet" in caplog.messages
    await revocations.scrub(local.vault, (connection.id,))
    assert not local.vault.tasks.has_traces
    assert left_in(local.store.data, known) == {}


async def test_a_process_that_starts_wipes_what_others_may_have_left(local: Room) -> None:
    assert local.vault.tasks.has_traces, "it can't know"
    reader = sqlite3.connect(local.store.data / "keys.sqlite", isolation_level=None)
    reader.execute("begin")
    reader.execute("select count(*) from connection_keys").fetchone()
    await local.connect()
    assert await scrub(local.vault, since=5) == 5, "not yet: a reader holds the files"
    reader.execute("rollback")
    reader.close()
    assert await scrub(local.vault, since=5) >= local.now - 10
    assert not local.vault.tasks.has_traces


async def refresh_elsewhere(local: Room, other: Room, connection: Connection) -> set[bytes]:
    """The other process renews the account's tokens; returns every secret that it knows."""
    for room in (other, local):
        room.pass_time(HOUR)
    await other.exchange()
    return await secrets_of(other, connection)


async def test_a_journal_of_another_process_is_wiped_by_that_process_or_when_it_has_ended(local: Room) -> None:
    connection, known = await use_account(local)
    async with second_process(local) as other:
        known |= await refresh_elsewhere(local, other, connection)
        await local.disconnect(connection)
        assert await revocations.revoke_upstream(local.vault, connection.id) == "revoked"
        assert left_in(local.store.data, known).keys() == {"001.journal"}
        assert connection.id in await revocations.done_since(other.database, local.now - 60)
        await revocations.scrub(other.vault, (connection.id,))
        assert left_in(local.store.data, known) == {}


async def test_the_journal_of_a_process_that_ended_is_wiped_too(local: Room) -> None:
    connection, known = await use_account(local)
    async with second_process(local) as other:
        known |= await refresh_elsewhere(local, other, connection)
    await local.disconnect(connection)
    assert await revocations.revoke_upstream(local.vault, connection.id) == "revoked"
    assert left_in(local.store.data, known) == {}


# What an attacker makes of an old backup


async def held_rows(room: Room) -> bytes:
    """Every byte that this host keeps in files; on PostgreSQL, also the server's rows."""
    found = b"".join(path.read_bytes() for path in sorted(room.store.data.rglob("*")) if path.is_file())
    if not room.store.is_sqlite:
        for table in tables():
            for row in await room.database.fetch(f"select * from {table}"):
                found += b"".join(one if isinstance(one, bytes) else str(one).encode() for one in row.values())
    return found


async def write_backup(room: Room, name: str, *, with_keys: bool) -> Path:
    path = room.store.data.parent / name
    async with snapshot(room.store.url, data=room.store.data) as seen:
        await backups.write_backup(path, seen, ring=room.vault.keys, with_keys=with_keys, now=room.now)
    return path


class Loot:
    """Everything in one old backup, opened with the master key from that time."""

    def __init__(self, rows: list[tuple[str, dict[str, Value]]], master: LocalKey) -> None:
        self.rows = rows
        self.master = master

    @classmethod
    async def of(cls, path: Path, old_key: Path) -> Loot:
        source = key_source(KeySettings(file=old_key), data=old_key.parent)
        backup = await Backup.open(path, source)
        master = await source.open(StoredKey(backup.header.kek_id))
        assert master is not None
        return cls(list(backup.rows()), master)

    def of_table(self, name: str) -> list[dict[str, Value]]:
        return [row for table, row in self.rows if table == name]

    def tokens(self, wrapped: bytes, salt: bytes) -> set[str]:
        """The plaintext of what the backup contains about the account, given these two values."""
        (row,) = self.of_table("connections")
        user_id, connection_id = str(row["user_id"]), str(row["id"])
        context = Context(purpose="user_key", tenant="default", user_id=user_id).encode()
        key = ConnectionKey(
            self.master.unwrap(wrapped, context), salt=salt, user_id=user_id, connection_id=connection_id
        )
        found: set[str] = set()
        for column, purpose in (("refresh", connections.REFRESH_TOKEN), ("access", connections.ACCESS_TOKEN)):
            sealed = row[f"{column}_sealed"]
            assert isinstance(sealed, bytes)
            generation = row["generation" if column == "refresh" else "access_generation"]
            assert isinstance(generation, int)
            found.add(
                key.open(sealed, purpose=purpose, provider="slack", account=str(row["account"]), generation=generation)
            )
        return found


def pieces_in(content: bytes, secret: bytes) -> bool:
    """Whether the content contains any 16 bytes of the secret, literally or in base64 at any phase."""
    pieces = {secret[start : start + 16] for start in range(0, len(secret) - 15, 16)}
    forms = pieces | {base64.b64encode(piece[shift:][:12]) for piece in pieces for shift in range(3)}
    return any(form in content for form in forms)


@pytest.mark.requirement("V-05")
@pytest.mark.parametrize("end", ["disconnect", "delete"])
async def test_an_old_backup_its_key_and_every_byte_left_give_no_token(room: Room, end: str) -> None:
    """The master key is rotated in between, so that salts and keys were stored under both keys."""
    connection, _ = await use_account(room)
    old_key = room.store.data.parent / "old.key"
    shutil.copy2(room.store.data / "master.key", old_key)
    path = await write_backup(room, "old.backup", with_keys=False)
    whole = await write_backup(room, "whole.backup", with_keys=True)
    read = await room.database.fetch_one(
        "select u.wrapped, c.salt from keys.user_keys u, keys.connection_keys c where c.connection_id = :id",
        {"id": connection.id},
    )
    assert read is not None
    wrapped, salt = binary(read, "wrapped"), binary(read, "salt")
    new = await add(room)
    await promote(room, new)
    await upkeep(room)
    row = await room.database.fetch_one("select wrapped from keys.user_keys")
    assert row is not None
    again = binary(row, "wrapped")
    assert again != wrapped
    assert pieces_in(await held_rows(room), salt)
    loot = await Loot.of(path, old_key)
    tokens = loot.tokens(wrapped, salt)  # somebody who copied the key store in time can open the backup
    assert tokens & {family.refresh_token for family in room.slack.families}
    if end == "disconnect":
        await room.disconnect(connection)
        await revocations.revoke_upstream(room.vault, connection.id)
    else:
        await delete(room)
    left = await held_rows(room)
    assert not pieces_in(left, salt)
    if end == "delete":
        assert not pieces_in(left, wrapped)
        assert not pieces_in(left, again)
    assert not any(pieces_in(left, token.encode()) for token in tokens)
    backup = b"".join(str(row).encode() for _, row in loot.rows)
    assert loot.of_table("keys.connection_keys") == []
    assert repr(salt).encode() not in backup
    # According to SECURITY.md, the master key from that time still opens a backup with keys,
    kept = await Loot.of(whole, old_key)
    (user,), salts = kept.of_table("keys.user_keys"), kept.of_table("keys.connection_keys")
    (mine,) = [one["salt"] for one in salts if one["connection_id"] == connection.id]
    assert isinstance(mine, bytes)
    assert isinstance(user["wrapped"], bytes)
    assert kept.tokens(user["wrapped"], mine) == tokens
    old_key.write_text((room.store.data / "master.key").read_text().splitlines()[1] + "\n")
    with pytest.raises(KeyUnavailable):  # and without that master key, nobody can open it
        await Backup.open(whole, key_source(KeySettings(file=old_key), data=old_key.parent))


# Deleting a person


async def user_keys(room: Room) -> int:
    row = await room.database.fetch_one(
        "select count(*) as n from keys.user_keys where user_id = :id", {"id": room.alice.user.id}
    )
    assert row is not None
    return int(row["n"] or 0)


async def test_a_persons_key_outlives_the_grants_that_their_provider_has_not_ended_yet(room: Room) -> None:
    await room.connect()
    await room.connect(account="work")
    room.slack.revoke_outcomes += [RevokeOutcome.FAILED, RevokeOutcome.REVOKED]
    await delete(room)
    with pytest.raises(GrantEnded):  # from here on, nothing of this person works
        await room.exchange()
    (waiting,) = await users.list_deletions(room.database)
    assert (waiting.user_id, waiting.name, waiting.grants) == (room.alice.user.id, room.alice.user.name, 1)
    assert await user_keys(room) == 1
    room.pass_time(BACKOFF[0] + 1)
    assert await revocations.run_due(room.vault) == 1
    assert [family.is_alive for family in room.slack.families] == [False, False]
    assert await users.list_deletions(room.database) == ()
    assert await user_keys(room) == 0
    assert list(await room.database.fetch("select connection_id from keys.connection_keys")) == []
    assert (await room.events("user.key_destroyed"))[0].user_id == room.alice.user.id


async def test_a_provider_that_never_answers_delays_it_for_days_only(room: Room) -> None:
    await room.connect()
    room.slack.revoke_outcomes += [RevokeOutcome.FAILED] * 20
    await delete(room)
    for wait in (30, 120, 600, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 86400):
        assert await user_keys(room) == 1
        room.pass_time(wait - 1)
        assert await revocations.run_due(room.vault) == 0
        room.pass_time(1)
        assert await revocations.run_due(room.vault) == 1
    assert await user_keys(room) == 0
    assert await users.list_deletions(room.database) == ()


async def test_a_person_without_accounts_is_gone_at_once(room: Room) -> None:
    await delete(room)
    assert await users.list_deletions(room.database) == ()


async def test_the_accounts_of_a_person_who_was_only_deleted_are_disconnected(room: Room) -> None:
    await room.connect()
    async with room.database.transaction() as transaction:
        await users.delete_user(transaction, room.alice.user.id, now=room.now)
    await revocations.run_due(room.vault)
    await revocations.run_due(room.vault)
    assert [family.is_alive for family in room.slack.families] == [False]
    assert await user_keys(room) == 0


async def test_a_person_who_waits_delays_no_other_deleted_person(room: Room) -> None:
    other = await seed(room.database, name="other", client_id="agent-2")
    await room.connect()
    room.slack.revoke_outcomes.append(RevokeOutcome.FAILED)
    await delete(room)
    room.pass_time(10)  # the oldest one comes first
    async with room.database.transaction() as transaction:
        await users.delete_user(transaction, other.user.id, now=room.now)
    await revocations.finish_deletions(room.vault)
    assert [one.user_id for one in await users.list_deletions(room.database)] == [room.alice.user.id]


async def test_a_held_grant_of_a_deleted_person_is_ended_too(room: Room) -> None:
    await room.connect()
    await room.connect()  # a second time, so that the first grant is held
    await delete(room)
    await revocations.run_due(room.vault)
    assert [family.is_alive for family in room.slack.families] == [False, False]
    assert await user_keys(room) == 0


async def test_a_deleted_persons_key_does_not_wait_for_another_persons_connection_of_the_account(room: Room) -> None:
    bob = await seed(room.database, name="bob", client_id="agent-2")
    room.vault.policies["google"] = replace(room.vault.policies["google"], revoke_ends_account=True)
    first = await room.connect("google")
    consent = Consent(bob.user.id, "google", GOOGLE_SCOPES)
    answer = room.google.consent("alice", GOOGLE_SCOPES)
    assert await consents.store(room.vault, consent, answer, at_ms=room.now * 1000)
    await room.disconnect(first)
    assert await revocations.revoke_upstream(room.vault, first.id) == "held"
    await delete(room)
    await revocations.run_due(room.vault)
    assert await user_keys(room) == 0
    receipt = await receipts.get_receipt(room.database, first.id)
    assert receipt is not None
    assert (receipt.result, receipt.reason, receipt.is_final) == ("still_alive", "newer_consent", True)
    assert room.google.revocations == []


async def test_a_name_is_free_again_while_its_deletion_waits(room: Room) -> None:
    await room.connect()
    room.slack.revoke_outcomes.append(RevokeOutcome.FAILED)
    await delete(room)
    async with room.database.transaction() as transaction:
        again = await users.create_user(transaction, room.alice.user.name, now=room.now)
    assert again.id != room.alice.user.id
    assert len(await users.list_deletions(room.database)) == 1

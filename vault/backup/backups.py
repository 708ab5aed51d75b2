"""Back up a running vault, and restore a backup. `FORMATS.md` describes the bytes.

A backup holds the main store: rows as they were at one instant (`vault.storage.snapshots`), sealed
(`vault.keys.sealed_file`) under a separate key that the KEK or a passphrase wraps. The key store is left out unless
requested: destroying a key there deletes the data, in old backups too. A restore verifies the whole file first,
replaces everything in one transaction, and ends with `vault.backup.quarantine`. It also moves a vault from one database
to the other.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import BinaryIO

from vault.audit.audit import head, restart_keyed_head
from vault.backup import quarantine
from vault.classes.immutable import immutable
from vault.envelope import KEY_LENGTH
from vault.keys.held_keys import ROOT, HeldKeys, open_root
from vault.keys.key_ring import KeyRing, event_key, vault_id
from vault.keys.masters import read_master
from vault.keys.sealed_file import BackupRefused, SealedWriter, read_content, read_header
from vault.keys.sources import KeySource
from vault.keys.sources.private_file import sync_folder
from vault.keys.sources.source import StoredKey
from vault.records import Event, Tell, tell_nobody
from vault.refusals import CiphertextRejected, KeyUnavailable
from vault.storage.database import Database, Reader, Row, Transaction, Value, schema_files
from vault.storage.host_files import sync
from vault.storage.snapshots import Snapshot, tables
from vault.upstream import UpstreamPolicy

PoliciesIn = Callable[[Reader], Awaitable[Mapping[str, UpstreamPolicy]]]  # of the providers set up in a database
LOAD_PAGE = 500  # rows per statement

_CONTEXT = b"token-vault backup key\x00"
_KEY_STORE = "keys."
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_BYTES = "$"  # the only member of an object that stands for bytes
_USED = (
    "select id from users limit 1",
    "select id from clients limit 1",
    "select id from connections limit 1",
)


@immutable
class Header:
    """A backup's description of itself, readable without its key."""

    created_at: int
    vault: str  # id of the vault
    schema: int
    with_keys: bool
    kek_id: str
    is_passphrase: bool
    wrapped: bytes
    master: bytes | None = None  # the key of `kek_id`, wrapped by its source, where the source doesn't store it

    def encode(self) -> bytes:
        facts = {
            "created_at": self.created_at,
            "vault": self.vault,
            "schema": self.schema,
            "with_keys": self.with_keys,
            "kek_id": self.kek_id,
            "is_passphrase": self.is_passphrase,
            "wrapped": base64.b64encode(self.wrapped).decode(),
        }
        if self.master is not None:
            facts["master"] = base64.b64encode(self.master).decode()
        return json.dumps(facts, sort_keys=True).encode()

    @classmethod
    def decode(cls, content: bytes) -> Header:
        try:
            facts = json.loads(content)
            return cls(
                created_at=int(facts["created_at"]),
                vault=str(facts["vault"]),
                schema=int(facts["schema"]),
                with_keys=facts["with_keys"] is True,
                kek_id=str(facts["kek_id"]),
                is_passphrase=facts["is_passphrase"] is True,
                wrapped=base64.b64decode(facts["wrapped"], validate=True),
                master=base64.b64decode(facts["master"], validate=True) if "master" in facts else None,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise BackupRefused("the backup is damaged: use another one", detail="header") from error


@immutable
class Summary:
    """What a backup holds."""

    header: Header
    rows: Mapping[str, int]


async def write_backup(
    path: Path,
    seen: Snapshot,
    *,
    ring: KeyRing,
    passphrase: KeySource | None = None,
    with_keys: bool,
    now: int,
    tell: Tell = tell_nobody,
) -> Summary:
    """Write a backup to a new file; it appears whole or not at all. Raises BackupRefused.

    It is sealed under the vault's master key, or under a passphrase.
    """
    if await asyncio.to_thread(path.exists):
        raise BackupRefused(f"{path} already exists: choose another name")
    key = _file_key(ring, path)
    if passphrase is None:
        master, kept = ring.current_master()
    else:
        made = await passphrase.create(())
        master, kept = made.key, made.wrapped
    header = Header(
        created_at=now,
        vault=vault_id(ring),
        schema=len(schema_files()),
        with_keys=with_keys,
        kek_id=master.id,
        is_passphrase=passphrase is not None,
        wrapped=master.wrap(key, _CONTEXT),
        master=kept,
    )
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            rows = await _write(file, seen, key=key, header=header, tell=tell)
            file.flush()
            await asyncio.to_thread(sync, file.fileno())
        _publish(partial, path)
        await asyncio.to_thread(sync_folder, path.parent)
    except FileExistsError as error:
        raise BackupRefused(f"{path} already exists: choose another name") from error
    except OSError as error:
        raise BackupRefused(f"can't write {path}: {error.strerror or error}", detail=str(error)) from error
    finally:
        with suppress(OSError):  # the refusal above names the file
            partial.unlink()
    return Summary(header, rows)


def _file_key(ring: KeyRing, path: Path) -> bytes:
    """A fresh random key; differs for each file even where two copies of a machine image draw the same random bytes."""
    about = f"{path}\x00{os.getpid()}\x00{time.time_ns()}".encode()
    return hmac.digest(secrets.token_bytes(KEY_LENGTH), ring.subkey("backup-file") + about, hashlib.sha256)


def _publish(partial: Path, path: Path) -> None:
    """Give a whole file its name. Raises FileExistsError, also where another file appears at this moment, except on
    file systems without hard links (FAT, some network shares)."""
    try:
        os.link(partial, path)  # unlike a rename, this never replaces a file
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        partial.rename(path)


async def _write(file: BinaryIO, seen: Snapshot, *, key: bytes, header: Header, tell: Tell) -> Mapping[str, int]:
    writer = SealedWriter(file, key=key, header=header.encode())
    counts: dict[str, int] = {}
    for table in tables():
        if table.startswith(_KEY_STORE) and not header.with_keys:
            continue
        counts[table] = 0
        async for page in seen.rows(table):
            counts[table] += len(page)
            tell("Writing rows", sum(counts.values()), None)
            writer.write(b"".join(_line(table, row) for row in page))
    writer.write(json.dumps({"rows": counts}).encode() + b"\n")
    writer.finish()
    return counts


def _line(table: str, row: Row) -> bytes:
    plain = {
        name: {_BYTES: base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        for name, value in row.items()
    }
    return json.dumps([table, plain], separators=(",", ":")).encode() + b"\n"


def _value(value: object) -> Value:
    match value:
        case {"$": str() as encoded}:
            return base64.b64decode(encoded)
        case None | str() | int():
            return value
        case _:
            raise BackupRefused("the backup is damaged: use another one", detail="a value has the wrong type")


# Restoring


@immutable
class Backup:
    """A backup file with its key at hand."""

    path: Path
    header: Header
    key: bytes = field(repr=False)

    @classmethod
    async def open(cls, path: Path, source: KeySource) -> Backup:
        """Read the header and unwrap the file's key. Raises BackupRefused, KeyUnavailable."""
        try:
            with path.open("rb") as file:
                header = Header.decode(read_header(file))
        except OSError as error:
            raise BackupRefused(f"can't read {path}: {error.strerror}", detail=str(error)) from error
        known = schema_files()
        if header.schema > len(known) or header.schema < known[-1].compatible_from:
            raise BackupRefused(  # columns that an older schema lacks have defaults, until a file removes something
                f"the backup has schema version {header.schema}, but this program supports {len(known)}: "
                "restore it with the version that made it, then upgrade"
            )
        how = "pass the passphrase that it was made with" if header.is_passphrase else source.fix
        refusal = KeyUnavailable(f"can't open the backup: {how}", detail=header.kek_id)
        master = await source.open(StoredKey(header.kek_id, header.master or header.wrapped))
        if master is None:
            raise refusal
        try:
            return cls(path, header, master.unwrap(header.wrapped, _CONTEXT))
        except CiphertextRejected as error:
            raise refusal from error

    def rows(self) -> Iterator[tuple[str, dict[str, Value]]]:
        """All rows in table order; the end proves that none is missing. Raises BackupRefused."""
        counts: dict[str, int] = {}
        total: object = None
        known = frozenset(tables())
        for line in self._lines():
            content: object = json.loads(line)
            match content:
                case [str() as table, dict() as row] if table in known:  # pyright: ignore[reportUnknownVariableType] -- JSON
                    counts[table] = counts.get(table, 0) + 1
                    yield table, {str(name): _value(value) for name, value in row.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- JSON
                case {"rows": dict() as total}:  # pyright: ignore[reportUnknownVariableType] -- JSON
                    pass
                case _:
                    raise BackupRefused("the backup is damaged: use another one", detail="a line can't be read")
        if total is None or {name: count for name, count in total.items() if count} != counts:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] -- JSON
            raise BackupRefused("the backup is damaged: use another one", detail="rows are missing")

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            header = read_header(file)
            pending = b""
            for chunk in read_content(file, key=self.key, header=header):
                *whole, pending = (pending + chunk).split(b"\n")
                yield from whole
            if pending:
                raise BackupRefused("the backup is damaged: use another one", detail="the last line is cut off")

    def check(self, tell: Tell = tell_nobody) -> tuple[Sequence[Row], Row | None, int]:
        """Read everything once. Blocking. Raises BackupRefused.

        Returns the master keys and the root of the key store if it is included, and the number of rows.
        """
        masters: list[Row] = []
        root: Row | None = None
        count = 0
        for table, row in self.rows():
            count += 1
            if count % LOAD_PAGE == 0:
                tell("Checking the backup, row", count, None)
            if table == "keys.ring" and row["id"] == ROOT:
                root = row
            if table == "keys.masters":
                masters.append(row)
        return masters, root, count


async def restore(
    backup: Backup,
    database: Database,
    *,
    source: KeySource,
    policies: Mapping[str, UpstreamPolicy] | PoliciesIn,
    force: bool,
    tell: Tell = tell_nobody,
) -> tuple[quarantine.RestoredConnection, ...]:
    """Replace the database's content with the backup, in one transaction, quarantined. A refusal changes nothing.

    An existing key store is kept and never goes back to an older one: what was deleted stays deleted. `policies` are
    the providers' policies, or a function that reads them once the backup's registrations are restored.
    """
    masters, root, total = await asyncio.to_thread(backup.check, tell)
    keeps_keys = await database.fetch_one("select id from keys.ring limit 1") is not None
    if keeps_keys:
        if vault_id(await KeyRing.open(database, source)) != backup.header.vault:
            raise BackupRefused("the key store here belongs to another vault: restore to an empty location")
    elif root is None:
        raise KeyUnavailable(
            "this backup doesn't include the key store, and there is none here: restore the key store "
            "first, or use a backup made with --with-keys"
        )
    else:
        rows = tuple(map(read_master, masters))
        database.event_key = event_key(await open_root(HeldKeys(source), root, rows, now=database.now()))
    if not force:
        for statement in _USED:
            if await database.fetch_one(statement) is not None:
                raise BackupRefused("a vault already exists here: use --force to replace its content")
    async with database.transaction(patient=True, alone=True) as transaction:
        await _load(transaction, backup, keeps_keys=keeps_keys, tell=lambda done: tell("Loading rows", done, total))
        now = database.now()
        known = (await head(transaction)).sequence
        await _key_head(transaction, database.event_key, now=now)
        current = await policies(transaction) if callable(policies) else policies
        judged = await quarantine.quarantine(transaction, current, now=now, tell=tell)
        await quarantine.record(transaction, judged, _event(backup, keeps_keys=keeps_keys), now=now, known=known)
    return judged


async def _key_head(transaction: Transaction, key: bytes | None, *, now: int) -> None:
    """For a backup from before the activity had a key: key the activity from here on, whatever this key store records
    for later events."""
    keyless = await transaction.fetch_one("select tenant from event_heads where keyed is null")
    if key is not None and keyless is not None:
        await transaction.execute("delete from keys.event_starts")
        await restart_keyed_head(transaction, key, now=now)


async def _load(transaction: Transaction, backup: Backup, *, keeps_keys: bool, tell: Callable[[int], None]) -> None:
    for table in tables():
        if not table.startswith(_KEY_STORE):
            await transaction.execute(f"delete from {table}")  # noqa: S608 -- a name of our own schema
    page: list[dict[str, Value]] = []
    current = ""
    for count, (table, row) in enumerate(backup.rows()):
        if page and (table != current or len(page) == LOAD_PAGE):
            await _insert(transaction, current, page)
            tell(count)
            page = []
        current = table
        if not (keeps_keys and table.startswith(_KEY_STORE)):
            page.append(row)
    if page:
        await _insert(transaction, current, page)


async def _insert(transaction: Transaction, table: str, page: list[dict[str, Value]]) -> None:
    names = list(page[0])
    if not all(name.isidentifier() for name in names):
        raise BackupRefused("the backup is damaged: use another one", detail="a column has the wrong name or type")
    values = ", ".join(f":{name}" for name in names)
    await transaction.execute_many(f"insert into {table} ({', '.join(names)}) values ({values})", page)  # noqa: S608 -- checked names


def _event(backup: Backup, *, keeps_keys: bool) -> Event:
    how = "kept" if keeps_keys else "restored"
    return Event("vault.restored", details={"backup_made_at": backup.header.created_at, "key_store": how})

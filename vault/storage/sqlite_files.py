"""The two SQLite files of a vault: where they are, who may read them, and their schema.

Blocking code, run once before the driver in `sqlite.py` connects. Several processes of one data directory may start at
once; each file is upgraded in its own transaction, so no process ever holds two locks here.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from contextlib import closing, suppress
from pathlib import Path

from vault.classes.immutable import immutable
from vault.refusals import StorageUnavailable
from vault.storage import schema_shape
from vault.storage.database import SchemaFile, check_version, schema_files

BUSY_WAIT = 5.0  # seconds to wait for another process
TRANSIENT = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


@immutable
class SqliteFiles:
    """The two files of one vault."""

    vault: Path
    keys: Path

    @classmethod
    def beside(cls, vault: Path) -> SqliteFiles:
        """The key store's path: next to its database and named after it."""
        name = "keys.sqlite" if vault.name == "vault.sqlite" else f"{vault.stem}-keys.sqlite"
        return cls(vault, vault.with_name(name))


def prepare(stores: SqliteFiles) -> schema_shape.Shape:
    """Create or upgrade the files, blocking; returns their content. Any number of processes may do it at once."""
    shape: schema_shape.Shape = frozenset()
    try:
        if stores.vault.exists() and stores.vault.stat().st_size and not stores.keys.exists():
            raise StorageUnavailable(f"{stores.keys} is missing beside {stores.vault.name}: restore it")
        stores.vault.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Keys first, so that a vault file never exists without its key store.
        for path, is_keys in ((stores.keys, True), (stores.vault, False)):
            _own(path)
            target = ":memory:" if is_keys else path
            with closing(sqlite3.connect(target, isolation_level=None, timeout=BUSY_WAIT)) as connection:
                connection.execute("pragma fullfsync = on")  # see the driver
                # One store at a time: an upgrade never holds two locks, so it cannot deadlock with a writer.
                if is_keys:
                    connection.execute("attach database ? as keys", (str(path),))
                shape |= _upgrade(connection, prefix="keys." if is_keys else "")
    except OSError as error:
        raise StorageUnavailable(f"can't use {stores.vault}: {error.strerror}", detail=str(error)) from error
    except sqlite3.Error as error:
        # For a folder without write permission, SQLite only reports that it can't open the file.
        why = "" if os.access(stores.vault.parent, os.W_OK) else "; its folder is read-only for this user"
        raise StorageUnavailable(f"can't open {stores.vault}: {error}{why}", detail=str(error)) from error
    return shape


def _own(path: Path) -> None:
    """Make the file 0600, whatever the umask; SQLite gives its -wal and -shm files the same mode.

    Does not open an existing file: closing any descriptor of it would drop the locks that SQLite holds in this process
    (POSIX), and the next process to close the file would then delete the write-ahead log under us.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(FileExistsError):  # another process was first
            os.close(os.open(path, flags, 0o600))
        return
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if status.st_mode & 0o077:
        path.chmod(0o600)


def _upgrade(connection: sqlite3.Connection, *, prefix: str) -> schema_shape.Shape:
    """Upgrade one store; returns its content."""
    _use_wal(connection, prefix)
    applied, found = _examine(connection, prefix)
    if applied < len(schema_files()):
        connection.execute("begin immediate")  # closing the connection ends it when something fails
        applied, _ = _examine(connection, prefix)  # another process may have been first
        _apply(connection, prefix, applied=applied)
        connection.execute("commit")
        _, found = _examine(connection, prefix)
    wanted = schema_shape.expected_shape(len(schema_files()), keys=bool(prefix))
    building, dropping = schema_shape.missing_indexes(found, wanted), schema_shape.dropped_indexes(found)
    for statement in (*building, *(f"drop index if exists {name}" for name in dropping)):
        connection.execute(statement)  # separately: others write in between
    if building or dropping:
        _, found = _examine(connection, prefix)
    return found  # a start that stops here has written nothing


def _examine(connection: sqlite3.Connection, prefix: str) -> tuple[int, schema_shape.Shape]:
    """The last applied file and the store's content. Raises StorageUnavailable when they contradict each other."""
    applied, compatible_from = _versions(connection, prefix)
    check_version(compatible_from)
    found = schema_shape.sqlite_shape(connection, store="keys" if prefix else "main", prefix=prefix)
    schema_shape.check_shape(found, schema_shape.expected_shape(min(applied, len(schema_files())), keys=bool(prefix)))
    return applied, found


def _apply(connection: sqlite3.Connection, prefix: str, *, applied: int) -> None:
    for statement in schema_shape.BOOKKEEPING:
        connection.execute(statement.format(prefix=prefix))
    now = int(time.time())
    for file, statements in schema_shape.pending_files(applied, lambda file: _statements(file, prefix)):
        for statement in statements:
            connection.execute(statement)
        connection.execute(
            f"insert into {prefix}schema_migrations (number, compatible_from, applied_at) values (?, ?, ?)",  # noqa: S608 -- as below
            (file.number, file.compatible_from, now),
        )
        connection.execute(
            f"insert into {prefix}schema_versions (number, applied_at) values (?, ?) on conflict do nothing",  # noqa: S608 -- as below
            (file.compatible_from, now),
        )


def _statements(file: SchemaFile, prefix: str) -> tuple[str, ...]:
    return file.keys if prefix else file.vault


def _use_wal(connection: sqlite3.Connection, prefix: str) -> None:
    """Switch to WAL. SQLite's own busy wait doesn't apply when two processes switch at once."""
    deadline = time.monotonic() + BUSY_WAIT
    while True:
        try:
            connection.execute(f"pragma {prefix}journal_mode = wal")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in TRANSIENT or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _versions(connection: sqlite3.Connection, prefix: str) -> tuple[int, int]:
    """The last applied file, and the schema that a program must know. Release 0.1.0 recorded both as one."""

    def highest(table: str) -> int:
        there = connection.execute(
            f"select 1 from {prefix}sqlite_master where type = 'table' and name = ?",  # noqa: S608 -- prefix is one of two constants
            (table,),
        ).fetchone()
        if there is None:
            return 0
        row = connection.execute(f"select max(number) from {prefix}{table}").fetchone()  # noqa: S608 -- constants
        return int(row[0] or 0)

    compatible_from = highest("schema_versions")
    return highest("schema_migrations") or compatible_from, compatible_from

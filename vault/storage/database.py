"""The database interface of the vault: readers, transactions, typed columns, and opening one.

One SQL text with `:name` parameters serves SQLite and PostgreSQL; the drivers are `sqlite.py` and `postgres.py`. Two
rules for writing SQL: PostgreSQL must be able to infer a parameter's type, so write `cast(:reason as text) is null`,
never a bare `:reason is null`; and after any refused statement (`Conflict` too) the transaction can only end, so let
the refusal leave the block. `FORMATS.md` describes the tables.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import SplitResult, unquote

from vault.classes.immutable import immutable
from vault.refusals import StorageUnavailable, VaultError
from vault.storage.event_chain import Batch

Value = str | int | bytes | None
Row = Mapping[str, Value]
T = TypeVar("T")


@immutable
class Statement:
    """One statement of a program."""

    sql: str
    parameters: Mapping[str, Value]


# Yields statements, receives their rows, and returns a result. It must do nothing else: SQLite runs it in its own
# thread.
Program = Generator[Statement, Sequence[Row], T]

NO_PARAMETERS: Mapping[str, Value] = {}
SWEEP_BATCH = 200  # rows that a sweep deletes per transaction, so that others can write in between, even on a cold disk

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_COMPATIBLE_FROM = re.compile(r"^-- compatible-from: (\d+)$", re.MULTILINE)
_KEY_STORE = re.compile(r"\bkeys\.")


class Conflict(VaultError):
    """A unique key is taken: another process was first, or the name is in use. The transaction can only end."""

    code = "conflict"


class Reader(Protocol):
    """Reads committed rows."""

    async def fetch(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        """All rows."""
        ...

    async def fetch_one(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Row | None:
        """The first row, or None."""
        ...

    async def look_up(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        """All rows of a statement that finds a few rows by key; on SQLite without a thread switch."""
        ...


class Transaction(Reader, Protocol):
    """Reads and writes as one unit. Await nothing but the database while one is open."""

    async def execute(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> int:
        """Run one statement; returns the number of rows it changed."""
        ...

    async def execute_many(self, sql: str, parameters: Sequence[Mapping[str, Value]]) -> None:
        """Run one statement once for each set of parameters."""
        ...

    async def perform(self, program: Program[T]) -> T:
        """Run a program of statements; on SQLite in one go."""
        ...

    async def append_events(self, batch: Batch) -> None:
        """Append to the activity at the commit or before, so that the head is locked as briefly as possible.

        A refusal surfaces on leaving the block. Call this through `vault.audit.audit.append`.
        """
        ...


class Database(Reader, Protocol):
    """An open database. `clock_offset` shifts time for tests; the product never sets it.

    `event_key` (32 bytes) keys the activity's head; the key ring sets it when it opens.
    """

    @property
    def clock_offset(self) -> int:
        """Seconds added to the time."""
        ...

    @clock_offset.setter
    def clock_offset(self, seconds: int) -> None: ...

    @property
    def event_key(self) -> bytes | None:
        """See above."""
        ...

    @event_key.setter
    def event_key(self, key: bytes | None) -> None: ...

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the schema found at opening; see `schema_shape`."""
        ...

    @fingerprint.setter
    def fingerprint(self, value: str) -> None: ...

    @property
    def server_changes(self) -> int:
        """How often the address led to a different server: after a failover, its data may be older."""
        ...

    @property
    def is_pooled(self) -> bool:
        """Whether a connection pooler is between us and the database."""
        ...

    def now(self) -> int:
        """The database's time in integer seconds; costs no query."""
        ...

    def mark(self) -> object | None:
        """Equal to an earlier mark only if nothing was committed in between, by anyone; None: not available at once.

        Everything read after taking it is at least as new.
        """
        ...

    def transaction(self, *, patient: bool = False, alone: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """Commits durably on leaving the block, rolls back on an exception.

        `patient`: for bulk work that no caller waits for; its statements may take minutes. `alone`: no one else uses
        the vault, so this process may also be silent for minutes between two statements; otherwise PostgreSQL soon ends
        a transaction of a process that stopped.
        """
        ...

    async def perform(self, program: Program[T], *, events: Batch | None = None) -> T:
        """Run a program as a separate transaction, which also appends the events unless the result is false.

        On SQLite this is the cheapest way to write: one trip to its thread. Callers get the batch from
        `vault.audit.audit.batch_of`.
        """
        ...

    async def append_events(self, batch: Batch) -> None:
        """Append to the activity as a separate transaction, in one trip. Called by `vault.audit.audit.Activity`."""
        ...

    async def hold_liveness(self, owner: str) -> None:
        """Show that this process uses the name `owner`, by a lock that ends with the process. Cheap when already
        held."""
        ...

    async def is_dead(self, owner: str, *, certainly: bool = False) -> bool:
        """Whether the process with this name has ended; a paused process hasn't.

        `certainly`: according to this host's kernel. Without it, another host's broken connection may look like an end,
        so don't take over a live lease because of it.
        """
        ...

    async def wipe(self) -> bool:
        """Remove deleted data from our files: True when done, False while a reader prevents it.

        On a server, nothing is known about its files.
        """
        ...

    async def count_others(self) -> int:
        """Number of sessions that other processes of the vault have at the server now; 0 on SQLite.

        Call it before opening further sessions of ours, which would count too.
        """
        ...

    async def close(self) -> None:
        """Finish running work and close every connection."""
        ...


@immutable
class SchemaFile:
    """One numbered schema file, its statements split by store.

    `compatible_from`: programs that know the schema up to this number can use the database after it.
    """

    number: int
    vault: tuple[str, ...]
    keys: tuple[str, ...]
    compatible_from: int


@cache
def schema_files() -> tuple[SchemaFile, ...]:
    """The packaged schema in the order in which it applies."""
    found: list[SchemaFile] = []
    for entry in sorted(files("vault").joinpath("schema").iterdir(), key=lambda entry: entry.name):
        match = _FILE_NAME.fullmatch(entry.name)
        if match is None:
            continue
        written = entry.read_text(encoding="utf-8")
        breaking = _COMPATIBLE_FROM.search(written)  # absent: it only expands
        lines = (line.partition("--")[0] for line in written.splitlines())
        statements = [part.strip() for part in "\n".join(lines).split(";") if part.strip()]
        found.append(
            SchemaFile(
                number=int(match[1]),
                vault=tuple(part for part in statements if not _KEY_STORE.search(part)),
                keys=tuple(part for part in statements if _KEY_STORE.search(part)),
                compatible_from=int(breaking[1]) if breaking else (found[-1].compatible_from if found else 1),
            )
        )
    if [file.number for file in found] != list(range(1, len(found) + 1)):
        raise StorageUnavailable("the installed package lacks schema files: reinstall it")
    return tuple(found)


def check_version(compatible_from: int) -> None:
    """Refuse a database that only newer programs can use; one that was merely expanded is fine."""
    known = len(schema_files())
    if compatible_from > known:
        raise StorageUnavailable(
            f"the database needs a program that supports schema version {compatible_from}; this one "
            f"supports {known}. Start the newer Token Vault that wrote it, or restore a backup from "
            "before the upgrade"
        )


def split_url(url: str) -> SplitResult:
    """The parts of a `database.url` (RFC 3986 §3). Several hosts stay together in `netloc`.

    `urllib.parse.urlsplit` takes no IPv6 address behind another host.
    """
    rest, _, fragment = url.partition("#")
    rest, _, query = rest.partition("?")
    scheme, colon, place = rest.partition(":")
    if not colon:
        scheme, place = "", rest
    if not place.startswith("//"):
        return SplitResult(scheme.lower(), "", place, query, fragment)
    netloc, slash, path = place[2:].partition("/")
    return SplitResult(scheme.lower(), netloc, slash + path, query, fragment)


def sqlite_path(url: str, *, data: Path) -> Path | None:
    """The file of a `sqlite:` database; None for other databases. Raises StorageUnavailable."""
    parts = split_url(url)
    if parts.scheme != "sqlite":
        return None
    if parts.netloc or parts.query or parts.fragment:
        raise StorageUnavailable("database.url: use sqlite:///path/to/file, or sqlite: for the data directory")
    return Path(unquote("/" + parts.path.lstrip("/"))) if parts.path else data / "vault.sqlite"


def page_names(name: str, size: int) -> str:
    """The names in `in (...)` of a statement that takes a page of `size` values, one per value."""
    return ", ".join(f":{name}_{number}" for number in range(size))


def page_values(name: str, values: Sequence[Value], size: int) -> Mapping[str, Value]:
    """The parameters of a page of 1 to `size` values; a short page repeats its last."""
    last = len(values) - 1
    return {f"{name}_{number}": values[min(number, last)] for number in range(size)}


def text(row: Row, name: str) -> str:
    """A `text not null` column."""
    value = row[name]
    if isinstance(value, str):
        return value
    raise _type_error(name, value)


def integer(row: Row, name: str) -> int:
    """A `bigint not null` column."""
    value = row[name]
    if isinstance(value, int):
        return value
    raise _type_error(name, value)


async def fetch_count(reader: Reader, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> int:
    """The only row of `select count(*) as n`: such a statement always returns one."""
    (row,) = await reader.fetch(sql, parameters)
    return integer(row, "n")


def binary(row: Row, name: str) -> bytes:
    """A `bytea not null` column."""
    value = row[name]
    if isinstance(value, bytes):
        return value
    raise _type_error(name, value)


def text_or_none(row: Row, name: str) -> str | None:
    """A nullable `text` column."""
    return None if row[name] is None else text(row, name)


def integer_or_none(row: Row, name: str) -> int | None:
    """A nullable `bigint` column."""
    return None if row[name] is None else integer(row, name)


def binary_or_none(row: Row, name: str) -> bytes | None:
    """A nullable `bytea` column."""
    return None if row[name] is None else binary(row, name)


def _type_error(name: str, value: Value) -> StorageUnavailable:
    return StorageUnavailable("the database holds an unexpected value", detail=f"{name} is a {type(value).__name__}")

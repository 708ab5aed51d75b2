"""The shape of a schema: its tables, columns, keys and indexes as lines of text, equal on both databases.

The expected shape comes from applying the numbered files to an empty in-memory SQLite database, the actual one from the
database's catalog. A database may hold more (a newer program's expansions, an operator's index), never less.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache

from vault.refusals import StorageUnavailable
from vault.storage.database import SchemaFile, schema_files

Shape = frozenset[str]

# `schema_versions` holds what a program must know to use the database. It is the only table that release 0.1.0 reads,
# so that release keeps running, and starts, alongside a newer program as long as nothing was removed.
_BOOK = "create table if not exists {{prefix}}{name} (number bigint not null primary key, {rest})"
BOOKKEEPING = (
    _BOOK.format(name="schema_versions", rest="applied_at bigint not null"),
    _BOOK.format(name="schema_migrations", rest="compatible_from bigint not null, applied_at bigint not null"),
)

_INDEX = re.compile(r"create (?:unique )?index (?P<name>[a-z_]+)\s+on (?P<table>[a-z_.]+)")
_DROPPED = re.compile(r"drop index (?P<name>[a-z_]+)")
_NAMED = 6  # missing parts that an error lists
_BOOKS = ("schema_versions", "schema_migrations")  # created by the drivers, in no file

_SQLITE_COLUMNS = """
    select m.name as named, c.name, c.type, c."notnull", c.dflt_value is not null, c.pk
    from {store}.sqlite_master m join pragma_table_info(m.name, '{store}') c
    where m.type = 'table' and m.name not like 'sqlite_%'
    order by m.name, c.pk
"""
_SQLITE_INDEXES = """
    select m.name as named, i.name, i."unique", i.partial, c.name
    from {store}.sqlite_master m
    join pragma_index_list(m.name, '{store}') i
    join pragma_index_info(i.name, '{store}') c
    where m.type = 'table' and i.origin = 'c'
    order by m.name, i.name, c.seqno
"""


def column_line(table: str, name: str, kind: str, *, is_required: bool, has_default: bool) -> str:
    """One column."""
    return f"column {table}.{name} {kind}{' not null' if is_required else ''}{' default' if has_default else ''}"


def key_line(table: str, columns: Iterable[str]) -> str:
    """A primary key."""
    return f"primary key {table} ({', '.join(columns)})"


def index_line(table: str, name: str, columns: Iterable[str], *, is_unique: bool, is_partial: bool) -> str:
    """An index; of a condition, the line records only that there is one."""
    unique, some = "unique " if is_unique else "", " where" if is_partial else ""
    return f"{unique}index {name} on {table} ({', '.join(columns)}){some}"


def sqlite_shape(connection: sqlite3.Connection, *, store: str, prefix: str) -> Shape:
    """The content of one attached file; `prefix` is put before its tables' names."""
    lines: set[str] = set()
    keys: dict[str, list[str]] = {}
    for table, name, kind, required, default, place in connection.execute(_SQLITE_COLUMNS.format(store=store)):
        lines.add(f"table {prefix}{table}")
        lines.add(
            column_line(prefix + table, name, kind.lower(), is_required=bool(required), has_default=bool(default))
        )
        if place:
            keys.setdefault(prefix + table, []).append(name)
    indexes: dict[tuple[str, str, int, int], list[str]] = {}
    for table, name, unique, partial, column in connection.execute(_SQLITE_INDEXES.format(store=store)):
        indexes.setdefault((prefix + table, name, unique, partial), []).append(column)
    lines |= {key_line(table, columns) for table, columns in keys.items()}
    return frozenset(
        lines
        | {
            index_line(table, name, columns, is_unique=bool(unique), is_partial=bool(partial))
            for (table, name, unique, partial), columns in indexes.items()
        }
    )


@cache
def expected_shape(number: int, *, keys: bool) -> Shape:
    """What the first `number` files create in the main store, or in the key store."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("attach database ':memory:' as keys")
        for file in schema_files()[:number]:
            for statement in (*file.vault, *file.keys):
                connection.execute(statement)
        return sqlite_shape(connection, store="keys" if keys else "main", prefix="keys." if keys else "")


def fingerprint(shape: Shape) -> str:
    """16 hex digits for people to compare; equal for equal schemas on both databases."""
    own = [line for line in shape if not any(book in line for book in _BOOKS)]
    return hashlib.sha256("\n".join(sorted(own)).encode()).hexdigest()[:16]


def check_shape(found: Shape, wanted: Shape) -> None:
    """Refuse a database that lacks tables, columns or keys of its version; missing indexes are created again.

    Raises StorageUnavailable.
    """
    missing = sorted(line for line in wanted - found if not _is_index(line))
    if not missing:
        return
    tables = [line for line in missing if line.startswith("table ")]
    gone = {line.removeprefix("table ") for line in tables}
    rest = [line for line in missing if line not in tables and not _is_of(line, gone)]
    named = [*tables, *rest]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    raise StorageUnavailable(
        f"the database lacks parts of its schema: {', '.join(named[:_NAMED])}{more}. A build before the "
        "first release made it, or it was changed by hand. Back it up with the program that made it "
        "and restore the backup into an empty database with this one, or restore an earlier backup",
        detail=f"{len(missing)} lines of the schema are missing",
    )


def missing_indexes(found: Shape, wanted: Shape) -> tuple[str, ...]:
    """Statements for missing indexes."""
    names = [line.partition("index ")[2].partition(" ")[0] for line in sorted(wanted - found) if _is_index(line)]
    return tuple(_index_statements()[name].replace("index ", "index if not exists ", 1) for name in names)


def pending_files(
    applied: int, statements: Callable[[SchemaFile], Sequence[str]]
) -> tuple[tuple[SchemaFile, tuple[str, ...]], ...]:
    """The files after `applied`, each with its statements for the transaction.

    An index on an existing table is left to `missing_indexes`: building it may take long, and blocking other processes
    meanwhile would fail their calls. A dropped index is left to `dropped_indexes`, which runs afterward.
    """
    known = {line.removeprefix("table ") for line in expected_shape(applied, keys=False) if line.startswith("table ")}
    return tuple(
        (file, tuple(one for one in statements(file) if _index_table(one) not in known))
        for file in schema_files()[applied:]
    )


def dropped_indexes(found: Shape) -> tuple[str, ...]:
    """Names of indexes that a file drops and that still exist, or exist again. Drop them once no index is missing,
    because others may use them until then. No program needs to know: an older program that starts later just builds its
    own again.
    """
    names = {line.partition("index ")[2].partition(" ")[0] for line in found if _is_index(line)}
    return tuple(sorted(names & _dropped_names()))


def _index_table(statement: str) -> str | None:
    """The table of the index that a statement builds or drops."""
    if match := _DROPPED.match(statement):
        statement = _index_statements()[match["name"]]
    match = _INDEX.match(statement)
    return None if match is None else match["table"]


def index_name(statement: str) -> str:
    """The name in a statement of `missing_indexes`."""
    return statement.partition(" if not exists ")[2].split()[0]


@cache
def _index_statements() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for file in schema_files():
        for statement in (*file.vault, *file.keys):
            if match := _INDEX.match(statement):
                found[match["name"]] = statement
    return found


@cache
def _dropped_names() -> frozenset[str]:
    matches = (_DROPPED.match(one) for file in schema_files() for one in (*file.vault, *file.keys))
    return frozenset(match["name"] for match in matches if match)


def _is_index(line: str) -> bool:
    return line.startswith(("index ", "unique index "))


def _is_of(line: str, tables: set[str]) -> bool:
    """Whether a line of a column or primary key belongs to one of the tables."""
    if line.startswith("column "):
        return line.split(" ")[1].rpartition(".")[0] in tables
    return line.split(" ")[2] in tables

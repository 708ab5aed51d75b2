"""Programs for SQLite, which run at once in the writer's thread, and the events that they append to the activity."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import groupby
from typing import Any, Final, Generic

from vault.classes.immutable import immutable
from vault.records import TENANT
from vault.refusals import VaultError
from vault.storage.database import Row, Statement, T, Value, binary, binary_or_none, integer
from vault.storage.event_chain import START, Batch, digest, fold, mac_and_tag, tail

_ROWS: Final = 16  # most events per statement
_INSERT: Final = (
    "insert into events (tenant, sequence, at, kind, outcome, user_id, client_id, connection_id, details) values"
)
# the last two: text or a number that no column can hold, rejected before the statement runs
ERRORS = (sqlite3.Error, UnicodeEncodeError, OverflowError)


@immutable
class InsertedRows:
    """A statement with parameters without names: several rows of values, one after another."""

    sql: str
    parameters: Sequence[Value]


SqliteProgram = Generator[Statement | InsertedRows, Sequence[Row], T]  # a program for this driver only


def append_program(batch: Batch, *, key: bytes | None) -> SqliteProgram[None]:
    """Append a batch; the writer holds the whole file, so nothing comes between the statements."""
    tenant: Mapping[str, Value] = {"tenant": TENANT}
    heads = yield Statement("select height, sequence, hash, keyed from event_heads where tenant = :tenant", tenant)
    if not heads:  # the first event of all
        heads = yield Statement(
            "insert into event_heads (tenant, height, sequence, hash) values (:tenant, 0, 0, :start) "
            "returning height, sequence, hash, keyed",
            {**tenant, "start": START},
        )
    (head,) = heads
    height, before = integer(head, "height") + 1, integer(head, "sequence")
    previous, keyed = binary(head, "hash"), binary_or_none(head, "keyed")
    tails = [tail(entry, at=batch.at) for entry in batch.entries]
    for start in range(0, len(batch.entries), _ROWS):
        some = batch.entries[start : start + _ROWS]
        values: list[Value] = []
        for sequence, one in enumerate(some, start=before + start + 1):
            values += (TENANT, sequence, batch.at, one.kind, one.outcome)
            values += (one.user_id, one.client_id, one.connection_id, one.details)
        yield InsertedRows(_insertion(len(some)), values)
    tagged: bytes | None = None
    if keyed is not None and key is not None:
        mac, tagged = mac_and_tag(key, tails=tails)
        keyed = fold(keyed, previous=previous, mac=mac)
    end: Mapping[str, Value] = {
        "tenant": TENANT,
        "height": height,
        "first": before + 1,
        "last": before + len(batch.entries),
        "previous": previous,
        "hash": digest(previous, height=height, sequence=before, at=batch.at, tails=tails),
        "at": batch.at,
        "tag": tagged,
        "keyed": keyed,
    }
    yield Statement(
        "insert into event_batches (tenant, height, first_sequence, last_sequence, previous_hash, hash, at, tag) "
        "values (:tenant, :height, :first, :last, :previous, :hash, :at, :tag)",
        end,
    )
    yield Statement(
        "update event_heads set height = :height, sequence = :last, hash = :hash, keyed = :keyed "
        "where tenant = :tenant",
        end,
    )


@cache
def _insertion(rows: int) -> str:
    """Several rows in one statement: the interpreter's lock changes hands with each one that runs."""
    row = f"({', '.join('?' * 9)})"
    return f"{_INSERT} {', '.join([row] * rows)}"


def rows_of(found: Sequence[sqlite3.Row]) -> list[Row]:
    """The rows of one statement as mappings."""
    if not found:
        return []
    names = found[0].keys()
    return [dict(zip(names, row, strict=True)) for row in found]


def run(connection: sqlite3.Connection, program: SqliteProgram[T]) -> T:
    """Run a program; in the connection's thread."""
    try:
        statement = next(program)
        while True:
            statement = program.send(rows_of(connection.execute(statement.sql, statement.parameters).fetchall()))
    except StopIteration as end:
        return end.value


class Work(Generic[T]):
    """A program, or None, and the events that are appended with it unless its result is false."""

    __slots__ = ("events", "key", "program", "result")
    result: T

    def __init__(self, program: SqliteProgram[T] | None, events: Batch | None, *, key: bytes | None) -> None:
        self.program = program
        self.events = events
        self.key = key

    def run(self, connection: sqlite3.Connection) -> None:
        """Run the program; in the connection's thread."""
        if self.program is not None:
            self.result = run(connection, self.program)
            if not self.result:
                self.events = None


def commit(connection: sqlite3.Connection, works: Sequence[Work[Any]]) -> Sequence[Exception | None]:
    """Do works with one commit, in the connection's thread; returns the error of each that failed.

    A program that fails leaves nothing, and takes no other with it. The events of the others are appended together.
    Raises only what BEGIN raises, before any has begun.
    """
    connection.execute("begin immediate")
    try:
        outcomes = [_attempt(connection, work, is_alone=len(works) == 1) for work in works]
        kept = [work for work, outcome in zip(works, outcomes, strict=True) if outcome is None]
        for batch, key in _join_events(kept):
            run(connection, append_program(batch, key=key))
        connection.execute("commit" if kept else "rollback")
    except BaseException as error:
        with suppress(sqlite3.Error):  # there may be no transaction
            connection.execute("rollback")
        if not isinstance(error, (*ERRORS, VaultError)):
            raise
        return [error] * len(works)
    return outcomes


def _join_events(works: Sequence[Work[Any]]) -> Iterator[tuple[Batch, bytes | None]]:
    """The events of works, those of the same second in one batch."""
    recorded = [(work.events, work.key) for work in works if work.events is not None]
    if len(recorded) <= 1:
        yield from recorded
        return
    for (at, key), some in groupby(recorded, key=lambda one: (one[0].at, one[1])):
        yield Batch(at, [entry for batch, _ in some for entry in batch.entries]), key


def _attempt(connection: sqlite3.Connection, work: Work[Any], *, is_alone: bool) -> Exception | None:
    if not is_alone:
        connection.execute("savepoint turn")  # nested: commit releases them all
    try:
        work.run(connection)
    except (*ERRORS, VaultError) as error:
        if not connection.in_transaction:  # SQLite itself rolled it back, with what other programs did: a full disk
            raise
        if not is_alone:
            connection.execute("rollback to turn")
        return error
    return None

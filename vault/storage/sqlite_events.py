"""Append to the activity's chain on SQLite: a program that runs at once in the writer's thread."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import cache
from typing import Final

from vault.classes.immutable import immutable
from vault.records import TENANT
from vault.storage.database import Row, Statement, T, Value, binary, binary_or_none, integer
from vault.storage.event_chain import START, Batch, digest, fold, mac_and_tag, tail

_ROWS: Final = 16  # most events per statement
_INSERT: Final = (
    "insert into events (tenant, sequence, at, kind, outcome, user_id, client_id, connection_id, details) values"
)


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

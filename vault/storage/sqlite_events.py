"""Append to the activity's chain on SQLite: a program that runs at once in the writer's thread."""

from __future__ import annotations

from collections.abc import Mapping

from vault.records import TENANT
from vault.storage.database import Program, Statement, Value, binary, binary_or_none, integer
from vault.storage.event_chain import START, Batch, digest, fold, mac, tag, tail

_ADVANCE = (
    "update event_heads set height = height + 1, sequence = sequence + :count where tenant = :tenant "
    "returning height, sequence, hash, keyed"
)


def append_program(batch: Batch, *, key: bytes | None) -> Program[None]:
    """Append a batch; the writer holds the whole file, so nothing comes between the statements."""
    advance = Statement(_ADVANCE, ({"count": len(batch.entries), "tenant": TENANT},))
    heads = yield advance
    if not heads:  # the first event of all
        yield Statement(
            "insert into event_heads (tenant, height, sequence, hash) values (:tenant, 0, 0, :start)",
            ({"tenant": TENANT, "start": START},),
        )
        heads = yield advance
    height, last = integer(heads[0], "height"), integer(heads[0], "sequence")
    previous, keyed = binary(heads[0], "hash"), binary_or_none(heads[0], "keyed")
    before = last - len(batch.entries)
    tails = [tail(entry, at=batch.at) for entry in batch.entries]
    rows: list[Mapping[str, Value]] = [
        {
            "tenant": TENANT,
            "sequence": sequence,
            "at": batch.at,
            "kind": entry.kind,
            "outcome": entry.outcome,
            "user_id": entry.user_id,
            "client_id": entry.client_id,
            "connection_id": entry.connection_id,
            "details": entry.details,
        }
        for sequence, entry in enumerate(batch.entries, start=before + 1)
    ]
    yield Statement(
        "insert into events (tenant, sequence, at, kind, outcome, user_id, client_id, connection_id, details) "
        "values (:tenant, :sequence, :at, :kind, :outcome, :user_id, :client_id, :connection_id, :details)",
        rows,
    )
    tagged: bytes | None = None
    if keyed is not None and key is not None:
        keyed, tagged = fold(keyed, previous=previous, mac=mac(key, tails=tails)), tag(key, tails=tails)
    end: Mapping[str, Value] = {
        "tenant": TENANT,
        "height": height,
        "first": before + 1,
        "last": last,
        "previous": previous,
        "hash": digest(previous, height=height, sequence=before, at=batch.at, tails=tails),
        "at": batch.at,
        "tag": tagged,
        "keyed": keyed,
    }
    yield Statement(
        "insert into event_batches (tenant, height, first_sequence, last_sequence, previous_hash, hash, at, tag) "
        "values (:tenant, :height, :first, :last, :previous, :hash, :at, :tag)",
        (end,),
    )
    yield Statement("update event_heads set hash = :hash, keyed = :keyed where tenant = :tenant", (end,))

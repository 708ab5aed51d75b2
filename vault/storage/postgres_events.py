"""Append to the activity's chain on PostgreSQL in one statement: the server computes hash and keyed head.

The head row, which every process needs, is never locked while the server waits for a client: a standalone event is one
statement, and an event that belongs to a change is sent in the same message as its COMMIT. So a process that stops at
any point never blocks the head for others.
"""

from __future__ import annotations

from typing import Protocol

from pydantic_core import to_json

from vault.classes.immutable import immutable
from vault.records import TENANT
from vault.storage.event_chain import FOLD_LABEL, LABEL, START, Batch, line_start, mac_and_tag, tail


class _Executor(Protocol):
    async def execute(
        self,
        query: str,
        /,
        *args: str | int | bytes | None,
        timeout: float | None = None,  # noqa: ASYNC109 -- the driver's own
    ) -> str: ...


def _literal(value: bytes) -> str:
    """A literal of hexadecimal digits, so that no content can end it."""
    return f"decode('{value.hex()}', 'hex')"


_FRAMED = "int4send(octet_length(convert_to({0}, 'UTF8'))) || convert_to({0}, 'UTF8')"
_LINE = f"'{line_start()}' || cast(head.sequence + n as text) || ',' || (item->>6)"
_ITEMS = "json_array_elements(cast({events} as json)) with ordinality as given (item, n)"
_HEADING = "'[' || cast(head.height + 1 as text) || ',' || cast({at} as text) || ',' || cast({count} as text) || ']'"

# The expressions of SET see the row as of when its lock was granted, not as of when the statement began.
_APPEND = f"""
with moved as (
    update event_heads as head set
        height = head.height + 1,
        sequence = head.sequence + {{count}},
        previous_hash = head.hash,
        hash = sha256({_literal(LABEL)} || head.hash || {_FRAMED.format(_HEADING)} || (
            select string_agg({_FRAMED.format(_LINE)}, cast('' as bytea) order by n) from {_ITEMS}
        )),
        keyed = case when head.keyed is null or {{mac}} is null then head.keyed
            else sha256({_literal(FOLD_LABEL)} || head.keyed || head.hash || {{mac}}) end
    where head.tenant = '{TENANT}'
    returning height, sequence - {{count}} as before, sequence, previous_hash, hash,
        case when keyed is not null then {{tag}} end as tag
), kept as (
    insert into events (tenant, sequence, at, kind, outcome, user_id, client_id, connection_id, details)
    select '{TENANT}', moved.before + n, {{at}}, item->>0, item->>1, item->>2, item->>3, item->>4, item->>5
    from moved, {_ITEMS}
)
insert into event_batches (tenant, height, first_sequence, last_sequence, previous_hash, hash, at, tag)
select '{TENANT}', height, before + 1, sequence, previous_hash, hash, {{at}}, tag from moved
"""  # noqa: S608 -- constants; content comes as parameters, or as hexadecimal digits
_PREPARED = _APPEND.format(
    events="cast($1 as text)",
    at="cast($2 as bigint)",
    count="cast($3 as bigint)",
    mac="cast($4 as bytea)",
    tag="cast($5 as bytea)",
)
_ENSURE_HEAD = (
    f"insert into event_heads (tenant, height, sequence, hash) values ('{TENANT}', 0, 0, {_literal(START)}) "  # noqa: S608 -- constants
    "on conflict (tenant) do nothing"
)


@immutable
class _Content:
    """Events and their lines as one JSON text, with the key's MACs."""

    events: bytes
    mac: bytes | None
    tag: bytes | None

    @classmethod
    def of(cls, batch: Batch, key: bytes | None) -> _Content:
        tails = [tail(entry, at=batch.at) for entry in batch.entries]
        items = [
            (one.kind, one.outcome, one.user_id, one.client_id, one.connection_id, one.details, rest)
            for one, rest in zip(batch.entries, tails, strict=True)
        ]
        events = to_json(items)
        if key is None:
            return cls(events, None, None)
        return cls(events, *mac_and_tag(key, tails=tails))


async def append(connection: _Executor, batch: Batch, *, key: bytes | None) -> None:
    """Append a standalone batch in one statement, which commits by itself. Raises the driver's errors."""
    content = _Content.of(batch, key)
    arguments = (content.events.decode(), batch.at, len(batch.entries), content.mac, content.tag)
    if await connection.execute(_PREPARED, *arguments) == "INSERT 0 0":  # the first event of all
        await connection.execute(_ENSURE_HEAD)
        await connection.execute(_PREPARED, *arguments)


def script(batch: Batch, *, key: bytes | None) -> str:
    """The statements that append a batch, without parameters: the simple protocol sends them with COMMIT."""
    content = _Content.of(batch, key)
    return f"{_ENSURE_HEAD}; " + _APPEND.format(
        events=f"convert_from({_literal(content.events)}, 'UTF8')",
        at=f"cast({int(batch.at)} as bigint)",
        count=f"cast({len(batch.entries)} as bigint)",
        mac="cast(null as bytea)" if content.mac is None else _literal(content.mac),
        tag="cast(null as bytea)" if content.tag is None else _literal(content.tag),
    )

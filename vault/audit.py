"""The activity: append-only events, hash-chained by commit batch. Byte format in `FORMATS.md`.

An event that belongs to a change is appended in the change's own transaction; one that stands alone goes through
`Activity`, which commits whatever is pending together. Each batch takes the head row once, so replicas wait for one
another per batch and not per event. Showing events to people is the server's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import PydanticSerializationError, to_json

from vault.database import (
    Database,
    Program,
    Reader,
    Row,
    Statement,
    Transaction,
    Value,
    binary,
    integer,
    text,
    text_or_none,
)
from vault.records import TENANT, Event
from vault.refusals import StorageUnavailable, VaultError

LOG = logging.getLogger("token_vault.activity")

BATCH_LIMIT = 500  # events per commit
COMPANY_WAIT = 0.01  # seconds from one commit's start that an event waits for as much company as that commit had
NOTE_DELAY = 0.05  # seconds that an event nobody waits for may be pending
TEXT_LIMIT = 500  # characters of one text: details name things, they do not carry content
DETAILS_LIMIT = 8192  # characters of all details as JSON
VERIFY_PAGE = 200  # batches read at a time

_LABEL = b"token-vault events 1\x00"
_START = bytes(32)


class ChainBroken(VaultError):
    """An event or batch was changed, removed, or put in between. `sequence` is the first that does not fit."""

    code = "chain_broken"

    def __init__(self, sequence: int) -> None:
        super().__init__(f"the activity was tampered with at event {sequence}")
        self.sequence = sequence


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: number of batches, of events, and the hash of the last batch (32 bytes)."""

    height: int
    sequence: int
    hash: bytes


async def head(reader: Reader) -> Head:
    """The head as committed now. It only grows: a lower one than before is a database that went back in time."""
    row = await reader.fetch_one(
        "select height, sequence, hash from event_heads where tenant = :tenant", {"tenant": TENANT}
    )
    if row is None:
        return Head(0, 0, _START)
    return Head(integer(row, "height"), integer(row, "sequence"), binary(row, "hash"))


async def append(transaction: Transaction, *events: Event, now: int) -> None:
    """Append events as one batch. Call it last: until the commit it holds the head row, which all others need."""
    if events:
        await transaction.perform(_appending([(event, format_details(event.details)) for event in events], now=now))


def _appending(events: Sequence[tuple[Event, str]], *, now: int) -> Program[None]:
    head = yield from _advancing(len(events))
    height, last = integer(head, "height"), integer(head, "sequence")
    first = last - len(events) + 1
    rows = [
        _row(event, details, sequence=sequence, now=now)
        for sequence, (event, details) in enumerate(events, start=first)
    ]
    digest = _digest(binary(head, "hash"), height=height, at=now, rows=rows)
    yield Statement(
        "insert into events (tenant, sequence, at, kind, outcome, user_id, client_id, connection_id, details) "
        "values (:tenant, :sequence, :at, :kind, :outcome, :user_id, :client_id, :connection_id, :details)",
        rows,
    )
    batch: Mapping[str, Value] = {
        "tenant": TENANT,
        "height": height,
        "first": first,
        "last": last,
        "previous": binary(head, "hash"),
        "hash": digest,
        "at": now,
    }
    yield Statement(
        "insert into event_batches (tenant, height, first_sequence, last_sequence, previous_hash, hash, at) "
        "values (:tenant, :height, :first, :last, :previous, :hash, :at)",
        (batch,),
    )
    yield Statement("update event_heads set hash = :hash where tenant = :tenant", (batch,))


def _advancing(count: int) -> Program[Row]:
    """Take the head row for this transaction and move it on; its hash is still that of the batch before."""
    advance = Statement(
        "update event_heads set height = height + 1, sequence = sequence + :count where tenant = :tenant "
        "returning height, sequence, hash",
        ({"count": count, "tenant": TENANT},),
    )
    heads = yield advance
    if not heads:
        yield Statement(
            "insert into event_heads (tenant, height, sequence, hash) values (:tenant, 0, 0, :start) "
            "on conflict (tenant) do nothing",
            ({"tenant": TENANT, "start": _START},),
        )
        heads = yield advance
    if not heads:
        raise StorageUnavailable("the activity cannot be written", detail="no head row")
    return heads[0]


def format_details(details: Mapping[str, object]) -> str:
    """JSON of plain values. Anything else is refused by type: secrets are kept in types of their own."""
    plain: dict[str, object] = {}
    for name, value in details.items():
        plain[_name(name)] = value if isinstance(value, str) and len(value) <= TEXT_LIMIT else _plain(value)
    try:
        formatted = to_json(plain).decode()
    except PydanticSerializationError:  # half of a surrogate pair, which UTF-8 has no form for
        formatted = json.dumps(plain, separators=(",", ":"))
    if len(formatted) > DETAILS_LIMIT:
        raise ValueError("the details of an event are too long")
    return formatted


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError("details are named by text")
    return name


def _plain(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            raise ValueError("an event cannot hold a number that JSON has no form for")
        case None | bool() | int() | float():
            return value
        case str():
            return value if len(value) <= TEXT_LIMIT else value[: TEXT_LIMIT - 1] + "…"
        case list() | tuple():
            return [_scalar(item) for item in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- items are objects
        case frozenset():
            return sorted(str(_scalar(item)) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- as above
        case _:
            raise TypeError(f"an event cannot hold a {type(value).__name__}")


def _scalar(value: object) -> object:
    if isinstance(value, list | tuple | frozenset):
        raise TypeError("an event cannot hold lists in lists")
    return _plain(value)


def _row(event: Event, details: str, *, sequence: int, now: int) -> Mapping[str, Value]:
    return {
        "tenant": TENANT,
        "sequence": sequence,
        "at": now,
        "kind": event.kind,
        "outcome": event.outcome,
        "user_id": event.user_id,
        "client_id": event.client_id,
        "connection_id": event.connection_id,
        "details": details,
    }


_COLUMNS = ("tenant", "sequence", "at", "kind", "outcome", "user_id", "client_id", "connection_id", "details")


def _digest(previous: bytes, *, height: int, at: int, rows: Sequence[Row]) -> bytes:
    """SHA-256 over the batch before and every column of every event of this one."""
    state = hashlib.sha256(_LABEL + previous)
    lines = [[height, at, len(rows)], *([row[name] for name in _COLUMNS] for row in rows)]
    for line in lines:
        encoded = to_json(line)
        state.update(len(encoded).to_bytes(4, "big") + encoded)
    return state.digest()


_Pending = tuple[Event, str, asyncio.Future[None] | None]


class Activity:
    """Records events that stand alone; whatever is pending shares one commit.

    Somebody alone is committed at once. Where several wait at a time, a commit starts when as many wait as did when the
    last one ended, or `COMPANY_WAIT` after it started: one commit for all of them costs little more than one for each.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: list[_Pending] = []
        self._waiting = 0  # callers of `record` among the pending
        self._company = 1  # how many of them a commit waits for
        self._started = -COMPANY_WAIT  # of the last commit
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def record(self, event: Event, *, details: str | None = None) -> None:
        """Returns when the event is durable. A caller that is cancelled has still recorded it.

        `details` are the event's, where they were formatted before.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._put(event, done, details)
        self._waiting += 1
        if self._waiting >= self._company:
            self._wake.set()
        else:
            self._wake_at(self._started + COMPANY_WAIT, loop)
        await done

    def note(self, event: Event) -> None:
        """Record without waiting: with the next commit, at most `NOTE_DELAY` from now. For what only describes."""
        self._put(event, None)
        loop = asyncio.get_running_loop()
        self._wake_at(loop.time() + NOTE_DELAY, loop)

    def _wake_at(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._alarm is not None:
            if self._alarm_at <= when:
                return
            self._alarm.cancel()
        self._alarm, self._alarm_at = loop.call_at(when, self._wake.set), when

    async def settle(self) -> None:
        """Returns when everything recorded so far is durable, or has been given up."""
        while self._pending or not self._idle.is_set():
            self._wake.set()
            await self._idle.wait()
            await asyncio.sleep(0)

    def _put(self, event: Event, done: asyncio.Future[None] | None, details: str | None = None) -> None:
        if self._closing:
            raise StorageUnavailable("the activity is closed")
        self._pending.append((event, format_details(event.details) if details is None else details, done))
        self._idle.clear()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="activity-writer")

    async def close(self) -> None:
        """Write what is pending and stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._pending or not self._closing:
                await self._wake.wait()
                self._wake.clear()
                if self._alarm is not None:
                    self._alarm.cancel()
                    self._alarm = None
                self._started = loop.time()
                taken, self._pending = self._pending[:BATCH_LIMIT], self._pending[BATCH_LIMIT:]
                served = sum(done is not None for _, _, done in taken)
                self._waiting -= served
                failure = await self._write(taken) if taken else None  # woken for nothing: an empty batch fits no chain
                if failure is not None:
                    self._refuse_waiting(failure)  # they have waited as long; each would only wait again
                self._company = max(1, min(served + self._waiting, BATCH_LIMIT))
                if len(taken) == BATCH_LIMIT or self._closing:
                    self._wake.set()
                if not self._pending:
                    self._idle.set()
        finally:
            for _, _, done in self._pending:  # only when this task was stopped from outside
                if done is not None and not done.done():
                    done.set_exception(StorageUnavailable("the activity could not be written"))
            self._pending = []
            self._waiting = 0
            self._idle.set()

    def _refuse_waiting(self, failure: VaultError) -> None:
        for _, _, done in self._pending:
            if done is not None and not done.done():
                done.set_exception(failure)
        self._pending = [one for one in self._pending if one[2] is None]
        self._waiting = 0

    async def _write(self, taken: Sequence[_Pending]) -> VaultError | None:
        failure: VaultError | None = StorageUnavailable("the activity could not be written")
        try:
            now = self._database.now()
            await self._database.perform(_appending([(event, details) for event, details, _ in taken], now=now))
            failure = None
        except VaultError as error:
            failure = error
            LOG.error("events could not be written", extra={"count": len(taken), "detail": error.detail})  # noqa: TRY400
        finally:
            for _, _, done in taken:
                if done is None or done.done():
                    continue  # nobody waits
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)
        return failure


async def list_events(
    reader: Reader,
    *,
    user_id: str | None = None,
    after: int = 0,
    before: int | None = None,
    limit: int = 100,
    newest_first: bool = False,
) -> tuple[Event, ...]:
    """Events with `after < sequence < before`, of one user or of all."""
    rows = await reader.fetch(
        _LIST[user_id is not None, newest_first],
        {
            "tenant": TENANT,
            "user_id": user_id,
            "after": after,
            "before": 2**62 if before is None else before,
            "limit": limit,
        },
    )
    return tuple(_event(row) for row in rows)


_LIST = {
    (False, False): "select * from events where tenant = :tenant "
    "and sequence > :after and sequence < :before order by sequence limit :limit",
    (False, True): "select * from events where tenant = :tenant "
    "and sequence > :after and sequence < :before order by sequence desc limit :limit",
    (True, False): "select * from events where tenant = :tenant and user_id = :user_id "
    "and sequence > :after and sequence < :before order by sequence limit :limit",
    (True, True): "select * from events where tenant = :tenant and user_id = :user_id "
    "and sequence > :after and sequence < :before order by sequence desc limit :limit",
}  # by (of one user, newest first)


def _event(row: Row) -> Event:
    return Event(
        kind=text(row, "kind"),
        outcome=text(row, "outcome"),
        user_id=text_or_none(row, "user_id"),
        client_id=text_or_none(row, "client_id"),
        connection_id=text_or_none(row, "connection_id"),
        details=json.loads(text(row, "details")),
        at=integer(row, "at"),
        sequence=integer(row, "sequence"),
        tenant=text(row, "tenant"),
    )


async def verify(reader: Reader) -> int:
    """Recompute the chain up to the head as it is now; the number of events. Raises ChainBroken."""
    head = await reader.fetch_one(
        "select height, sequence, hash from event_heads where tenant = :tenant", {"tenant": TENANT}
    )
    end = 0 if head is None else integer(head, "height")
    height, sequence, previous = 0, 0, _START
    while height < end:
        batches = await reader.fetch(
            "select height, last_sequence, previous_hash, hash, at from event_batches "
            "where tenant = :tenant and height > :height and height <= :end order by height limit :limit",
            {"tenant": TENANT, "height": height, "end": end, "limit": VERIFY_PAGE},
        )
        if not batches:
            raise ChainBroken(sequence + 1)
        rows = await reader.fetch(
            "select tenant, sequence, at, kind, outcome, user_id, client_id, connection_id, details from events "
            "where tenant = :tenant and sequence > :sequence and sequence <= :last order by sequence",
            {"tenant": TENANT, "sequence": sequence, "last": integer(batches[-1], "last_sequence")},
        )
        start = sequence
        for batch in batches:
            height += 1
            mine = rows[sequence - start : integer(batch, "last_sequence") - start]
            if integer(batch, "height") != height or binary(batch, "previous_hash") != previous:
                raise ChainBroken(sequence + 1)
            previous = _checked(batch, mine, sequence=sequence, previous=previous)
            sequence += len(mine)
    if head is not None and (sequence != integer(head, "sequence") or previous != binary(head, "hash")):
        raise ChainBroken(sequence + 1)
    if head is None and await reader.fetch(
        "select kind from events where tenant = :tenant limit 1", {"tenant": TENANT}
    ):
        raise ChainBroken(1)
    return sequence


def _checked(batch: Row, rows: Sequence[Row], *, sequence: int, previous: bytes) -> bytes:
    """The hash of a batch that fits. The chain is per batch: a changed event is told apart only by its batch."""
    for expected, row in enumerate(rows, start=sequence + 1):
        if integer(row, "sequence") != expected:
            raise ChainBroken(expected)
    digest = _digest(previous, height=integer(batch, "height"), at=integer(batch, "at"), rows=rows)
    is_complete = sequence + len(rows) == integer(batch, "last_sequence")
    if not rows or not is_complete or digest != binary(batch, "hash"):
        raise ChainBroken(sequence + 1)
    return digest

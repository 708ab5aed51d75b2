"""The activity: append-only events, hash-chained by commit batch. Byte format in `FORMATS.md`.

An event that belongs to a change is appended in that change's transaction. A standalone event goes through `Activity`,
which commits all pending events together. Each batch locks the head row once, so replicas wait for each other per
batch, not per event. `vault.audit.proof` verifies the chain; the server shows events to people.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextvars import Context

from pydantic_core import PydanticSerializationError, to_json

from vault.audit.proof import ChainBroken, Head, head, is_keyed, load_start
from vault.audit.repeats import RepeatedRefusals
from vault.classes.immutable import immutable
from vault.records import DAY, LAST, TENANT, Event
from vault.refusals import StorageUnavailable, VaultError
from vault.spans import REQUEST_ID
from vault.storage.database import Database, Reader, Row, Transaction, Value, binary, integer, text, text_or_none
from vault.storage.event_chain import START, Batch, ChainEntry, begin

__all__ = [
    "Activity",
    "ChainBroken",
    "Head",
    "LastUse",
    "append",
    "batch_of",
    "begin_keyed_head",
    "event_of",
    "format_details",
    "head",
    "last_uses_of_accounts",
    "last_uses_of_agents",
    "list_daily_uses",
    "list_events",
    "list_last_uses",
    "restart_keyed_head",
]

LOG = logging.getLogger("token_vault.activity")

BATCH_LIMIT = 500  # events per commit
COMPANY_WAIT = 0.01  # seconds from the start of a commit that an event waits for as many others as the last commit had
NOTE_DELAY = 0.05  # seconds that an event without a waiting caller may be pending
TEXT_LIMIT = 500  # characters per text: details name things and don't carry content
LIST_LIMIT = 3000  # characters of JSON to keep of a list when the details are too long
LOOK_BACK = 2000  # events to search for last uses
DETAILS_LIMIT = 8192  # characters of all details as JSON


async def append(transaction: Transaction, *events: Event, now: int) -> None:
    """Append events as one batch. Call it last: a refusal by the head's lock surfaces at the commit."""
    if events:
        await transaction.append_events(batch_of(*events, now=now))


def batch_of(*events: Event, now: int) -> Batch:
    """The events as one batch, which belongs to the request that is being served."""
    return Batch(now, [_entry(event, _with_request(format_details(event.details))) for event in events])


def _with_request(details: str) -> str:
    """The formatted details, with the id of the request that the event belongs to."""
    identity = REQUEST_ID.get()
    if not identity:
        return details
    return f'{details[:-1]}{"" if details == "{}" else ","}"request_id":"{identity}"}}'


def _entry(event: Event, details: str) -> ChainEntry:
    return ChainEntry(
        event.kind, event.outcome, event.user_id, event.client_id, event.connection_id, details, event.details
    )


async def begin_keyed_head(database: Database, key: bytes) -> None:
    """Use the vault's key for the activity from now on; the key store records the starting point once.

    If the chain already has events, an event records it too. If the record is missing although the key was in use, the
    key isn't started again, because that would vouch for whatever is there now; `prove` reports it.
    """
    database.event_key = key
    if await load_start(database) is None:
        if await is_keyed(database):
            LOG.error("the record of when the activity key came into use was removed: run token-vault activity verify")
            return
        async with database.transaction() as transaction:
            await restart_keyed_head(transaction, key, now=database.now())


async def restart_keyed_head(transaction: Transaction, key: bytes, *, now: int) -> None:
    """Key the current head and record that: on first use, and after restoring a head without a key."""
    await transaction.execute(
        "insert into event_heads (tenant, height, sequence, hash) values (:tenant, 0, 0, :start) "
        "on conflict (tenant) do nothing",
        {"tenant": TENANT, "start": START},
    )
    row = await transaction.fetch_one(  # locks the row, so that no other process appends in between
        "update event_heads set height = height where tenant = :tenant returning height, sequence, hash",
        {"tenant": TENANT},
    )
    if row is None:
        raise StorageUnavailable("the activity can't be written", detail="the activity's head row is missing")
    height, sequence = integer(row, "height"), integer(row, "sequence")
    keyed = begin(key, height=height, sequence=sequence, hash=binary(row, "hash"))
    names: Mapping[str, Value] = {
        "tenant": TENANT,
        "height": height,
        "sequence": sequence,
        "keyed": keyed,
        "now": now,
    }
    is_first = await transaction.fetch_one(
        "insert into keys.event_starts (tenant, height, sequence, created_at) "
        "values (:tenant, :height, :sequence, :now) on conflict (tenant) do nothing returning tenant",
        names,
    )
    if is_first is None:
        return  # another process was first
    await transaction.execute("update event_heads set keyed = :keyed where tenant = :tenant", names)
    if height:
        await append(transaction, Event("activity.keyed", details={"after": sequence}), now=now)


def format_details(details: Mapping[str, object]) -> str:
    """JSON of plain values. Refuses anything else by type: secrets have their own types."""
    plain: dict[str, object] = {}
    for name, value in details.items():
        is_plain = type(value) in _UNBOUNDED or (type(value) is str and len(value) <= TEXT_LIMIT)
        plain[name if type(name) is str else _name(name)] = value if is_plain else _plain(value)
    try:
        formatted = to_json(plain).decode()
    except PydanticSerializationError:  # half of a surrogate pair, which UTF-8 cannot encode
        formatted = json.dumps(plain, separators=(",", ":"))
    if len(formatted) > DETAILS_LIMIT:  # requests may list many items: record fewer rather than refuse them
        formatted = json.dumps({name: _shorten(value) for name, value in plain.items()}, separators=(",", ":"))
    if len(formatted) > DETAILS_LIMIT:
        raise ValueError("the details of an event are too long")
    return formatted


_UNBOUNDED = frozenset({bool, int, type(None)})  # types of details that need no further check


def _shorten(value: object) -> object:
    """Cut a long list to its first items and say how many more there were."""
    if not isinstance(value, list):
        return value
    kept: list[object] = []
    size = 0
    items: list[object] = value  # pyright: ignore[reportUnknownVariableType] -- items are scalars
    for item in items:
        size += len(json.dumps(item)) + 1
        if size > LIST_LIMIT:
            return [*kept, f"… {len(items) - len(kept)} more"]
        kept.append(item)
    return kept


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError("the names of details must be text")
    return name


def _plain(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            raise ValueError("an event can't hold a number that JSON can't represent")
        case None | bool() | int() | float():
            return value
        case str():
            return value if len(value) <= TEXT_LIMIT else value[: TEXT_LIMIT - 1] + "…"
        case list() if all(type(item) is str and len(item) <= TEXT_LIMIT for item in value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- items are objects
            return list(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- as above
        case list() | tuple():
            return [_scalar(item) for item in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- items are objects
        case frozenset():
            return sorted(str(_scalar(item)) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- as above
        case _:
            raise TypeError(f"an event can't hold a {type(value).__name__}")


def _scalar(value: object) -> object:
    if isinstance(value, list | tuple | frozenset):
        raise TypeError("an event can't hold lists in lists")
    return _plain(value)


_Pending = tuple[Event, str, asyncio.Future[None] | None]


class Activity:
    """Records standalone events; all pending events share one commit.

    A single event is committed at once. When several callers wait, the next commit starts when as many are waiting as
    at the end of the last one, or `COMPANY_WAIT` after that one started: one commit for all of them costs little more
    than a commit for one.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: list[_Pending] = []
        self._waiting = 0  # pending events whose callers of `record` wait
        self._company = 1  # how many of them a commit waits for
        self._started = -COMPANY_WAIT  # of the last commit
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._repeats = RepeatedRefusals()
        self._repeats_alarm: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def record(self, event: Event, *, details: str | None = None) -> None:
        """Return when the event is durable. A cancelled caller has still recorded it.

        `details` are the event's details, if they are already formatted.
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

    async def record_refusal(self, event: Event) -> None:
        """Record a refusal that the refused party can repeat at will; repeats within a minute are only counted.

        The first one is durable on return, like any event.
        """
        loop = asyncio.get_running_loop()
        if self._repeats.is_repeat(event, at=self._database.now(), now=loop.time()):
            return
        self._await_repeats(loop)
        try:
            await self.record(event)
        except VaultError:
            self._repeats.forget(event)
            raise

    def note_refusal(self, event: Event) -> None:
        """Like `record_refusal`, without waiting."""
        loop = asyncio.get_running_loop()
        if not self._repeats.is_repeat(event, at=self._database.now(), now=loop.time()):
            self._await_repeats(loop)
            self.note(event)

    def _await_repeats(self, loop: asyncio.AbstractEventLoop) -> None:
        when = self._repeats.next_due()
        if when is not None and self._repeats_alarm is None:
            self._repeats_alarm = loop.call_at(when, self._note_repeats, loop, context=Context())  # of no request

    def _note_repeats(self, loop: asyncio.AbstractEventLoop) -> None:
        self._repeats_alarm = None
        for event in self._repeats.due(loop.time()):
            self.note(event)
        self._await_repeats(loop)

    def note(self, event: Event) -> None:
        """Record without waiting, with the next commit, at most `NOTE_DELAY` from now. For descriptive events only."""
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
        """Return when everything recorded so far is durable or has been given up."""
        while self._pending or not self._idle.is_set():
            self._wake.set()
            await self._idle.wait()
            await asyncio.sleep(0)

    def _put(self, event: Event, done: asyncio.Future[None] | None, details: str | None = None) -> None:
        if self._closing:
            raise StorageUnavailable("the activity is closed")
        formatted = format_details(event.details) if details is None else details
        self._pending.append((event, _with_request(formatted), done))
        self._idle.clear()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="activity-writer", context=Context())

    async def close(self) -> None:
        """Write pending events and stop."""
        if self._repeats_alarm is not None:
            self._repeats_alarm.cancel()
        for event in () if self._closing else self._repeats.due(None):
            self._put(event, None)
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
                failure = await self._write(taken) if taken else None  # spurious: the chain takes no empty batch
                if failure is not None:
                    self._refuse_waiting(failure)  # all waited equally long; separate commits would only add waiting
                self._company = min(served + self._waiting, BATCH_LIMIT)
                if len(taken) == BATCH_LIMIT or self._closing:
                    self._wake.set()
                if not self._pending:
                    self._idle.set()
        finally:
            for _, _, done in self._pending:  # only when this task was cancelled from outside
                if done is not None and not done.done():
                    done.set_exception(StorageUnavailable("the activity couldn't be written"))
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
        failure: VaultError | None = StorageUnavailable("the activity couldn't be written")
        try:
            now = self._database.now()
            await self._database.append_events(Batch(now, [_entry(event, details) for event, details, _ in taken]))
            failure = None
        except VaultError as error:
            failure = error
            LOG.error("events couldn't be written", extra={"count": len(taken), "detail": error.detail})  # noqa: TRY400
        finally:
            for _, _, done in taken:
                if done is None or done.done():
                    continue  # no caller waits
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
            "before": LAST if before is None else before,
            "limit": limit,
        },
    )
    return tuple(event_of(row) for row in rows)


@immutable
class LastUse:
    """When an agent last used an account, and how often recently; `connection_id` None: the vault without an
    account."""

    client_id: str
    connection_id: str | None
    at: int
    count: int


async def list_last_uses(reader: Reader, user_id: str) -> tuple[LastUse, ...]:
    """Each agent's last use of each account among the user's recent events."""
    rows = await reader.fetch(_LAST_USES, {**_USES, "tenant": TENANT, "user_id": user_id, "limit": LOOK_BACK})
    return tuple(
        LastUse(text(row, "client_id"), text_or_none(row, "connection_id"), integer(row, "at"), integer(row, "uses"))
        for row in rows
    )


async def last_uses_of_agents(reader: Reader, user_id: str) -> Mapping[str, int]:
    """When each agent last used anything, by client ID, among the user's recent events."""
    rows = await reader.fetch(_USES_OF_AGENTS, {**_USES, "tenant": TENANT, "user_id": user_id, "limit": LOOK_BACK})
    return {text(row, "id"): integer(row, "at") for row in rows}


async def last_uses_of_accounts(reader: Reader, user_id: str) -> Mapping[str, int]:
    """When an agent last used each account, by connection ID, among the user's recent events."""
    rows = await reader.fetch(_USES_OF_ACCOUNTS, {**_USES, "tenant": TENANT, "user_id": user_id, "limit": LOOK_BACK})
    return {text(row, "id"): integer(row, "at") for row in rows}


async def list_daily_uses(reader: Reader, user_id: str, *, client_id: str, now: int, days: int) -> tuple[int, ...]:
    """How often an agent used its accounts on each of the last `days` days (UTC), the oldest first.

    Fewer days where the user's recent events begin later.
    """
    today = now // DAY
    which = {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "limit": LOOK_BACK}
    rows = await reader.fetch(_DAILY_USES, {**_USES, **which, "since": (today - days + 1) * DAY, "day": DAY})
    uses = {integer(row, "day"): integer(row, "uses") for row in rows}
    is_cut = sum(integer(row, "events") for row in rows) >= LOOK_BACK
    first = min(uses) + 1 if is_cut else today - days + 1  # only a part of the oldest day was examined
    return tuple(uses.get(day, 0) for day in range(first, today + 1))


_DAILY_USES = """
    select e.at / :day as day, count(*) as events,
        sum(case when e.client_id = :client_id
            and e.kind in (:called, :proxied, :exchanged, :released, :handle, :refreshed, :repeated)
            then 1 else 0 end) as uses
    from (
        select kind, client_id, at from events
        where tenant = :tenant and user_id = :user_id order by sequence desc limit :limit
    ) e
    where e.at >= :since
    group by e.at / :day
"""
_RECENT_USES = """
    from (
        select kind, client_id, connection_id, at from events
        where tenant = :tenant and user_id = :user_id order by sequence desc limit :limit
    ) e
    where e.client_id is not null
        and e.kind in (:called, :proxied, :exchanged, :released, :handle, :refreshed, :repeated)
"""
_LAST_USES = f"""
    select e.client_id, e.connection_id, max(e.at) as at, count(*) as uses {_RECENT_USES}
    group by e.client_id, e.connection_id
"""
_USES_OF_AGENTS = f"select e.client_id as id, max(e.at) as at {_RECENT_USES} group by e.client_id"
_USES_OF_ACCOUNTS = f"""
    select e.connection_id as id, max(e.at) as at {_RECENT_USES} and e.connection_id is not null
    group by e.connection_id
"""
_USES: Mapping[str, Value] = {
    "called": "tool.called",
    "proxied": "proxy.called",
    "exchanged": "token.exchanged",
    "released": "token.released",
    "handle": "handle.issued",
    "refreshed": "token.refreshed",
    "repeated": "token.repeated",
}
_LIST = {
    (False, False): "select * from events where tenant = :tenant "
    "and sequence > :after and sequence < :before order by sequence limit :limit",
    (False, True): "select * from events where tenant = :tenant "
    "and sequence > :after and sequence < :before order by sequence desc limit :limit",
    (True, False): "select * from events where tenant = :tenant and user_id = :user_id "
    "and sequence > :after and sequence < :before order by sequence limit :limit",
    (True, True): "select * from events where tenant = :tenant and user_id = :user_id "
    "and sequence > :after and sequence < :before order by sequence desc limit :limit",
}  # keyed by (of one user, newest first)


def event_of(row: Row) -> Event:
    """The event of a stored row."""
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

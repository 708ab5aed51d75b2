"""Events by agent, account, tool, outcome and time, newest first, at a bounded cost for any search.

The index of a person's events includes agents and accounts: one search for these reads up to `ENTRIES` of its entries.
Any other condition, and any search among everyone's events, reads up to `EXAMINED` events. Both are read in slices, and
no slice starts after `PATIENCE`, because each entry may need its own disk read. `FoundEvents.before` is where the next
search continues. A time is first turned into a position in the activity, which is in chronological order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Final

from vault.audit.audit import event_of, format_details
from vault.classes.immutable import immutable
from vault.records import LAST, TENANT, Event
from vault.storage.database import Reader, Value, integer

EXAMINED: Final = 10_000  # maximum number of events that one search reads: the person's, or everyone's
ENTRIES: Final = 100_000  # maximum number of entries of a person's index that it reads, in about 20 ms
SLICE: Final = 5_000  # events or entries per read
PATIENCE: Final = 0.25  # seconds after which one search reads no further slice
OUTCOMES: Final = ("ok", "refused", "failed")


@immutable
class EventFilter:
    """What to search for; empty means any. `since` and `until` are instants, the second excluded.

    `account` is an account's name as the events have it, `connection_id` the account itself.
    """

    client_id: str = ""
    connection_id: str = ""
    tool: str = ""
    outcome: str = ""  # one of OUTCOMES
    since: int | None = None
    until: int | None = None
    account: str = ""


@immutable
class _Conditions:
    """The conditions of a statement."""

    person: bool
    agent: bool
    connection: bool
    tool: bool
    outcome: bool
    account: bool

    @property
    def reads_rows(self) -> bool:
        """Whether the condition needs the events, because the index doesn't have it."""
        return self.tool or self.outcome or self.account or (not self.person and (self.agent or self.connection))

    @property
    def limit(self) -> int | None:
        """The most that is read; None where the index leads directly to each matching event."""
        if self.reads_rows:
            return EXAMINED
        return ENTRIES if self.agent or self.connection else None

    @property
    def examined_rows(self) -> str:
        """The rows that are read."""
        of_person = " and user_id = :user_id" if self.person else ""
        return f"from events where tenant = :tenant{of_person} and sequence > :after and sequence < :before"

    @property
    def statement(self) -> str:
        return (
            f"select * {self.examined_rows}"
            + (" and client_id = :client_id" if self.agent else "")
            + (" and connection_id = :connection_id" if self.connection else "")
            + (" and outcome = :outcome" if self.outcome else "")
            + (_HAS.format("tool") if self.tool else "")
            + (_HAS.format("account") if self.account else "")
            + " order by sequence desc limit :limit"
        )

    @property
    def reach(self) -> str:
        return f"select sequence {self.examined_rows} order by sequence desc limit 1 offset :skipped"


@immutable
class FoundEvents:
    """Events, newest first; `before`: where to continue with older ones, None when there are none."""

    events: tuple[Event, ...]
    before: int | None


async def search(
    reader: Reader, user_id: str | None, wanted: EventFilter, *, limit: int, before: int | None = None, after: int = 0
) -> FoundEvents:
    """At most `limit` events of a person, or of everyone, with `after < sequence < before`."""
    low = after if wanted.since is None else max(after, await first_at(reader, wanted.since) - 1)
    high = LAST if wanted.until is None else await first_at(reader, wanted.until)
    which: dict[str, Value] = {
        "tenant": TENANT,
        "user_id": user_id,
        "client_id": wanted.client_id,
        "connection_id": wanted.connection_id,
        "outcome": wanted.outcome,
        **_members("tool", wanted.tool),
        **_members("account", wanted.account),
        "empty": "",
        "after": low,
        "before": min(high, LAST if before is None else before),
    }
    kind = _Conditions(
        user_id is not None,
        bool(wanted.client_id),
        bool(wanted.connection_id),
        bool(wanted.tool),
        bool(wanted.outcome),
        bool(wanted.account),
    )
    events: list[Event] = []
    examined, began = 0, time.monotonic()
    while True:
        rest = None if kind.limit is None else await _rest(reader, kind, which, min(SLICE, kind.limit - examined))
        within: dict[str, Value] = which if rest is None else {**which, "after": rest - 1}
        rows = await reader.fetch(kind.statement, {**within, "limit": limit + 1 - len(events)})
        events += map(event_of, rows)
        if len(events) > limit:
            return FoundEvents(tuple(events[:limit]), events[limit - 1].sequence)
        examined += SLICE
        if rest is None or kind.limit is None or examined >= kind.limit or time.monotonic() - began > PATIENCE:
            return FoundEvents(tuple(events), rest)
        which["before"] = rest


async def _rest(reader: Reader, kind: _Conditions, which: Mapping[str, Value], examined: int) -> int | None:
    """The number below which this search reads nothing; None if it can reach everything."""
    row = await reader.fetch_one(kind.reach, {**which, "skipped": examined - 1})
    return None if row is None else integer(row, "sequence")


def _members(name: str, value: str) -> Mapping[str, Value]:
    """A text as it is in the stored details: as `format_details` usually writes it, and escaped."""
    usual = format_details({name: value})
    escaped = json.dumps(json.loads(usual), separators=(",", ":"))  # written by release 0.1.0 and for long details
    return {name: usual[1:-1], f"{name}_escaped": escaped[1:-1]}


async def first_at(reader: Reader, at: int) -> int:
    """The number of the first event at or after an instant; one after the last if there is none."""
    (ends,) = await reader.fetch(_ENDS, {"tenant": TENANT})
    low, high = integer(ends, "first"), integer(ends, "last") + 1
    while low < high:
        middle = (low + high) // 2
        row = await reader.fetch_one(_AT, {"tenant": TENANT, "sequence": middle})
        if row is None or integer(row, "at") >= at:
            high = middle
        else:
            low = middle + 1
    return low


# `like` would ignore case on SQLite.
_HAS: Final = " and (replace(details, :{0}, :empty) <> details or replace(details, :{0}_escaped, :empty) <> details)"
_ENDS: Final = """
    select coalesce((select min(sequence) from events where tenant = :tenant), 0) as first,
        coalesce((select max(sequence) from events where tenant = :tenant), 0) as last
"""
_AT: Final = "select at from events where tenant = :tenant and sequence >= :sequence order by sequence limit 1"

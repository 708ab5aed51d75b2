"""A person's events by agent, account, tool, outcome and time, newest first, at a bounded cost whatever is looked for.

Agents and accounts have indexes. A tool or an outcome is looked for among at most `EXAMINED` events at a time;
`Found.before` says where to go on. A time is first turned into a place in the activity, which is in its order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vault.audit.audit import event_of
from vault.records import TENANT, Event
from vault.storage.database import Reader, Value, integer, integer_or_none

EXAMINED: Final = 10_000  # events of the person, agent or account that one search reads at most
OUTCOMES: Final = ("ok", "refused", "failed")
_LAST: Final = 2**62
_Kind = tuple[bool, bool, bool, bool]  # by agent, account, tool, outcome


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What is looked for; empty means any. `since` and `until` are instants, the second excluded."""

    client_id: str = ""
    connection_id: str = ""
    tool: str = ""
    outcome: str = ""  # one of OUTCOMES
    since: int | None = None
    until: int | None = None

    @property
    def kind(self) -> _Kind:
        """Which statement finds it."""
        return bool(self.client_id), bool(self.connection_id), bool(self.tool), bool(self.outcome)


@dataclass(frozen=True, slots=True)
class Found:
    """Events, newest first; `before`: look for older ones from here on, None where there are none."""

    events: tuple[Event, ...]
    before: int | None


async def search(
    reader: Reader, user_id: str, wanted: EventFilter, *, limit: int, before: int | None = None, after: int = 0
) -> Found:
    """At most `limit` events with `after < sequence < before`."""
    low = after if wanted.since is None else max(after, await _first_at(reader, wanted.since) - 1)
    high = _LAST if wanted.until is None else await _first_at(reader, wanted.until)
    which: dict[str, Value] = {
        "tenant": TENANT,
        "user_id": user_id,
        "client_id": wanted.client_id,
        "connection_id": wanted.connection_id,
        "outcome": wanted.outcome,
        "pattern": _pattern(wanted.tool),
        "escape": "!",
        "after": low,
        "before": min(high, _LAST if before is None else before),
    }
    rest = await _rest(reader, wanted.kind, which)
    if rest is not None:
        which["after"] = rest - 1
    rows = await reader.fetch(_SEARCH[wanted.kind], {**which, "limit": limit + 1})
    events = tuple(event_of(row) for row in rows[:limit])
    return Found(events, events[-1].sequence if len(rows) > limit else rest)


async def _rest(reader: Reader, kind: _Kind, which: Mapping[str, Value]) -> int | None:
    """The number below which nothing is looked for this time; None if everything is within reach."""
    if not any(kind[2:]):  # an index leads to each event
        return None
    row = await reader.fetch_one(_REACH[kind], {**which, "skipped": EXAMINED - 1})
    return None if row is None else integer(row, "sequence")


def _pattern(tool: str) -> str:
    """The `like` pattern for a tool in the stored details, which are canonical JSON."""
    quoted = "".join(f"!{letter}" if letter in "!%_" else letter for letter in json.dumps(tool))
    return f'%"tool":{quoted}%'


async def _first_at(reader: Reader, at: int) -> int:
    """The number of the first event at or after an instant; one after the last if there is none."""
    row = await reader.fetch_one(_ENDS, {"tenant": TENANT})
    low, high = (0, 0) if row is None else (integer_or_none(row, "first") or 0, integer_or_none(row, "last") or 0)
    high += 1
    while low < high:
        middle = (low + high) // 2
        row = await reader.fetch_one(_AT, {"tenant": TENANT, "sequence": middle})
        if row is None or integer(row, "at") >= at:
            high = middle
        else:
            low = middle + 1
    return low


_ENDS: Final = """
    select (select min(sequence) from events where tenant = :tenant) as first,
        (select max(sequence) from events where tenant = :tenant) as last
"""
_AT: Final = "select at from events where tenant = :tenant and sequence >= :sequence order by sequence limit 1"


def _from(kind: _Kind) -> str:
    of_agent, of_account, _, _ = kind
    return (
        "from events where tenant = :tenant and user_id = :user_id"
        + (" and client_id = :client_id" if of_agent else "")
        + (" and connection_id = :connection_id" if of_account else "")
        + " and sequence > :after and sequence < :before"
    )


def _statement(kind: _Kind) -> str:
    _, _, of_tool, of_outcome = kind
    return (
        f"select * {_from(kind)}"
        + (" and outcome = :outcome" if of_outcome else "")
        + (" and details like :pattern escape :escape" if of_tool else "")
        + " order by sequence desc limit :limit"
    )


_BOTH: Final = (False, True)
_KINDS: Final[tuple[_Kind, ...]] = tuple((a, b, c, d) for a in _BOTH for b in _BOTH for c in _BOTH for d in _BOTH)
_SEARCH: Final = {kind: _statement(kind) for kind in _KINDS}
_REACH: Final = {
    kind: f"select sequence {_from(kind)} order by sequence desc limit 1 offset :skipped" for kind in _KINDS
}

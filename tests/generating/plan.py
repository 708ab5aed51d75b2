"""The arithmetic in docs/operate/sizing.md for ten million people, from the figures that the page lists before it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tests.generating.documentation import DOCS

PAGE: Final = DOCS / "operate/sizing.md"
PEOPLE, CONNECTIONS, CALLS, REFRESHES = 10_000_000, 3, 20, 3
ACTIVE: Final = 0.1  # of all people, a day
PEAK: Final = 5  # times the average
EVENTS_OF_A_CALL: Final = 2
HANDLES: Final = 2  # new handles that cost as much as a refresh, which isn't measured alone
CORE_HOUR, GB_MONTH = 0.05, 0.10  # dollars
DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Costs:
    """What the page says that one process needs: milliseconds, KB, and bytes."""

    call: float
    call_in_postgres: float
    handle: float
    handle_in_postgres: float
    connection: float
    event: int
    growth: float  # of PostgreSQL over SQLite


def read_costs(text: str) -> Costs:
    """The figures of the list."""
    flat = " ".join(text.split())

    def find(pattern: str) -> tuple[float, ...]:
        found = re.search(pattern, flat)
        assert found is not None, f"{PAGE.name} doesn't say: {pattern}"
        return tuple(map(float, found.groups()))

    call, call_in_postgres = find(r"on PostgreSQL ([\d.]+), and ([\d.]+) of PostgreSQL")
    handle, handle_in_postgres = find(r"and ([\d.]+) ms of a core, and [\d.]+ and ([\d.]+) ms of PostgreSQL")
    connection, event = find(r"([\d.]+) KB per connection and its records, (\d+) bytes per event")
    (growth,) = find(r"takes \[([\d.]+) times\]")
    return Costs(call, call_in_postgres, handle, handle_in_postgres, connection, int(event), growth)


def plan() -> str:
    """Each sum with its terms."""
    one = read_costs(PAGE.read_text(encoding="utf-8"))
    calls, refreshes = (round(PEOPLE * ACTIVE * each) for each in (CALLS, REFRESHES))
    per_second, refreshes_per_second = (round(each * PEAK / DAY) for each in (calls, refreshes))
    events = calls * EVENTS_OF_A_CALL + refreshes

    def cores(call: float, handle: float) -> str:
        used = (per_second * call + refreshes_per_second * HANDLES * handle) / 1000
        return f"{per_second:,} × {call} ms + {refreshes_per_second} × {HANDLES} × {handle} ms = {used:.2f} cores"

    hours = (one.call + one.call_in_postgres) / 1000 * 1e6 / 3600
    its_events = round(1e6) * EVENTS_OF_A_CALL
    stored = its_events * one.event * one.growth / 1e9
    connections = PEOPLE * CONNECTIONS
    sums = {
        "Calls": f"{PEOPLE:,} × {ACTIVE} × {CALLS} = {calls:,} a day; {per_second:,} a second at the peak",
        "Refreshes": f"{PEOPLE:,} × {ACTIVE} × {REFRESHES} = {refreshes:,} a day; "
        f"{refreshes_per_second} a second at the peak",
        "Vault, at the peak": cores(one.call, one.handle),
        "PostgreSQL, at the peak": cores(one.call_in_postgres, one.handle_in_postgres),
        "Events": f"{calls:,} × {EVENTS_OF_A_CALL} + {refreshes:,} = {events:,} a day; "
        f"{round(events * PEAK / DAY):,} a second at the peak",
        "Disk for connections": f"{connections:,} × {one.connection} KB × {one.growth} = "
        f"{connections * one.connection * one.growth / 1e6:.0f} GB",
        "Disk for events": f"{events:,} × {one.event} bytes × {one.growth} = "
        f"{events * one.event * one.growth / 1e9:.0f} GB a day",
        "A million calls": f"1,000,000 × ({one.call} + {one.call_in_postgres} ms) = {hours:.2f} core hours; "
        f"{its_events:,} × {one.event} bytes × {one.growth} = {stored:.1f} GB",
        f"Their price, at ${CORE_HOUR:.2f} a core hour and ${GB_MONTH:.2f} a GB and month": (
            f"${hours * CORE_HOUR:.2f}, and ${stored * GB_MONTH:.2f} a month"
        ),
    }
    return "".join(f"- {name}: {terms}\n" for name, terms in sums.items())

"""Repeated refusals: the first becomes an event at once; those of the next minute are counted in one event.

A stranger who guesses, or an agent in a loop, leaves two rows a minute instead of one per request. This module does no
I/O; `vault.audit.audit.Activity` writes the events.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from vault.records import Event

WINDOW: Final = 60  # seconds that repeats are counted before they are written
KEPT: Final = 1000  # refusals tracked separately at a time; beyond that only their kind is counted
_VARIES: Final = frozenset({"address", "milliseconds"})  # details that may differ between repeats


@dataclass(slots=True)
class _Run:
    event: Event
    until: float  # monotonic seconds
    count: int = 0
    first_at: int = 0
    last_at: int = 0


class RepeatedRefusals:
    """The refusals of the last minute in one process."""

    def __init__(self) -> None:
        self._runs: dict[Hashable, _Run] = {}

    def is_repeat(self, event: Event, *, at: int, now: float) -> bool:
        """Whether the same refusal occurred within the minute; if so, count it. `at` is wall-clock time, `now` is
        monotonic."""
        key = _key(event)
        if key not in self._runs and len(self._runs) >= KEPT:
            event = Event(event.kind, outcome=event.outcome, details={"of": "many"})
            key = _key(event)
        run = self._runs.get(key)
        if run is None:
            self._runs[key] = _Run(event, now + WINDOW)
            return False
        run.count += 1
        run.first_at, run.last_at = run.first_at or at, at
        return True

    def forget(self, event: Event) -> None:
        """Treat the next refusal as the first, because the first event couldn't be written."""
        self._runs.pop(_key(event), None)

    def due(self, now: float | None) -> Sequence[Event]:
        """The events of finished runs (None: of all), each with its `repeats` and the first and last time."""
        over = {key: run for key, run in self._runs.items() if now is None or run.until <= now}
        for key, run in over.items():
            if run.count and now is not None:  # the run continues: this event counts as its first one
                self._runs[key] = _Run(run.event, now + WINDOW)
            else:
                del self._runs[key]
        return [
            replace(
                run.event,
                details={
                    **run.event.details,
                    "repeats": run.count,
                    "first_at": run.first_at,
                    "last_at": run.last_at,
                },
            )
            for run in over.values()
            if run.count
        ]

    def next_due(self) -> float | None:
        """When the next run ends, in monotonic seconds."""
        return min((run.until for run in self._runs.values()), default=None)


def _key(event: Event) -> Hashable:
    told = tuple(sorted((name, repr(value)) for name, value in event.details.items() if name not in _VARIES))
    return event.kind, event.outcome, event.user_id, event.client_id, event.connection_id, told

"""A cache of recent decisions for repeated requests, shared by all interfaces.

A decision can be reused if all stored rows behind it are unchanged, which its caller checks each time (`facts`), none
of its ends has been reached, and it isn't older than its store allows. A revocation therefore takes effect immediately.
Kept in this process only, in limited number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

KEPT: Final = 10  # seconds, unless a store says otherwise
_MOST: Final = 1024

Key = TypeVar("Key", bound=Hashable)
Decided = TypeVar("Decided")


@dataclass(slots=True)
class RecentDecision(Generic[Decided]):
    """A decision and its basis. `mark` is the database's, from before `facts` were last read; None: unknown."""

    decided: Decided
    facts: Sequence[object] = field(repr=False)
    until: int
    mark: object | None = None


class RecentDecisions(Generic[Key, Decided]):
    """At most `most` decisions of one process. All are dropped `kept` seconds after the first was asked for."""

    def __init__(self, *, kept: int = KEPT, most: int = _MOST) -> None:
        self._kept = kept
        self._most = most
        self._asked: set[Key] = set()
        self._known: dict[Key, RecentDecision[Decided]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def find(self, key: Key, *, now: int) -> RecentDecision[Decided] | None:
        """A decision that has not ended; `is_current` checks whether its facts still hold."""
        known = self._known.get(key)
        return known if known is not None and now < known.until else None

    def is_current(self, key: Key, facts: Sequence[object]) -> bool:
        """Whether the decision is based on the current rows; otherwise it is dropped."""
        known = self._known.get(key)
        if known is not None and known.facts == facts:
            return True
        self.drop(key)
        return False

    def is_repeated(self, key: Key) -> bool:
        """Whether it was requested recently; recorded for the next time. For decisions that are expensive to keep."""
        if key in self._asked:
            return True
        if len(self._asked) < self._most:
            self._asked.add(key)
        self._await_sweep()
        return False

    def keep(
        self,
        key: Key,
        decided: Decided,
        *,
        facts: Sequence[object],
        ends: Iterable[int | None],
        now: int,
        mark: object | None = None,
    ) -> RecentDecision[Decided]:
        """Keep a decision up to the first of its `ends`; `facts` were read before it was made, or read the same."""
        until = min([now + self._kept, *(end for end in ends if end is not None)])
        known = RecentDecision(decided, facts, until, mark)
        if now < until and (key in self._known or len(self._known) < self._most):
            self._known[key] = known
            self._await_sweep()
        return known

    def drop(self, key: Key) -> None:
        """Drop a decision that turned out wrong."""
        self._known.pop(key, None)

    def _await_sweep(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._kept, self._sweep)

    def _sweep(self) -> None:
        """Drop everything: used decisions are made again; unused ones are not needed."""
        self._asked.clear()
        self._known.clear()
        self._timer = None

"""Slots for large bodies that must be read completely before a call is checked; there are few, to limit memory.

Smaller bodies need none. Each agent of a person gets only a few of the slots, so that it can't occupy all.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

LARGE: Final = 1024 * 1024  # bytes; a body up to this size needs no slot
MOST: Final = 8  # at a time, in each process
MOST_EACH: Final = 2

Agent = tuple[str, str]  # person and client


class LargeBodies:
    """The number of slots by holder."""

    def __init__(self) -> None:
        self._held: Counter[Agent] = Counter()

    def take(self, agent: Agent) -> bool:
        """Take a slot; False if none is free."""
        if self._held[agent] >= MOST_EACH or self._held.total() >= MOST:
            return False
        self._held[agent] += 1
        return True

    def give_back(self, agent: Agent) -> None:
        """Free the slot after the call."""
        self._held[agent] -= 1
        if not self._held[agent]:
            del self._held[agent]

"""Places for large bodies that must be read whole before a call is judged: few at a time, so that memory is bounded.

Smaller bodies need none. One agent of one person gets few of the places, so that it cannot take them all.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

LARGE: Final = 1024 * 1024  # bytes of a body up to which it needs no place
MOST: Final = 8  # at a time, in each process
MOST_EACH: Final = 2

Agent = tuple[str, str]  # person and client


class LargeBodies:
    """Who holds how many places."""

    def __init__(self) -> None:
        self._held: Counter[Agent] = Counter()

    def take(self, agent: Agent) -> bool:
        """Take a place; False when there is none."""
        if self._held[agent] >= MOST_EACH or self._held.total() >= MOST:
            return False
        self._held[agent] += 1
        return True

    def give_back(self, agent: Agent) -> None:
        """The call is over."""
        self._held[agent] -= 1
        if not self._held[agent]:
            del self._held[agent]

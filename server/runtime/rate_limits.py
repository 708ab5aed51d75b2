"""Rate limits for agents' actions that store a row, so that a runaway agent can't fill the disk or slow down others.

Each process counts for itself, in memory: the limit is against runaway agents, not for accounting, and a count in the
database would cost each call another commit.
"""

from __future__ import annotations

import math
from typing import Final

MINUTE: Final = 60.0
HOUR: Final = 3600.0
_KEPT: Final = 10_000  # people and places that are remembered even if all are idle


def agent_place(client_id: str) -> str:
    """The key for counting this agent's calls that reach no provider."""
    return f"agent {client_id}"


def host_place(client_id: str) -> str:
    """The key for counting calls by this agent's programs to hosts without an account."""
    return f"hosts {client_id}"


class Budgets:
    """A number of calls per window of seconds for each person at each place (a provider, an agent).

    They can be used all at once or over time; used ones are restored evenly.
    """

    def __init__(self, calls: int, *, window: float = MINUTE) -> None:
        self.limit = calls
        self._window = window
        self._step = window / calls
        self._paid_until: dict[tuple[str, str], float] = {}
        self._room = _KEPT  # counts that are stored before idle ones are dropped

    def __len__(self) -> int:
        """The number of stored counts."""
        return len(self._paid_until)

    def wait(self, user_id: str, place: str, *, now: float) -> int:
        """The seconds until a call would be allowed; 0 for immediately. Counts nothing."""
        left = max(self._paid_until.get((user_id, place), now), now) + self._step - now
        return max(1, math.ceil(left - self._window)) if left > self._window + 1e-6 else 0

    def spend(self, user_id: str, place: str, *, now: float) -> int:
        """Count a call now; 0, or the seconds to wait, with nothing counted."""
        key = user_id, place
        if wait := self.wait(user_id, place, now=now):
            return wait
        if len(self._paid_until) >= self._room and key not in self._paid_until:
            self._paid_until = {one: until for one, until in self._paid_until.items() if until > now}
            self._room = max(_KEPT, 2 * len(self._paid_until))  # so that each count is looked at a few times at most
        self._paid_until[key] = max(self._paid_until.get(key, now), now) + self._step
        return 0

"""How often an agent may do what leaves a row each time: one that runs away fills no disk, and takes from nobody.

Counted by each process for itself, in memory: the bound is against running away, not for accounting, and a count in the
database would cost each call another commit.
"""

from __future__ import annotations

import math
from typing import Final

MINUTE: Final = 60.0
HOUR: Final = 3600.0
_KEPT: Final = 10_000  # people and places remembered before those that are idle are forgotten


class Budgets:
    """So many calls in each window of seconds for each person at each place (a provider, an agent), all at once or
    spread; used ones come back evenly.
    """

    def __init__(self, calls: int, *, window: float = MINUTE) -> None:
        self._window = window
        self._step = window / calls
        self._paid_until: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        """How many counts are remembered."""
        return len(self._paid_until)

    def wait(self, user_id: str, place: str, *, now: float) -> int:
        """The seconds until a call at this moment would count; 0 when it would at once. Nothing is counted."""
        left = max(self._paid_until.get((user_id, place), now), now) + self._step - now
        return max(1, math.ceil(left - self._window)) if left > self._window + 1e-6 else 0

    def spend(self, user_id: str, place: str, *, now: float) -> int:
        """Count a call at this moment; 0, or the seconds to wait, and nothing was counted."""
        key = user_id, place
        if wait := self.wait(user_id, place, now=now):
            return wait
        if len(self._paid_until) >= _KEPT and key not in self._paid_until:
            self._paid_until = {one: until for one, until in self._paid_until.items() if until > now}
        self._paid_until[key] = max(self._paid_until.get(key, now), now) + self._step
        return 0

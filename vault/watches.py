"""For how long this process itself has watched something, by its own clock alone.

What another process wrote down may carry a clock that is minutes off; a difference of two looks at one clock does not.
"""

from __future__ import annotations

ROOM = 10_000  # things watched at once; beyond it the oldest are forgotten, which only makes us more patient


class Watches:
    """What one process waits for, and since when."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[object, int]] = {}

    def seconds(self, name: str, what: object, *, now: int) -> int:
        """How long `what` has been seen under this name without a change; 0 at the first look."""
        known, since = self._since.get(name, (None, now))
        if known != what or since > now:
            self._since.pop(name, None)
            while len(self._since) >= ROOM:
                del self._since[next(iter(self._since))]
            self._since[name] = (what, now)
            return 0
        return now - since

    def forget(self, name: str) -> None:
        """It is over."""
        self._since.pop(name, None)

"""The simulator's own time: it runs like a monotonic clock and can be advanced, so that no test has to sleep."""

from __future__ import annotations

import time


class Clock:
    """Seconds since the epoch, unaffected by steps of the machine's clock."""

    def __init__(self) -> None:
        self._origin = time.time() - time.monotonic()
        self._offset = 0.0

    def now(self) -> float:
        """The time at the simulated provider."""
        return self._origin + time.monotonic() + self._offset

    def advance(self, seconds: float) -> None:
        """Let this much time pass at the provider."""
        self._offset += seconds

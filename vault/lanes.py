"""How many refreshes of one provider a process has under way, so that too much work waits instead of failing.

Every refresh needs the database several times. Without a limit each of many would wait longer for it than it may, fail
half-way and be done again: the more there is to do, the less gets done. Places are counted per provider, since one that
hangs keeps its own for seconds. What is refreshed ahead waits in a queue for fewer places, so that callers find some.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

PLACES = 96  # refreshes under way
AHEAD = 24  # of them, those that nobody waits for


@dataclass(slots=True)
class _Lane:
    places: asyncio.Semaphore
    ahead: int = 0  # queued ones that run
    queue: deque[tuple[Hashable, Callable[[], asyncio.Task[object]]]] = field(
        default_factory=deque[tuple[Hashable, Callable[[], "asyncio.Task[object]"]]]
    )
    queued: set[Hashable] = field(default_factory=set[Hashable])


class Lanes:
    """The places of one process."""

    def __init__(self, *, places: int = PLACES, ahead: int = AHEAD) -> None:
        self._places = places
        self._ahead = ahead
        self._lanes: dict[str, _Lane] = {}

    def _lane(self, provider: str) -> _Lane:
        lane = self._lanes.get(provider)
        if lane is None:
            lane = self._lanes[provider] = _Lane(asyncio.Semaphore(self._places))
        return lane

    async def enter(self, provider: str, *, patience: float) -> bool:
        """Take a place; whether there was one at once: what was read before may be old now. Raises TimeoutError."""
        places = self._lane(provider).places
        if not places.locked():
            await places.acquire()
            return True
        async with asyncio.timeout(max(patience, 0.0)):
            await places.acquire()
        return False

    def leave(self, provider: str) -> None:
        """Give the place back."""
        self._lane(provider).places.release()

    def queue(self, provider: str, name: Hashable, start: Callable[[], asyncio.Task[object]]) -> None:
        """Start a refresh that nobody waits for when its turn comes; asked twice is asked once."""
        lane = self._lane(provider)
        if name in lane.queued:
            return
        lane.queued.add(name)
        lane.queue.append((name, start))
        self._start(lane)

    def clear(self) -> None:
        """Forget what is queued."""
        for lane in self._lanes.values():
            lane.queue.clear()
            lane.queued.clear()

    def _start(self, lane: _Lane) -> None:
        while lane.queue and lane.ahead < self._ahead:
            name, start = lane.queue.popleft()
            lane.queued.discard(name)
            lane.ahead += 1
            start().add_done_callback(lambda _: self._landed(lane))

    def _landed(self, lane: _Lane) -> None:
        lane.ahead -= 1
        self._start(lane)

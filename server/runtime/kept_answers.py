"""External answers that pages show if they arrive in time: kept for minutes, in limited number, and each requested
once.

A caller waits only briefly; the read continues within its time limit, and the next caller gets its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Final

LIMIT: Final = 5.0  # seconds that a read may take
KEPT: Final = 300.0  # seconds for which an answer is used again
KEPT_FAILURE: Final = 30.0  # seconds before a read that brought nothing is tried again
MOST: Final = 500  # answers

Answer = Mapping[str, object]
Read = Callable[[], Awaitable[Answer | None]]


class KeptAnswers:
    """The answers of one process, and the reads that are on their way. A read returns None for no answer."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[float, Answer | None]] = OrderedDict()
        self._running: dict[Hashable, asyncio.Task[None]] = {}

    def get(self, key: Hashable) -> Answer | None:
        """The answer if it is known; makes no request."""
        until, answer = self._kept.get(key, (0.0, None))
        return answer if time.monotonic() < until else None

    async def ask(self, reads: Mapping[Hashable, Read], *, patience: float) -> bool:
        """Read what isn't known; whether all of it came within `patience` seconds."""
        tasks = [task for key, read in reads.items() if (task := self._start(key, read)) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
        return all(task.done() for task in tasks)

    async def close(self) -> None:
        """Cancel reads in progress."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _start(self, key: Hashable, read: Read) -> asyncio.Task[None] | None:
        """The read that is on its way, or a new one; None when its answer is known, or was none a moment ago."""
        until, _ = self._kept.get(key, (0.0, None))
        if time.monotonic() < until:
            return None
        if (running := self._running.get(key)) is None:
            running = self._running[key] = asyncio.create_task(self._keep(key, read))
            running.add_done_callback(lambda _: self._running.pop(key, None))
        return running

    async def _keep(self, key: Hashable, read: Read) -> None:
        answer: Answer | None = None
        try:
            async with asyncio.timeout(LIMIT):
                answer = await read()
        except TimeoutError:
            pass
        self._kept[key] = (time.monotonic() + (KEPT_FAILURE if answer is None else KEPT), answer)
        self._kept.move_to_end(key)
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)

"""Repeat what depends on short times if this process stood still meanwhile, because the machine is busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

STEP = 0.01  # seconds
ATTEMPTS = 20
Result = TypeVar("Result")


@dataclass
class Stalls:
    """How long the event loop stood still at most, in seconds."""

    longest: float = 0.0


@asynccontextmanager
async def watch_stalls() -> AsyncGenerator[Stalls]:
    """Measure the stalls of the block."""
    stalls, loop = Stalls(), asyncio.get_running_loop()

    async def watch() -> None:
        last = loop.time()
        while True:
            await asyncio.sleep(STEP)
            now = loop.time()
            stalls.longest = max(stalls.longest, now - last - STEP)
            last = now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        yield stalls
    finally:
        await asyncio.sleep(0)  # a stall at the very end counts, too
        watching.cancel()
        await asyncio.wait({watching})


async def attempt_undisturbed(attempt: Callable[[], Awaitable[Result]], *, within: float) -> Result:
    """The result of the first attempt in which no stall took this many seconds, or else of the last attempt."""
    for _ in range(ATTEMPTS):
        async with watch_stalls() as stalls:
            result = await attempt()
        if stalls.longest < within:
            break
    return result

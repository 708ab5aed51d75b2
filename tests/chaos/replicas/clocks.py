"""Two processes of one vault, one with its clock five minutes fast or slow.

Its `time.time` is off. On PostgreSQL, the server's clock decides; on SQLite, each process reads its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack

from tests.chaos.estate import Estate, open_estate
from tests.chaos.figures import Figure, Scale
from tests.chaos.processes.nursery import Mortal, Nursery, open_nursery
from tests.chaos.world import Server, fresh_store, postgres_server

OFF = 300  # seconds
SLOW = 1.0  # seconds that the providers take, so that the other process calls meanwhile


async def rounds(estate: Estate, nursery: Nursery, *, off: int, count: int) -> Figure:
    """Both refresh the same accounts; each one goes first in turn."""
    right, wrong = await nursery.start(estate.order()), await nursery.start(estate.order(clock=off))
    await asyncio.gather(right.answer(), wrong.answer())
    meanwhile, after = Counter[str](), Counter[str]()
    for number in range(2 * count):
        first, second = (right, wrong) if number % 2 == 0 else (wrong, right)
        await estate.expire(ago=2 * OFF)
        for simulator in estate.simulators.values():
            await simulator.control("faults", endpoint="slack.token.refresh", kind="slow", seconds=SLOW)
        first.tell(exchange=None)
        await asyncio.sleep(SLOW / 3)
        meanwhile.update(await outcomes(second))
        meanwhile.update(outcome for outcome, _ in (await first.answer())["calls"].values())
        after.update(await outcomes(second))
    twice = sum(
        len(entries) - len({entry["token_hash"] for entry in entries})
        for (provider, _), entries in (await estate.refreshes()).items()
        if provider != "stays"
    )
    states = Counter((await estate.states()).values())
    calls = 2 * count * len(estate.held)
    return Figure(
        f"the clock of one of two processes {abs(off)} s {'ahead' if off > 0 else 'behind'}, {where(estate)}",
        f"{twice} tokens sent twice; calls at once: {summary(meanwhile)}; afterwards {after['ok']} of {calls} succeed; "
        f"{states['active']} of {len(estate.held)} accounts active",
        "0 twice, nobody is asked to connect again",
        twice == 0 and set(meanwhile) <= {"ok", "503"} and after["ok"] == calls and set(states) == {"active"},
    )


async def outcomes(process: Mortal) -> list[str]:
    answer: Mapping[str, tuple[str, float]] = (await process.ask(exchange=None))["calls"]
    return [outcome for outcome, _ in answer.values()]


def where(estate: Estate) -> str:
    return "SQLite" if estate.store.is_sqlite else "PostgreSQL"


def summary(counted: Counter[str]) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(counted.items()))


async def _on(place: Server | None, nursery: Nursery, *, off: int, count: int) -> Figure:
    async with fresh_store(place) as store, open_estate(store, users=1) as estate:
        return await rounds(estate, nursery, off=off, count=count)


async def figures(scale: Scale) -> list[Figure]:
    """Five minutes ahead and behind, on both databases."""
    count = 3 if scale is Scale.FULL else 1
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(postgres_server())
        nursery = await stack.enter_async_context(open_nursery())
        return [await _on(place, nursery, off=off, count=count) for place in (None, server) for off in (OFF, -OFF)]

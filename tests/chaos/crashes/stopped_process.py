"""A process is stopped (SIGSTOP) during its refresh, and continues after the provider's answer has arrived.

No process may send the token again, however long it takes, and the answer waiting in the socket is kept.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack

from tests.chaos.estate import RESENDS, REVOKES, SIBLING, STRICT, Estate, open_estate
from tests.chaos.figures import Figure, Scale
from tests.chaos.processes.nursery import Mortal, Nursery, open_nursery
from tests.chaos.world import PATIENCE, Server, fresh_store, postgres_server

CLASSES = (RESENDS, SIBLING, STRICT, REVOKES)
STOPPED = {Scale.FULL: 65.0, Scale.SMALL: 4.5}  # seconds: longer than a lease; longer than a request may take
DEADLINE = {Scale.FULL: 10.0, Scale.SMALL: 3.0}  # seconds that it may take
BETWEEN = 2.0  # seconds between the other's calls


async def wait_for_refreshes(estate: Estate, count: int) -> None:
    """Wait until this many refreshes have reached the providers."""
    async with asyncio.timeout(PATIENCE):
        while sum(map(len, (await estate.refreshes()).values())) < count:
            await asyncio.sleep(0.05)


async def ask_again(other: Mortal, *, seconds: float) -> Counter[str]:
    """What another process answers in the meantime."""
    said, until = Counter[str](), time.monotonic() + seconds
    while time.monotonic() < until:
        said.update(outcome for outcome, _ in (await other.ask(exchange=None))["calls"].values())
        await asyncio.sleep(BETWEEN)
    return said


async def stop_one(estate: Estate, nursery: Nursery, *, scale: Scale) -> Figure:
    """Stop a process once while it refreshes an account of every rotating class."""
    seconds, order = STOPPED[scale], estate.order(deadline=DEADLINE[scale])
    one, other = await nursery.start(order), await nursery.start(order)
    await asyncio.gather(one.answer(), other.answer())
    await estate.expire()
    for simulator in estate.simulators.values():
        await simulator.control("faults", endpoint="slack.token.refresh", kind="hold", when="after")
    one.tell(exchange=None)
    await wait_for_refreshes(estate, len(estate.held))
    one.signal(signal.SIGSTOP)
    for simulator in estate.simulators.values():
        await simulator.control("release")
    asking = asyncio.create_task(ask_again(other, seconds=seconds))
    await asyncio.sleep(seconds)
    states = Counter((await estate.states()).values())
    one.signal(signal.SIGCONT)
    meanwhile = await asking
    await one.answer()  # its callers may have been told to retry
    after = Counter(outcome for outcome, _ in (await other.ask(exchange=None))["calls"].values())
    kept = sum(generation == 2 for generation in (await estate.generations()).values())
    await estate.expire()
    then = Counter(outcome for outcome, _ in (await one.ask(exchange=None))["calls"].values())
    twice = sum(
        len(entries) - len({entry["token_hash"] for entry in entries})
        for entries in (await estate.refreshes()).values()
    )
    count = len(estate.held)
    where = "SQLite" if estate.store.is_sqlite else "PostgreSQL"
    said = ", ".join(f"{number} {outcome}" for outcome, number in sorted(meanwhile.items()))
    return Figure(
        f"a process stopped for {seconds:.0f} s with {count} refreshes at providers of 4 classes, {where}",
        f"{twice} tokens sent twice, {kept} of {count} late answers kept, {then['ok']} of {count} refreshed again with "
        f"them; the other process's calls meanwhile: {said}",
        "0 twice, all kept, nobody's state changed",
        twice == 0
        and kept == after["ok"] == then["ok"] == count
        and states["active"] == count
        and not meanwhile["needs_reauth"],
    )


async def _on(place: Server | None, nursery: Nursery, *, scale: Scale) -> Figure:
    async with fresh_store(place) as store, open_estate(store, CLASSES, users=1) as estate:
        return await stop_one(estate, nursery, scale=scale)


async def figures(scale: Scale) -> list[Figure]:
    """Run both databases at once."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(postgres_server())
        nursery = await stack.enter_async_context(open_nursery())
        return await asyncio.gather(*(_on(place, nursery, scale=scale) for place in (None, server)))

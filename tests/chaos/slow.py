"""Slow and fast providers, with a storage that fails in the middle: no token is sent twice, and no account is lost.

Two processes call at a steady rate while the token ends and the storage takes no writes for 1 to 60 s; the provider
takes up to 30 s for a refresh. An answer that takes longer than the 10 s of a request is lost on its way: there the
law of the gap speaks, and the provider's books say that it was so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.chaos.faults import demote, lock, restart
from tests.chaos.figures import Figure, Scale
from tests.chaos.world import Server, fresh_store, open_world, postgres_server, strict_provider
from vault.rotation_rules import HANDLING, SEND_DEADLINE

LIMIT = 1200.0  # seconds
RATE = 4.0  # calls per second and process


@dataclass(frozen=True)
class Episode:
    """How slow the provider is, and for how long the storage fails, in seconds."""

    answer: float
    fault: float


FAST_AND_SLOW = (Episode(0, 1), Episode(4, 6))
MORE = (Episode(8, 6), Episode(8, 26))
LATE = Episode(30, 6)  # longer than a request may take
LONG = Episode(8, 60)


async def episode(one: Episode, server: Server | None, *, kills: bool = False) -> Figure:
    """One provider, one account, two processes, one fault, during which the access token ends."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(strict_provider())
        store = await stack.enter_async_context(fresh_store(server))
        world = await stack.enter_async_context(open_world(store, provider))
        workers = await world.workers(2)
        await asyncio.gather(*(worker.ask(exchange=2) for worker in workers))
        if one.answer:
            slow = {"endpoint": "slack.token.refresh", "kind": "slow", "seconds": one.answer}
            await provider.control("faults", **slow)
        is_late = one.answer > SEND_DEADLINE
        whole = 1.0 + one.fault + (HANDLING + 20.0 if is_late else 2 * one.answer + 15.0)
        running = [asyncio.create_task(worker.ask(load=whole, rate=RATE)) for worker in workers]
        await world.expire(after=1)
        if server is None:
            await lock(one.fault)(world)
        else:
            await (restart(server) if kills else demote(one.fault))(world)
        outcomes = Counter[str]()
        for answer in await asyncio.gather(*running):
            outcomes.update(answer["outcomes"])
        last = await workers[0].ask(exchange=1)
        twice, row = await world.spent_twice(), await world.row()
    works = last["outcomes"].get("ok", 0) == 1
    said = ", ".join(f"{count} {code}" for code, count in sorted(outcomes.items()))
    where = "SQLite locked" if server is None else "PostgreSQL read-only"
    what = "PostgreSQL killed and restarted" if kills else f"{where} for {one.fault:.0f} s"
    return Figure(
        f"{what} while a token ends, the provider answers after {one.answer:.0f} s",
        f"{twice} tokens sent twice, account {row['state']} and {'works' if works else 'does not work'}; {said}",
        "0 twice; it works" + (", or its answer was lost on the way" if is_late else ""),
        twice == 0 and (works or is_late),
    )


async def figures(scale: Scale) -> list[Figure]:
    """Both databases; PostgreSQL's faults are those of the whole server, so one after the other."""
    full = scale is Scale.FULL
    locked = (*FAST_AND_SLOW, *MORE, LATE, LONG) if full else FAST_AND_SLOW

    async def on_postgres() -> list[Figure]:
        async with postgres_server() as server:
            found = [await episode(one, server) for one in ((*FAST_AND_SLOW, *MORE) if full else FAST_AND_SLOW[:1])]
            return [*found, await episode(FAST_AND_SLOW[1], server, kills=True)] if full else found

    there = asyncio.create_task(on_postgres())
    here = [await asyncio.gather(*(episode(one, None) for one in locked[n : n + 3])) for n in range(0, len(locked), 3)]
    return [*(figure for some in here for figure in some), *await there]

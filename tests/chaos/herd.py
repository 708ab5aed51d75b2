"""Many calls at the moment of expiry, from several processes: one refresh at the provider, and every call is served."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.chaos.figures import Figure, Scale, quantile
from tests.chaos.world import World, fresh_store, open_world, postgres_server, strict_provider

PROVIDER_MS = 100.0  # how long the provider takes for a refresh


async def herd(world: World, *, processes: int, calls: int, rounds: int = 1) -> Figure:
    """Make `calls` exchanges at once at expiry, spread over the processes."""
    workers = await world.workers(processes)
    share = [calls // processes] * processes
    ok, refreshes, milliseconds = 0, 0, list[float]()
    for _ in range(rounds):
        before = len(await world.provider.refreshes())
        await world.provider.control("faults", endpoint="slack.token.refresh", kind="slow", seconds=PROVIDER_MS / 1000)
        await world.expire()
        answers = await asyncio.gather(
            *(worker.ask(exchange=count) for worker, count in zip(workers, share, strict=True))
        )
        ok += sum(answer["outcomes"].get("ok", 0) for answer in answers)
        milliseconds += [ms for answer in answers for ms in answer["ms"]]
        refreshes += len(await world.provider.refreshes()) - before
    where = "SQLite" if world.store.is_sqlite else "PostgreSQL"
    wanted = sum(share) * rounds
    p99 = quantile(milliseconds, 0.99)
    return Figure(
        f"{sum(share)} calls at expiry, {processes} process{'es' if processes > 1 else ''}, {where}",
        f"{refreshes / rounds:g} refresh, {ok} of {wanted} succeed, "
        f"p50 {quantile(milliseconds, 0.5):.0f} ms, p99 {p99:.0f} ms",
        f"1 refresh, all succeed, p99 at most {PROVIDER_MS + 1000:.0f} ms",
        refreshes == rounds and ok == wanted and p99 <= PROVIDER_MS + 1000 and await world.spent_twice() == 0,
    )


async def figures(scale: Scale) -> list[Figure]:
    """1, 2 and 4 processes on PostgreSQL, 1 and 2 on SQLite."""
    calls, rounds = (500, 3) if scale is Scale.FULL else (100, 1)
    found: list[Figure] = []
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(strict_provider())
        server = await stack.enter_async_context(postgres_server())
        for processes in (1, 2, 4):
            async with fresh_store(server) as store, open_world(store, provider) as world:
                found.append(await herd(world, processes=processes, calls=calls, rounds=rounds))
        for processes in (1, 2):
            async with fresh_store(None) as store, open_world(store, provider) as world:
                found.append(await herd(world, processes=processes, calls=calls, rounds=rounds))
    return found

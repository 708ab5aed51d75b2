"""A healthy provider with tokens that last 60 s, and calls at a steady rate: no caller waits for a refresh.

The vault counts the exchanges that had to wait.
"""

from __future__ import annotations

import asyncio
import sys

from tests.chaos.crowd import open_crowd
from tests.chaos.figures import Figure, Scale
from tests.chaos.world import Provider, Server, fresh_store, postgres_server, strict_provider


async def steady(
    provider: Provider, server: Server | None, *, life: int, lives: float, rate: float, connections: int
) -> Figure:
    """Run for this many token lifetimes at this rate of calls."""
    async with fresh_store(server) as store, open_crowd(store, provider) as crowd:
        await provider.control("lifetimes", face="slack", access=life)
        members = await crowd.add("slack", connections)
        await crowd.spread(members, life=life)
        worker = await crowd.worker()
        await worker.ask(load=connections / rate, rate=rate)  # everyone has called once
        before = await worker.ask(facts=True)
        sent_before = sum((await provider.control("tally"))["refreshes"].values())
        answer = await worker.ask(load=life * lives, rate=rate, random=True)
        waited = (await worker.ask(facts=True))["waits"] - before["waits"]
        sent = sum((await provider.control("tally"))["refreshes"].values()) - sent_before
        twice = await crowd.spent_twice()
    calls, ok = sum(answer["outcomes"].values()), answer["outcomes"].get("ok", 0)
    holds = waited == 0 and ok == calls and sent > 0 and twice == 0
    if not holds:
        print(answer, file=sys.stderr)
    where = "SQLite" if server is None else "PostgreSQL"
    return Figure(
        f"{connections} accounts, tokens of {life} s, {rate:.0f} calls/s at random for {life * lives:.0f} s, {where}",
        f"{waited} of {calls} calls waited for a refresh, {ok} ok, {sent} refreshes; "
        f"p50 {answer['p50']:.1f} ms, p99 {answer['p99']:.1f} ms, worst {answer['worst']:.0f} ms; "
        f"{twice} spent tokens presented",
        "0 wait, all ok, 0 spent",
        holds,
    )


async def figures(scale: Scale) -> list[Figure]:
    """Both databases at once, each with its own provider: neither is busy."""
    life, lives, connections = (60, 3.0, 40) if scale is Scale.FULL else (10, 0.6, 10)

    async def one(place: Server | None) -> Figure:
        async with strict_provider() as provider:
            return await steady(provider, place, life=life, lives=lives, rate=50.0, connections=connections)

    async with postgres_server() as server:
        return list(await asyncio.gather(one(server), one(None)))

"""Many connections in use, with short-lived tokens: how many tokens are expired although they are in use.

Every connection is called once in most of a token's life, because the product refreshes only what is in use. The number
of overdue tokens is read from the database every second. `--connections`, `--minutes`, and `--life` set the load.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass, field

import psutil

from tests.chaos.crowd import Crowd, open_crowd
from tests.chaos.figures import Figure, Scale, machine, table
from tests.chaos.world import Provider, Server, Worker, fresh_store, postgres_server, strict_provider

CALLED_EVERY = 0.7  # of a token's life
WARM_UP = 0.25  # of the whole time
DEBT = 0.01
GROWTH = 0.05
FILES = 20  # additional ones that are open, compared with after the warm-up

_DEBT = """
    select count(*) as due, min(access_expires_at) as oldest from connections
    where access_expires_at <= :now and ended_at is null
"""


@dataclass
class TokenSamples:
    """The samples of one run."""

    debts: list[float] = field(default_factory=list[float])
    worst_lag: int = 0
    memory: list[int] = field(default_factory=list[int])
    files: list[int] = field(default_factory=list[int])  # open file descriptors, including connections


@dataclass(frozen=True)
class Plan:
    """The size of one run."""

    connections: int
    life: int
    seconds: float
    processes: int = 1


async def _watch(crowd: Crowd, plan: Plan, workers: list[Worker], seen: TokenSamples) -> None:
    processes = [psutil.Process(worker.process.pid) for worker in workers]
    while True:
        await asyncio.sleep(1)
        now = crowd.database.now()
        row = await crowd.database.fetch_one(_DEBT, {"now": now})
        assert row is not None
        seen.debts.append(int(row["due"] or 0) / plan.connections)
        if row["oldest"] is not None:
            seen.worst_lag = max(seen.worst_lag, now - int(row["oldest"]))
        seen.memory.append(sum(process.memory_info().rss for process in processes))
        seen.files.append(sum(process.num_fds() for process in processes))


async def soak(provider: Provider, server: Server | None, plan: Plan) -> Figure:
    """Call all connections in turn for the planned time."""
    async with fresh_store(server) as store, open_crowd(store, provider) as crowd:
        await provider.control("reset")
        await provider.control("rotation", face="slack", mode="reuse_revokes_family")
        await provider.control("brief_books", entries=1000)
        await provider.control("lifetimes", face="slack", access=plan.life)
        members = await crowd.add("slack", plan.connections)
        workers = [await crowd.worker() for _ in range(plan.processes)]
        await provider.control("clock", advance=0)
        await crowd.spread(members, life=plan.life)
        seen, rate = TokenSamples(), plan.connections / (plan.life * CALLED_EVERY)
        watching = asyncio.create_task(_watch(crowd, plan, workers, seen))
        answers = await asyncio.gather(
            *(worker.ask(load=plan.seconds, rate=rate / plan.processes, first=number, step=plan.processes)
              for number, worker in enumerate(workers))
        )  # fmt: skip
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        counts = (await provider.control("tally"))["refreshes"]
        facts = [await worker.ask(facts=True) for worker in workers]
        twice = await crowd.spent_twice()
        busy = await _busy(crowd, workers)
    warm = int(len(seen.debts) * WARM_UP)
    debts, memory, files = seen.debts[warm:], seen.memory[warm:], seen.files[warm:]
    debt = sum(debts) / len(debts)
    edge = max(1, len(memory) // 10)
    growth = (sum(memory[-edge:]) / edge) / (sum(memory[:edge]) / edge) - 1
    first, last = max(files[:edge]), max(files[-edge:])
    calls = sum(sum(answer["outcomes"].values()) for answer in answers)
    ok = sum(answer["outcomes"].get("ok", 0) for answer in answers)
    waited = sum(one["waits"] for one in facts)
    refreshes = counts.get("rotated", 0)
    holds = debt < DEBT and growth < GROWTH and last <= first + FILES and twice == 0 and ok >= calls * 0.999
    if not holds:
        print(answers, counts, file=sys.stderr)
    where = "SQLite" if server is None else f"PostgreSQL, {plan.processes} process{'es' * (plan.processes > 1)}"
    return Figure(
        f"{plan.connections} connections in use, tokens of {plan.life} s, {plan.seconds / 60:g} min, {where}",
        f"debt {debt:.2%} on average, {max(debts):.2%} at worst, longest {seen.worst_lag} s; "
        f"{refreshes / plan.seconds:.0f} refreshes/s and {calls / plan.seconds:.0f} calls/s, {ok} of {calls} ok, "
        f"{waited} waited; memory {growth:+.1%} to {memory[-1] / 1e6:.0f} MB, "
        f"open files {first} and {last}; {twice} spent tokens presented; {busy}",
        f"debt below {DEBT:.0%}, memory below +{GROWTH:.0%}, no more files, 0 spent",
        holds,
    )


async def _busy(crowd: Crowd, workers: list[Worker]) -> str:
    """How much of a core each process used, which shows what the limit is."""
    ours = [psutil.Process(worker.process.pid) for worker in workers]
    seconds = sum(sum(process.cpu_times()[:2]) for process in ours)
    return f"{seconds:.0f} s of CPU in the vault"


async def figures(scale: Scale) -> list[Figure]:
    """Run both databases, at a load that two cores can carry next to the provider."""
    plan = Plan(2000, 30, 150.0) if scale is Scale.FULL else Plan(60, 12, 15.0)
    async with strict_provider() as provider, postgres_server() as server:
        return [await soak(provider, where, plan) for where in (server, None)]


async def _alone(plan: Plan, *, postgres: bool) -> Figure:
    async with strict_provider() as provider:
        if not postgres:
            return await soak(provider, None, plan)
        async with postgres_server() as server:
            return await soak(provider, server, plan)


def main() -> int:
    """One run of a chosen size."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--life", type=int, default=30, help="seconds that a token lives")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="instead of SQLite")
    given = parser.parse_args()
    plan = Plan(given.connections, given.life, given.minutes * 60, given.processes)
    figure = asyncio.run(_alone(plan, postgres=given.postgres))
    print(f"{machine()}\n\n{table([figure])}")
    return 0 if figure.holds else 1


if __name__ == "__main__":
    sys.exit(main())

"""A replica is stopped (SIGSTOP) while it writes: at random under load, and while it holds locks that all others need.
The test's own session locks the row, the replica queues for it and is stopped, and the session releases the lock: the
stopped replica gets it next.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.chaos.figures import Figure, Scale
from tests.chaos.processes.stalled_writer import SHARED
from tests.chaos.world import PATIENCE, ROOT, Server, Worker, environment, fresh_store, postgres_server
from tests.conftest import Store, first_run
from tests.support.processes import end
from vault.audit.proof import prove

KINDS = ["event", "change", "shared"]
STOPS = {Scale.FULL: 40, Scale.SMALL: 3}
STOPPED = 4.0  # seconds: longer than any lock may be held
MOST = 3.0  # seconds for which the others may be delayed
SEED = 11


@dataclass(frozen=True)
class StallOutcome:
    """The outcomes of the other processes while one was stopped."""

    ok: int
    refused: int
    slowest: float
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, answers: list[dict[str, Any]]) -> StallOutcome:
        return cls(
            sum(one["ok"] for one in answers),
            sum(one["refused"] for one in answers),
            max(one["slowest"] for one in answers),
            tuple(sorted({reason for one in answers for reason in one["reasons"]})),
        )

    def __str__(self) -> str:
        told = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"{self.ok} writes of the others, the slowest {self.slowest:.1f} s, {self.refused} refused{told}"


@asynccontextmanager
async def replicas(store: Store, count: int) -> AsyncGenerator[list[Worker]]:
    """Run this many processes of one vault."""
    await first_run(store)
    async with AsyncExitStack() as stack:
        started: list[Worker] = []
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.chaos.processes.stalled_writer", store.url, str(store.data),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment(),
            )  # fmt: skip
            stack.push_async_callback(end, process)
            started.append(Worker(process))
        for worker in started:
            assert worker.process.stdout is not None
            async with asyncio.timeout(PATIENCE):
                assert json.loads(await worker.process.stdout.readline()) == {"ready": True}
        yield started


@asynccontextmanager
async def stop_for_block(worker: Worker) -> AsyncGenerator[None]:
    """Stop the process for the block."""
    worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.process.send_signal(signal.SIGCONT)


async def is_whole(store: Store) -> bool:
    """Whether every stored event was appended correctly."""
    database = await store.open()
    try:
        await store.open_keys(database)
        return (await prove(database)).unkeyed_count == 0
    finally:
        await database.close()


async def at_random(store: Store, *, stops: int, kinds: list[str]) -> tuple[StallOutcome, StallOutcome]:
    """Stop one of three at random moments of its load; return the others' outcomes, and its own."""
    chance = random.Random(SEED)
    async with replicas(store, 3) as (victim, *others):
        seconds = stops * (STOPPED + 1.0)
        its = asyncio.create_task(victim.ask(load=seconds, kinds=kinds))
        theirs = [asyncio.create_task(other.ask(load=seconds, kinds=kinds)) for other in others]
        for _ in range(stops):
            await asyncio.sleep(chance.uniform(0.2, 0.8))
            async with stop_for_block(victim):
                await asyncio.sleep(STOPPED)
        return StallOutcome.of(list(await asyncio.gather(*theirs))), StallOutcome.of([await its])


LOCKS = {
    "the head of the activity, by an event that stands alone": ("event", "select height from event_heads for update"),
    "the head of the activity, by a transaction": ("change", "select height from event_heads for update"),
    "a row that all want, in the middle of a transaction": (
        "shared",
        "select spent from limits where bucket = '3600:stall:shared' for update",
    ),
}
assert SHARED == "stall:shared"


async def _wait_for_lock(connection: Any) -> None:
    sql = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with asyncio.timeout(PATIENCE):
        while not await connection.fetchval(sql):
            await asyncio.sleep(0.01)


async def force_stall(store: Store, kind: str, lock: str) -> tuple[StallOutcome, StallOutcome]:
    """Stop a replica that gets a lock while stopped; return the others' outcomes, and its own."""
    import asyncpg

    async with replicas(store, 2) as (victim, other):
        await victim.ask(load=0.1, kinds=[kind])  # the rows are there
        holder: Any = await asyncpg.connect(store.url)  # pyright: ignore[reportUnknownMemberType] -- no types
        try:
            await holder.execute("begin")
            await holder.execute(lock)
            its = asyncio.create_task(victim.ask(load=0.5, kinds=[kind]))
            await _wait_for_lock(holder)
            async with stop_for_block(victim):
                await holder.execute("commit")
                theirs = await other.ask(load=STOPPED, kinds=KINDS)
            return StallOutcome.of([theirs]), StallOutcome.of([await its, await victim.ask(load=0.3, kinds=[kind])])
        finally:
            await holder.close()


def _is_short(said: StallOutcome, own: StallOutcome) -> bool:
    return said.slowest <= MOST and not said.refused and bool(own.ok)


async def _random_figure(place: Server | None, *, scale: Scale) -> Figure:
    async with fresh_store(place) as store:
        stops = STOPS[scale]
        said, own = await at_random(store, stops=stops, kinds=KINDS)
        holds = _is_short(said, own) and await is_whole(store)
    return Figure(
        f"one of three replicas stopped {stops} times for {STOPPED:.0f} s, at random moments of its writes, PostgreSQL",
        f"{said}; its own: {own.ok} ok, {own.refused} refused when it woke",
        f"at most {MOST:.0f} s, none refused, the chain whole",
        holds,
    )


async def _forced_figures(place: Server) -> list[Figure]:
    figures: list[Figure] = []
    for what, (kind, lock) in LOCKS.items():
        async with fresh_store(place) as store:
            said, own = await force_stall(store, kind, lock)
            holds = _is_short(said, own) and await is_whole(store)
        figures.append(
            Figure(
                f"a replica stopped for {STOPPED:.0f} s that gets {what}, PostgreSQL",
                f"{said}; its own: {own.ok} ok, {own.refused} refused when it woke",
                f"at most {MOST:.0f} s, none refused, the chain whole",
                holds,
            )
        )
    return figures


async def _sqlite_figure(*, scale: Scale) -> Figure:
    """How a stopped process affects the others if a lock belongs to a file: measured, without a limit to meet."""
    chance = random.Random(SEED)
    held, stops = 0, STOPS[scale]
    async with fresh_store(None) as store:
        async with replicas(store, 2) as (victim, other):
            for _ in range(stops):
                its = asyncio.create_task(victim.ask(load=1.5, kinds=KINDS))
                await asyncio.sleep(chance.uniform(0.2, 0.8))
                async with stop_for_block(victim):
                    started = time.monotonic()
                    theirs = await other.ask(load=1.0, kinds=KINDS)
                    held += theirs["slowest"] > 1.0 or time.monotonic() - started > 2.0
                await its
        holds = await is_whole(store)
    return Figure(
        f"a process stopped {stops} times at random moments of its writes, SQLite",
        f"the other one waited until its writes were refused, or the process went on, in {held} of {stops} stops",
        "told, not bounded: the chain whole",
        holds,
    )


async def figures(scale: Scale) -> list[Figure]:
    """PostgreSQL, at random moments and with a held lock; then SQLite."""
    async with postgres_server() as server:
        found = [await _random_figure(server, scale=scale), *await _forced_figures(server)]
    return [*found, await _sqlite_figure(scale=scale)]

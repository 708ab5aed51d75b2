"""The storage fails under load: calls are refused with 503, work again soon afterward, and nothing is lost.

The token expires just before each fault, so that refreshes happen during it.
"""

from __future__ import annotations

import asyncio
import math
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.chaos.figures import Figure, Scale
from tests.chaos.world import Server, World, fresh_store, open_world, postgres_server, strict_provider
from tests.support.processes import end

RATE = 25.0  # calls per second and process
RECOVERY = 5.0  # seconds after the fault until every call must succeed again
SMALLEST_FILE = 4096  # bytes
BEFORE, AFTER = 1.0, 7.0  # seconds of load around the fault

_HOLD = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
held.execute("begin immediate")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
held.execute("rollback")
"""

_CUT = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name <> 'aside'
"""


@dataclass
class Span:
    """When the fault ended, in seconds since the epoch, and what happened meanwhile."""

    ended: float = 0.0
    sent: int = 0  # refreshes that the provider saw meanwhile


Fault = Callable[[World], Awaitable[None]]


async def under(
    world: World,
    name: str,
    fault: Fault | None,
    *,
    processes: int = 2,
    seconds: float,
    after: float = AFTER,
    pragmas: list[list[object]] | None = None,
    may_send: bool = True,
    expires_after: int = -1,
) -> Figure:
    """Cause one fault of about `seconds` under load; return what happened to the calls and the account."""
    workers = await world.workers(processes)
    await asyncio.gather(*(worker.ask(exchange=5) for worker in workers))
    span = Span()
    whole = BEFORE + seconds + after
    started = time.time()
    running = [asyncio.create_task(worker.ask(load=whole, rate=RATE, pragmas=pragmas or [])) for worker in workers]
    await asyncio.sleep(BEFORE)
    await world.expire(after=expires_after)
    world.sent_before = len(await world.provider.refreshes())
    if fault is None:
        await asyncio.sleep(seconds)
    else:
        await fault(world)
    span.sent = len(await world.provider.refreshes()) - world.sent_before
    span.ended = time.time() if fault is not None else started + float(str((pragmas or [[0]])[-1][0]))
    answers = await asyncio.gather(*running)
    return await _judge(world, name, answers, span=span, may_send=may_send)


async def _judge(world: World, name: str, answers: list[dict[str, Any]], *, span: Span, may_send: bool) -> Figure:
    outcomes = Counter[str]()
    for answer in answers:
        outcomes.update(answer["outcomes"])
    late = [at - span.ended for answer in answers for at in answer["bad_at"] if at > span.ended]
    recovered = max(late, default=0.0)
    slowest = max(answer["slowest_refusal"] for answer in answers) / 1000
    twice, row = await world.spent_twice(), await world.row()
    foreign = {code for code in outcomes if code not in {"ok", "503"}}
    holds = (
        not foreign
        and outcomes["ok"] > 0
        and recovered <= RECOVERY
        and twice == 0
        and row["state"] == "active"
        and (may_send or span.sent == 0)
    )
    if not holds:
        print([(answer["outcomes"], answer["reasons"]) for answer in answers], file=sys.stderr)
    said = ", ".join(f"{count} {code}" for code, count in sorted(outcomes.items()))
    sent = "" if may_send else f", {span.sent} refreshes sent meanwhile"
    return Figure(
        name,
        f"{said}; every call succeeds {recovered:.1f} s after it, slowest refusal {slowest:.1f} s{sent}; "
        f"{twice} spent tokens presented, account {row['state']}",
        f"only ok and 503, at most {RECOVERY:.0f} s, 0 spent, active" + ("" if may_send else ", 0 sent"),
        holds,
    )


def restart(server: Server) -> Fault:
    """PostgreSQL is killed and started."""

    async def work(world: World) -> None:
        await asyncio.to_thread(server.restart)

    return work


def freeze(server: Server, seconds: float) -> Fault:
    """Stop all of PostgreSQL's processes, and let them continue later."""

    async def work(world: World) -> None:
        postmaster = server.process()
        stopped = [postmaster, *postmaster.children(recursive=True)]
        try:
            for process in stopped:
                process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
        finally:
            for process in reversed(stopped):
                process.send_signal(signal.SIGCONT)

    return work


def cut(seconds: float) -> Fault:
    """Close every connection of the workers repeatedly."""

    async def work(world: World) -> None:
        until = time.monotonic() + seconds
        async with _aside(world) as connection:
            while time.monotonic() < until:
                await connection.execute(_CUT)
                await asyncio.sleep(0.2)

    return work


def crowd_out(seconds: float) -> Fault:
    """Another program takes every connection that the server has, including those of the workers.

    Time counts once the server has none left, because taking them is slow on a busy machine.
    """

    async def work(world: World) -> None:
        import asyncpg

        until = math.inf
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(_aside(world))
            while time.monotonic() < until:
                try:
                    await stack.enter_async_context(_aside(world))
                except asyncpg.TooManyConnectionsError:
                    until = min(until, time.monotonic() + seconds)
                    # connections that become free are taken in the next turn, by us or by the workers
                    await ours.execute(_CUT)
                    await asyncio.sleep(0.02)

    return work


def demote(seconds: float) -> Fault:
    """The server accepts no writes, like one that a failover made a replica; open connections stay open."""

    async def work(world: World) -> None:
        async with _aside(world) as connection:
            for value in ("on", "off"):
                await connection.execute(f"alter system set default_transaction_read_only = {value}")
                await connection.execute("select pg_reload_conf()")
                await asyncio.sleep(seconds if value == "on" else 0)

    return work


@asynccontextmanager
async def _aside(world: World) -> AsyncGenerator[Any]:
    """A connection that isn't the vault's."""
    import asyncpg

    settings = {"application_name": "aside", "default_transaction_read_only": "off"}
    connection = await asyncpg.connect(world.store.url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


def lock(seconds: float) -> Fault:
    """Another process holds the file's write lock."""

    async def work(world: World) -> None:
        async with lock_holder(str(world.store.data / "vault.sqlite"), seconds) as process:
            await asyncio.sleep(0.3)  # earlier claims have been answered, and none can be made now
            world.sent_before = len(await world.provider.refreshes())
            await process.wait()

    return work


def full_disk(seconds: float) -> Fault:
    """The kernel lets the workers write only a few bytes per file (RLIMIT_FSIZE): neither database nor journal."""

    async def work(world: World) -> None:
        limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in world.pids}
        for pid, (_, hard) in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (SMALLEST_FILE, hard))
        try:
            await asyncio.sleep(0.3)  # answers in transit have arrived
            world.sent_before = len(await world.provider.refreshes())
            await world.expire()
            await asyncio.sleep(seconds)
        finally:
            for pid, limit in limits.items():
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)

    return work


@asynccontextmanager
async def lock_holder(path: str, seconds: float) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process that holds the write lock of a SQLite file."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLD, path, str(seconds), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        await end(process)


async def figures(scale: Scale) -> list[Figure]:
    """Try each storage fault, on PostgreSQL and on SQLite."""
    full = scale is Scale.FULL
    found: list[Figure] = []
    frozen, cutting, locked, dead = (30.0, 5.0, 10.0, 5.0) if full else (2.0, 1.0, 1.0, 1.0)
    async with strict_provider() as provider:
        async with postgres_server() as server:
            for name, fault, seconds in (
                ("PostgreSQL killed and restarted", restart(server), 2.0),
                (f"PostgreSQL frozen for {frozen:.0f} s", freeze(server, frozen), frozen),
                (f"PostgreSQL connections cut for {cutting:.0f} s", cut(cutting), cutting),
                (f"PostgreSQL without a free connection for {dead:.0f} s", crowd_out(dead), dead),
                (f"PostgreSQL read-only for {dead:.0f} s", demote(dead), dead),
            ):
                async with fresh_store(server) as store, open_world(store, provider) as world:
                    found.append(await under(world, name, fault, seconds=seconds))
        async with fresh_store(None) as store, open_world(store, provider) as world:
            name = f"SQLite locked for {locked:.0f} s by another process"
            after = 4 if full else -1  # the token expires while the file is locked
            found.append(await under(world, name, lock(locked), seconds=locked, may_send=False, expires_after=after))
        for what, on, off in (
            ("read-only", "pragma query_only = on", "pragma query_only = off"),
            ("full", "pragma vault.max_page_count = 1", "pragma vault.max_page_count = 1000000"),
        ):
            async with fresh_store(None) as store, open_world(store, provider) as world:
                pragmas: list[list[object]] = [[BEFORE - 0.5, on], [BEFORE + dead + 0.5, off]]
                figure = await under(
                    world, f"SQLite {what} for {dead:.0f} s", None, processes=1, seconds=dead, pragmas=pragmas,
                    may_send=what == "full",
                )  # fmt: skip
                found.append(figure)
        async with fresh_store(None) as store, open_world(store, provider) as world:
            name = f"SQLite and journal on a disk that takes no more for {dead:.0f} s"
            found.append(await under(world, name, full_disk(dead), seconds=dead, may_send=False))
    return found

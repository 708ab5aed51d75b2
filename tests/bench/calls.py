"""Calls of each era over each transport, and of the official clients, compared with the bare MCP server.

    python -m tests.bench.calls [--postgres] [--rounds N] [--calls N]

It works like `python -m tests.bench`, in more and shorter rounds, so that other work on the machine affects both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import psutil

from tests.bench import messages, sdk_clients, streams
from tests.bench.load import drive
from tests.bench.million import postgres
from tests.bench.rounds import Pair, Way, compare
from tests.bench.servers.contenders import (
    CONNECTIONS,
    LOAD_CORE,
    Contender,
    add_to,
    ending,
    free_port,
    start_bare,
    start_upstream,
    start_vault,
    wait_for,
)
from tests.bench.servers.vault import DATABASE
from tests.bench.tables import Row, print_ratios

WANTED, WANTED_ON_POSTGRES = 1.15, 1.35


def raw(contender: Contender, make: Callable[[int], bytes]) -> Way:
    """Requests over HTTP on connections that stay open."""

    async def send(calls: int) -> tuple[float, ...]:
        run = await drive(contender.port, connections=CONNECTIONS, calls=calls, token=None, make=make)
        return run.latencies

    return Way(send, contender.cpu_seconds)


def raw_pairs(bare: Contender, vault: Contender, wanted: float) -> dict[str, Pair]:
    """Each era and spelling over HTTP."""

    def way(contender: Contender, era: str) -> Way:
        return raw(contender, messages.over_http(contender, era))

    return {f"HTTP, {era}": Pair(way(bare, era), way(vault, era), wanted) for era in messages.ERAS}


async def stream_pairs(
    stack: AsyncExitStack, folder: Path, upstream: int, bare: Contender, vault: Contender
) -> dict[str, Pair]:
    """stdio and HTTP+SSE."""
    found: dict[str, Pair] = {}
    for era, is_modern in (("2025-11-25", False), ("2026-07-28", True)):
        port = str(free_port())
        theirs = await stack.enter_async_context(streams.stdio("tests.bench.servers.bare", "0", str(upstream), "stdio"))
        ours = await stack.enter_async_context(
            streams.stdio("tests.bench.servers.vault", port, str(upstream), str(folder / era), "stdio")
        )
        found[f"stdio, {era}"] = Pair(
            await theirs.way(is_modern=is_modern), await ours.way(is_modern=is_modern), WANTED
        )
    theirs = await stack.enter_async_context(streams.sse(bare))
    ours = await stack.enter_async_context(streams.sse(vault))
    found["HTTP+SSE, 2025-11-25"] = Pair(await theirs.way(is_modern=False), await ours.way(is_modern=False), WANTED)
    return found


async def client_pairs(stack: AsyncExitStack, bare: Contender, vault: Contender) -> dict[str, Pair]:
    """The official clients over HTTP."""
    found: dict[str, Pair] = {}
    for era, mode in (("2026-07-28", "2026-07-28"), ("2025-11-25", "legacy")):
        both = [await stack.enter_async_context(sdk_clients.python(one, mode=mode)) for one in (bare, vault)]
        found[f"Python client, {era}"] = Pair(both[0], both[1], WANTED)
    if sdk_clients.has_node():
        both = [await stack.enter_async_context(sdk_clients.typescript(one)) for one in (bare, vault)]
        found["TypeScript client, 2025-11-25"] = Pair(both[0], both[1], WANTED)
    return found


async def measure(folder: Path, *, on_postgres: bool, rounds: int, calls: int) -> Mapping[str, Row]:
    """Start everything, compare, and stop it."""
    with ending() as running:
        upstream = start_upstream(running)
        bare, vault = add_to(running, start_bare(upstream)), add_to(running, start_vault(folder, upstream))
        sse_bare = add_to(running, start_bare(upstream, "sse"))
        for contender in (bare, sse_bare, vault):
            wait_for(contender.port, contender.process)
        async with AsyncExitStack() as stack:
            if on_postgres:
                pairs = raw_pairs(bare, vault, WANTED_ON_POSTGRES)
            else:
                pairs = raw_pairs(bare, vault, WANTED)
                pairs |= await stream_pairs(stack, folder, upstream, sse_bare, vault)
                pairs |= await client_pairs(stack, bare, vault)
            found = await compare(pairs, rounds=rounds, calls=calls)
            if on_postgres:
                print(f"PostgreSQL's own time: {await own_time(folder, vault, rounds * calls):.0f} us a call")
            return found


async def own_time(folder: Path, vault: Contender, calls: int) -> float:
    """Microseconds of all of PostgreSQL's processes, for each of so many calls."""
    postmaster = psutil.Process(int((folder / "pg/data/postmaster.pid").read_text(encoding="utf-8").split()[0]))

    def seconds() -> float:
        running = sum(sum(one.cpu_times()[:2]) for one in postmaster.children(recursive=True))
        return running + sum(postmaster.cpu_times()[:4])  # its own, and of its processes that ended

    before = seconds()
    await raw(vault, messages.over_http(vault, "2026-07-28")).send(calls)
    return (seconds() - before) / calls * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200, help="calls per server, row, and round")
    parser.add_argument("--postgres", action="store_true", help="the vault on PostgreSQL, whose time is not counted")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        if options.postgres:
            (folder / "pg").mkdir(mode=0o700)
            os.environ[DATABASE] = stack.enter_context(postgres(folder / "pg")).get_uri()
        found = asyncio.run(measure(folder, on_postgres=options.postgres, rounds=options.rounds, calls=options.calls))
    store = "PostgreSQL, its own time not counted" if options.postgres else "SQLite"
    print_ratios(f"Calls on {store}; CPU us each, {options.rounds} rounds of {options.calls}, 8 in flight", found)
    if not options.postgres and not sdk_clients.has_node():
        print("TypeScript client: not run, needs make node")


if __name__ == "__main__":
    main()

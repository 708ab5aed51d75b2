"""Drive the contenders in turn, and print CPU per call, ratios, and where our time goes.

    python -m tests.bench [proxy] [--rounds N] [--calls N] [--json]

With `proxy`, the calls go through the vault's proxy and are compared with a bare pass-through proxy. The load and the
upstream run on the last core, the server under test on the first. Ratios are taken within each round, and their median
is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.load import Run, drive, proxied_bytes
from tests.bench.servers.contenders import (
    CONNECTIONS,
    CORES,
    LOAD_CORE,
    Contender,
    add_to,
    ending,
    start_bare,
    start_fast,
    start_passing,
    start_upstream,
    start_vault,
    wait_for,
)
from tests.bench.tables import gate, keep, p99_ms, table_heading

# ours over each other server, in CPU time per call
WANTED = {"bare MCP server": 1.15, "FastMCP + JWTVerifier": 0.60, "bare pass-through proxy": 1.5}
WANTED_MEMORY = 1.5  # our memory over a bare server's after all the calls


Rows = dict[str, list[tuple[float, float, float]]]  # by server: CPU us per call, calls per second, p99 ms


@dataclass(frozen=True, slots=True)
class Facts:
    """Medians of one server, and the ratio of our CPU time per call to its."""

    cpu_us: float
    per_second: float
    p99: float
    ratio: float
    span: tuple[float, float]


async def load(contender: Contender, calls: int) -> Run:
    """Drive the contender with the calls that it serves."""
    path = contender.path
    if path is None:
        return await drive(contender.port, connections=CONNECTIONS, calls=calls, token=contender.token)
    request = proxied_bytes(contender.port, path, token=contender.token or "")
    return await drive(contender.port, connections=CONNECTIONS, calls=calls, token=None, make=lambda _: request)


async def measure(contender: Contender, calls: int) -> tuple[float, float, float]:
    """Return (CPU us per call, calls per second, p99 ms) of one round."""
    before = contender.cpu_seconds()
    run = await load(contender, calls)
    used = contender.cpu_seconds() - before
    done = len(run.latencies)
    return used / done * 1e6, done / run.seconds, p99_ms(run.latencies)


async def take_apart(contender: Contender, counts: Path, calls: int) -> dict[str, float]:
    """Return CPU us per call by package, and the total of all threads except the main one."""
    wait_for(contender.port, contender.process)
    await measure(contender, 400)
    contender.process.send_signal(signal.SIGUSR1)
    before, before_main = contender.cpu_seconds(), contender.main_thread_seconds()
    run = await load(contender, calls)
    used, used_main = contender.cpu_seconds() - before, contender.main_thread_seconds() - before_main
    contender.process.send_signal(signal.SIGUSR1)
    for _ in range(100):
        if counts.exists() and counts.stat().st_size:
            break
        await asyncio.sleep(0.05)
    found: dict[str, int] = json.loads(counts.read_text(encoding="utf-8"))
    done, samples = len(run.latencies), sum(found.values())
    parts = {name: used_main / done * 1e6 * count / samples for name, count in found.items()}
    return parts | {"database thread": (used - used_main) / done * 1e6}


def print_where(parts: dict[str, dict[str, float]]) -> None:
    """Print one row per package and one column per server."""
    print(
        "\nWhere the time goes, CPU us per call (samples of other runs; the standard library counts for its caller)\n"
    )
    print(f"{'':<18}" + "".join(f"{server:>18}" for server in parts))
    names = {name for found in parts.values() for name in found}
    for name in sorted(names, key=lambda name: -max(found.get(name, 0) for found in parts.values())):
        print(f"{name:<18}" + "".join(f"{found.get(name, 0):>18.0f}" for found in parts.values()))


def report(rows: Rows, ours: str) -> dict[str, Facts]:
    """Compute medians and ratios."""
    out: dict[str, Facts] = {}
    for name, rounds in rows.items():
        ratios = [mine[0] / other[0] for mine, other in zip(rows[ours], rounds, strict=True)]
        cpu_us, per_second, p99 = (statistics.median(one[place] for one in rounds) for place in range(3))
        out[name] = Facts(cpu_us, per_second, p99, statistics.median(ratios), (min(ratios), max(ratios)))
    return out


async def compare(
    folder: Path, upstream: int, processes: list[subprocess.Popen[str]], *, calls: int, is_proxy: bool
) -> dict[str, dict[str, float]]:
    """Profile the bare server and ours in separate processes, because counting costs time."""
    parts: dict[str, dict[str, float]] = {}
    bare_counts, our_counts, own = folder / "bare.json", folder / "ours.json", folder / "apart"
    own.mkdir()
    bare = (start_passing if is_proxy else start_bare)(upstream, counts=bare_counts)
    processes.append(bare.process)
    ours = start_vault(own, upstream, counts=our_counts, is_proxy=is_proxy)
    processes.append(ours.process)
    for contender, counts in ((bare, bare_counts), (ours, our_counts)):
        parts[contender.name] = await take_apart(contender, counts, calls)
    return parts


async def drive_in_turn(contenders: Sequence[Contender], *, rounds: int, calls: int) -> Rows:
    """Return each server's figures by round."""
    for contender in contenders:
        wait_for(contender.port, contender.process)
        await measure(contender, 400)
    rows: Rows = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            rows[contender.name].append(await measure(contender, calls))
    return rows


def print_table(title: str, rows: Rows, ours: str, memory: dict[str, int]) -> None:
    """Print medians, and ours over each other server's."""
    print(table_heading(title))
    print(f"{'server':<24}{'CPU us/call':>12}{'calls/s':>9}{'p99 ms':>8}{'MB':>6}   ours over this      wanted")
    for name, facts in report(rows, ours).items():
        low, high = facts.span
        ratio = f"{facts.ratio:.2f}x ({low:.2f}-{high:.2f})"
        shown = "" if name == ours else f"   {ratio:<20}{gate(facts.ratio, WANTED[name])}"
        figures = f"{facts.cpu_us:>12.0f}{facts.per_second:>9.0f}{facts.p99:>8.1f}{memory[name]:>6}"
        print(f"{name:<24}{figures}{shown}")
        if name != ours:
            keep(f"A call: over {name}", facts.ratio, WANTED[name])
        if name.startswith("bare"):
            keep(f"Memory after the calls: over {name}", memory[ours] / memory[name], WANTED_MEMORY)


async def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["tools", "proxy"], default="tools")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000, help="calls per contender and round")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    is_proxy = chosen.what == "proxy"
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as name, ending() as processes:
        upstream = start_upstream(processes)
        contenders = [add_to(processes, (start_passing if is_proxy else start_bare)(upstream))]
        if not is_proxy:
            contenders.append(add_to(processes, start_fast(Path(name), upstream)))
        ours = add_to(processes, start_vault(Path(name), upstream, is_proxy=is_proxy))
        contenders.append(ours)
        rows = await drive_in_turn(contenders, rounds=chosen.rounds, calls=chosen.calls)
        memory = {contender.name: round(contender.memory_mb()) for contender in contenders}
        where_it_goes = await compare(Path(name), upstream, processes, calls=2 * chosen.calls, is_proxy=is_proxy)
    if chosen.json:
        found = {name: asdict(facts) for name, facts in report(rows, ours.name).items()}
        print(json.dumps({"contenders": found, "memory_mb": memory, "where": where_it_goes}, indent=2))
        return
    kind = "through the proxy" if is_proxy else "MCP 2026-07-28, JSON answers"
    load = f"{chosen.rounds} rounds of {chosen.calls} calls over {CONNECTIONS} connections"
    print_table(f"{load}, {kind}, SQLite, {len(CORES)} cores", rows, ours.name, memory)
    print_where(where_it_goes)


if __name__ == "__main__":
    asyncio.run(main())

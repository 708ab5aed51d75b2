"""What a call costs in a vault with 1,000, 100,000 and 1,000,000 connections, beside one with a single one.

    python -m tests.bench.curve [--connections 1000 100000 1000000] [--rounds N] [--calls N]

One connection and two grants per person; the calls are those of up to 500 of them. A ratio is taken within its round.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

from tests.bench.__main__ import CORES, free_port, start, wait_for
from tests.bench.people import measure, start_with
from tests.bench.tables import print_ratios

WANTED = 1.15  # of a vault with one connection


def main() -> None:
    """Fill, start, compare, end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=400)
    options = parser.parse_args()
    os.sched_setaffinity(0, {CORES[-1]})
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        upstream = free_port()
        running = [start("tests.bench.upstream", str(upstream), core=CORES[-1])]
        try:
            wait_for(upstream, running[0])
            vaults = [start_with(size, Path(name) / str(size), upstream) for size in (0, *options.connections)]
            for contender, _ in vaults:
                running.append(contender.process)
                wait_for(contender.port, contender.process)
            found: dict[str, list[tuple[float, float]]] = {f"{size:,} connections": [] for size in options.connections}

            async def rounds() -> None:
                for number in range(-1, options.rounds):
                    turn = list(enumerate(vaults))[:: 1 if number % 2 else -1]
                    calls = 1000 if number < 0 else options.calls
                    used = {place: await measure(vault, tokens, calls) for place, (vault, tokens) in turn}
                    for place, title in enumerate(found, start=1):
                        if number >= 0:
                            found[title].append((used[0], used[place]))

            asyncio.run(rounds())
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(timeout=60)
    rows = {title: (pairs, WANTED) for title, pairs in found.items()}
    print_ratios("Cost over size: CPU us per call", rows, columns=("one", "this"))


if __name__ == "__main__":
    main()

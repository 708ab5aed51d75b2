"""What a call costs in a vault with 1,000, 100,000, and 1,000,000 connections, compared with one connection.

    python -m tests.bench.curve [--connections 1000 100000 1000000] [--rounds N] [--calls N]

Each person has one connection and two grants; up to 500 of them make calls.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.people import start_with
from tests.bench.rounds import Pair, Way, compare
from tests.bench.servers.contenders import LOAD_CORE, ending, start_upstream
from tests.bench.tables import print_ratios

WANTED = 1.15  # the wanted ratio to a vault with one connection


def _start(size: int, folder: Path, upstream: int, running: list[subprocess.Popen[str]]) -> Way:
    """Fill and start a vault; print how long that took and how large it is."""
    began = time.monotonic()
    way = start_with(size, folder, upstream, running)
    used = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file()) / 2**20
    print(f"{size:,} people: {used:,.0f} MiB on disk, ready after {time.monotonic() - began:,.0f} s", flush=True)
    return way


def main() -> None:
    """Fill, start, compare, and stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.curve", description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=400, help="calls per vault and round")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    sizes: list[int] = options.connections
    with tempfile.TemporaryDirectory(dir="/tmp") as name, ending() as running:
        upstream = start_upstream(running)
        one, *many = (_start(size, Path(name) / str(size), upstream, running) for size in (0, *sizes))
        pairs = {f"{size:,} connections": Pair(one, way, WANTED) for size, way in zip(sizes, many, strict=True)}
        found = asyncio.run(compare(pairs, rounds=options.rounds, calls=options.calls, warm_up=500))
    print_ratios("Cost over size: CPU us per call, SQLite", found, columns=("one", "this"))


if __name__ == "__main__":
    main()

"""Compare calls in a vault with many people with calls in a vault of one person, in the same rounds.

    python -m tests.bench.people [--rounds N] [--calls N]

Up to 500 people make the calls, each with their own account and agent token.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.calls import raw
from tests.bench.load import request_bytes
from tests.bench.rounds import Pair, Way, compare
from tests.bench.servers.contenders import LOAD_CORE, ending, start_upstream, start_vault, wait_for
from tests.bench.servers.vault import PEOPLE
from tests.bench.tables import print_ratios

SIZES = (500, 100_000)
WANTED = 1.10


def start_with(people: int, folder: Path, upstream: int, running: list[subprocess.Popen[str]]) -> Way:
    """Start a vault with this many more people, some hundred of whom call in turn."""
    os.environ[PEOPLE] = str(people)
    folder.mkdir()
    contender = start_vault(folder, upstream)
    running.append(contender.process)
    assert contender.process.stdout is not None
    contender.process.stdout.readline()  # the proxy's path
    tokens: Sequence[str] = contender.process.stdout.readline().split()
    wait_for(contender.port, contender.process)
    sent = itertools.count()

    def make(number: int) -> bytes:
        return request_bytes(contender.port, number, token=tokens[next(sent) % len(tokens)])

    return raw(contender, make)


def main() -> None:
    """Fill, start, compare, and stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.people", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=400, help="calls per vault and round")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(dir="/tmp") as name, ending() as running:
        upstream = start_upstream(running)
        one, *many = (start_with(people, Path(name) / str(people), upstream, running) for people in (0, *SIZES))
        pairs = {f"{size:,} people": Pair(one, way, WANTED) for size, way in zip(SIZES, many, strict=True)}
        found = asyncio.run(compare(pairs, rounds=options.rounds, calls=options.calls, warm_up=1000))
    title = f"Many people: CPU us per call, SQLite; {options.rounds} rounds of {options.calls}"
    print_ratios(title, found, columns=("1 person", "people"))


if __name__ == "__main__":
    main()

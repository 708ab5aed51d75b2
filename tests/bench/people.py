"""Compares calls in a vault with many people with those in a vault of one person, in the same rounds.

    python -m tests.bench.people [--rounds N] [--calls N]

The calls are those of up to 500 people, each with an account and an agent's token of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.__main__ import CONNECTIONS, CORES, Contender, free_port, start, start_vault, wait_for
from tests.bench.load import drive, request_bytes
from tests.bench.tables import print_ratios
from tests.bench.vaulted import PEOPLE

SIZES = (500, 100_000)
WANTED = 1.10


def start_with(people: int, folder: Path, upstream: int) -> tuple[Contender, Sequence[str]]:
    """A vault with so many people beside the first, and the tokens of those who call."""
    os.environ[PEOPLE] = str(people)
    folder.mkdir()
    contender = start_vault(folder, upstream, core=CORES[0])
    assert contender.process.stdout is not None
    contender.process.stdout.readline()  # the path of the proxy
    tokens = contender.process.stdout.readline().split()
    return contender, tokens


async def measure(contender: Contender, tokens: Sequence[str], calls: int) -> float:
    """CPU us per call."""

    def make(number: int) -> bytes:
        return request_bytes(contender.port, number, token=tokens[number % len(tokens)])

    before = contender.cpu_seconds()
    run = await drive(contender.port, connections=CONNECTIONS, calls=calls, token=None, make=make)
    return (contender.cpu_seconds() - before) / len(run.latencies) * 1e6


async def compare(
    vaults: Sequence[tuple[Contender, Sequence[str]]], *, rounds: int, calls: int
) -> dict[str, list[tuple[float, float]]]:
    """Figures of the vault with one person and of each other, by round; the first round only warms up."""
    found: dict[str, list[tuple[float, float]]] = {f"{size:,} people": [] for size in SIZES}
    for number in range(-1, rounds):
        turn = list(enumerate(vaults))[:: 1 if number % 2 else -1]
        used = {place: await measure(vault, tokens, 1000 if number < 0 else calls) for place, (vault, tokens) in turn}
        for place, name in enumerate(found, start=1):
            if number >= 0:
                found[name].append((used[0], used[place]))
    return found


def main() -> None:
    """Fill, start, compare, end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=400)
    options = parser.parse_args()
    os.sched_setaffinity(0, {CORES[-1]})
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        upstream = free_port()
        running = [start("tests.bench.upstream", str(upstream), core=CORES[-1])]
        try:
            wait_for(upstream, running[0])
            vaults = [start_with(people, Path(name) / str(people), upstream) for people in (0, *SIZES)]
            for contender, _ in vaults:
                running.append(contender.process)
                wait_for(contender.port, contender.process)
            found = asyncio.run(compare(vaults, rounds=options.rounds, calls=options.calls))
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(timeout=30)
    rows = {name: (each, WANTED) for name, each in found.items()}
    print_ratios("Many people: CPU us per call", rows, columns=("1 person", "people"))


if __name__ == "__main__":
    main()

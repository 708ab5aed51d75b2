"""Tables of ratios: what both contenders took in each round, the wanted ratio, and whether it was met."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = "BENCH_RESULTS"  # a file that gets each figure with its gate, for one table at the end


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: the other contender's figure and ours in each round, and the wanted ratio.

    `seconds`: how long each call took, theirs and ours; empty if nothing is called.
    """

    wanted: float
    rounds: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


def table_heading(title: str) -> str:
    """What was measured, when, and how busy the machine was."""
    when = f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    return f"\n{title}\n{when}\n"


def p99_ms(seconds: Sequence[float]) -> float:
    """The 99th percentile in ms."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1e3


def keep(name: str, figure: float, wanted: float, unit: str = "x") -> None:
    """Store a figure that has a gate for the table at the end of `make bench`."""
    if os.environ.get(RESULTS):
        with Path(os.environ[RESULTS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "figure": figure, "wanted": wanted, "unit": unit}) + "\n")


def gate(ratio: float, wanted: float) -> str:
    """The wanted ratio, and whether it was met."""
    return f"{wanted:.2f}  {'held' if ratio <= wanted else 'MISSED'}"


def print_ratios(
    title: str, rows: Mapping[str, Row], *, columns: tuple[str, str] = ("bare", "vault"), digits: int = 0
) -> None:
    """Print one table: each row's medians, its median ratio with extremes, its gate, and both 99th percentiles.

    The ratios are stored under the title's first words and the row's name.
    """
    print(table_heading(title))
    print(f"{'':<34}{columns[0]:>10}{columns[1]:>10}   {'ratio (min-max)':<22}{'wanted':<14}p99 ms of both")
    for name, row in rows.items():
        ratios = [ours / theirs for theirs, ours in row.rounds]
        theirs, ours = (statistics.median(one[place] for one in row.rounds) for place in (0, 1))
        middle = statistics.median(ratios)
        keep(f"{re.split('[,:;]', title)[0]}: {name}", middle, row.wanted)
        span = f"{middle:.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        slowest = ", ".join(f"{p99_ms(one):.1f}" for one in row.seconds if one)
        print(
            f"{name:<34}{theirs:>10.{digits}f}{ours:>10.{digits}f}   {span:<22}{gate(middle, row.wanted):<14}{slowest}"
        )

"""The result of a scenario: a promise, the measured value, and whether it holds."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Scale(StrEnum):
    """The size of a scenario: SMALL fits the suite, FULL is `make chaos`."""

    SMALL = "small"
    FULL = "full"


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    measured: str
    wanted: str
    holds: bool


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values doesn't exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def machine() -> str:
    """Where and when this ran, without the machine's name."""
    cores = os.cpu_count()
    today = datetime.now(UTC).date().isoformat()
    return f"{today}, {platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}"


def table(figures: Sequence[Figure]) -> str:
    """The figures as Markdown."""
    lines = ["| what | measured | wanted | |", "| --- | --- | --- | --- |"]
    lines += [f"| {one.what} | {one.measured} | {one.wanted} | {'yes' if one.holds else '**NO**'} |" for one in figures]
    return "\n".join(lines)

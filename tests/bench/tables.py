"""Tables of ratios: what both contenders took in each round, what is wanted of the ratio, and whether that held."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

Rounds = Sequence[tuple[float, float]]  # the bare server's figure and ours, by round


def print_ratios(
    title: str,
    rows: Mapping[str, tuple[Rounds, float]],
    *,
    columns: tuple[str, str] = ("bare", "vault"),
    digits: int = 0,
) -> None:
    """One table: the medians of each row, the median ratio with its extremes, and its gate."""
    print(f"\n{title}")
    print(f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")
    print(f"{'':<40}{columns[0]:>10}{columns[1]:>10}   ratio (min-max)        wanted")
    for name, (rounds, wanted) in rows.items():
        ratios = [ours / theirs for theirs, ours in rounds]
        theirs, ours = (statistics.median(one[place] for one in rounds) for place in (0, 1))
        middle = statistics.median(ratios)
        span = f"{middle:.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        held = "held" if middle <= wanted else "missed"
        print(f"{name:<40}{theirs:>10.{digits}f}{ours:>10.{digits}f}   {span:<22} {wanted:.2f}  {held}")

"""Runs the groups one after the other and prints one table. Names select groups; `--list` describes each group.

Exits with 0 when every figure was reached, else with 1. `--json` prints the same as JSON, `--small` uses the suite's
size, `--write FILE` keeps the table of finished groups in a file. A group that breaks or exceeds its time counts as a
missed figure; the others continue.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import tests.chaos
from tests.chaos.figures import Figure, Scale, machine, table

LIMIT = 900.0  # seconds for one group, unless its module has its own LIMIT


@dataclass(frozen=True)
class Run:
    """The result of one group. `load` is the machine's average of the last minute before and after it."""

    group: str
    seconds: float
    load: tuple[float, float]
    figures: list[Figure]


def groups() -> dict[str, ModuleType]:
    """Every module here with a coroutine `figures(scale)`."""
    paths = [one.name for one in pkgutil.walk_packages(tests.chaos.__path__, "tests.chaos.") if not one.ispkg]
    modules = [importlib.import_module(path) for path in paths if "._" not in path and ".processes." not in path]
    return {one.__name__.rpartition(".")[2]: one for one in modules if hasattr(one, "figures")}


async def run(name: str, module: ModuleType, scale: Scale) -> Run:
    """One group, within its time."""
    limit: float = getattr(module, "LIMIT", LIMIT)
    started, before = time.monotonic(), os.getloadavg()[0]
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        async with asyncio.timeout(limit):
            figures: list[Figure] = await module.figures(scale)
    except TimeoutError:
        traceback.print_exc()
        figures = [Figure(name, f"not done after {limit:.0f} s", "an end", holds=False)]
    except Exception as error:  # noqa: BLE001  the outermost handler: one broken group does not end the run
        traceback.print_exc()
        figures = [Figure(name, f"broke: {type(error).__name__}: {error}"[:300], "an end", holds=False)]
    seconds = time.monotonic() - started
    print(f"{table(figures)}\n{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return Run(name, round(seconds, 1), (round(before, 1), round(os.getloadavg()[0], 1)), figures)


def as_json(runs: Sequence[Run]) -> str:
    """Everything, for programs."""
    reached = all(figure.holds for one in runs for figure in one.figures)
    return json.dumps({"machine": machine(), "reached": reached, "groups": [asdict(one) for one in runs]}, indent=2)


def as_table(runs: Sequence[Run]) -> str:
    """The figures of docs/evidence/reliability.md, with the machine, the date, and how busy the machine was."""
    lines = ["| What | Scenario | Measured | Wanted |", "| --- | --- | --- | --- |"]
    for one in runs:
        for figure in one.figures:
            said = figure.measured if figure.holds else f"**missed:** {figure.measured}"
            lines.append(f"| {figure.what} | `{one.group}` | {said} | {figure.wanted} |")
    rows = "\n".join(lines)
    took = ", ".join(f"{one.group} {one.seconds:.0f} s (load {one.load[0]} to {one.load[1]})" for one in runs)
    figures = [figure for one in runs for figure in one.figures]
    missed = sum(not figure.holds for figure in figures)
    verdict = f"{len(figures) - missed} of {len(figures)} figures reached."
    return f"{machine()}\n\n{rows}\n\n{took}\n\n{verdict}"


def main() -> int:
    """Run, print, and fail if a figure was missed."""
    found = groups()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("group", nargs="*", choices=[*found, []], help="names; all without one")
    parser.add_argument("--small", action="store_true", help="the size of the suite")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, anew after each group")
    parser.add_argument("--list", action="store_true", help="say what each group does, and run nothing")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:20} {(module.__doc__ or '').splitlines()[0]}" for name, module in found.items()))
        return 0
    # a signal to this process also ends its servers and providers
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scale = Scale.SMALL if arguments.small else Scale.FULL
    chosen = arguments.group or list(found)
    runs: list[Run] = []
    for name in chosen:
        runs.append(asyncio.run(run(name, found[name], scale)))
        if arguments.write is not None:
            arguments.write.write_text(as_table(runs) + "\n", encoding="utf-8")
    print(as_json(runs) if arguments.json else as_table(runs))
    return 0 if all(figure.holds for one in runs for figure in one.figures) else 1


if __name__ == "__main__":
    sys.exit(main())

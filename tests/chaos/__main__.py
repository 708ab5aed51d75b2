"""Runs the scenarios one after the other and prints their figures. Names choose; `--small` is the size of the suite."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import pkgutil
import sys
import time

import tests.chaos
from tests.chaos.figures import Figure, Scale, machine, table

LIMIT = 1800.0  # seconds for one scenario


async def run(names: list[str], scale: Scale) -> list[Figure]:
    """All figures of the chosen scenarios."""
    found: list[Figure] = []
    for module in pkgutil.iter_modules(tests.chaos.__path__):
        if module.name.startswith("_") or (names and module.name not in names):
            continue
        figures = getattr(importlib.import_module(f"tests.chaos.{module.name}"), "figures", None)
        if figures is None:
            continue
        started = time.monotonic()
        print(f"{module.name} ...", file=sys.stderr, flush=True)
        async with asyncio.timeout(LIMIT):
            measured = await figures(scale)
        print(table(measured), file=sys.stderr, flush=True)
        print(f"{module.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        found += measured
    return found


def main() -> int:
    """Run, print, and fail if a promise does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="names; all without one")
    parser.add_argument("--small", action="store_true", help="the size of the suite")
    arguments = parser.parse_args()
    figures = asyncio.run(run(arguments.scenario, Scale.SMALL if arguments.small else Scale.FULL))
    print(f"{machine()}\n\n{table(figures)}")
    return 0 if figures and all(one.holds for one in figures) else 1


if __name__ == "__main__":
    sys.exit(main())

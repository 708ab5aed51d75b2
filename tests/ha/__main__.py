"""`python -m tests.ha [failover|throughput ...] [--faults NAME ...]`: start the programs, then break or measure them.

Exits with 0 when every figure was reached, with 1 when one was missed, with 2 when something is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from functools import partial
from types import SimpleNamespace

from tests.chaos.__main__ import Run, as_table, run
from tests.chaos.figures import Scale
from tests.ha import failover, pieces, throughput

GROUPS = {"failover": failover, "throughput": throughput}


def main() -> int:
    """Run, print, and fail if a figure was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.ha", description=__doc__)
    parser.add_argument("group", nargs="*", choices=[*GROUPS, []], help="names; all without one")
    parser.add_argument("--faults", nargs="*", choices=list(failover.FAULTS), help="only these fail-overs")
    parser.add_argument("--small", action="store_true", help="a switch-over and a restart of PgBouncer only")
    arguments = parser.parse_args()
    chosen = arguments.group or list(GROUPS)
    lacking = pieces.missing_programs() if "failover" in chosen else []
    if lacking:
        print(f"make ha needs {', '.join(lacking)}. On Debian:\n  {pieces.APT}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runs: list[Run] = []
    for name in chosen:
        module = GROUPS[name]
        figures = partial(module.figures, names=arguments.faults) if module is failover else module.figures
        group = SimpleNamespace(figures=figures, LIMIT=module.LIMIT)
        runs.append(asyncio.run(run(name, group, Scale.SMALL if arguments.small else Scale.FULL)))
    print(as_table(runs))
    return 0 if all(figure.holds for one in runs for figure in one.figures) else 1


if __name__ == "__main__":
    sys.exit(main())

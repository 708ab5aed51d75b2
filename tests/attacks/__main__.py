"""`python -m tests.attacks [pytest arguments]`: runs the attacks, then prints what held and what failed per surface."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent


class Tally:
    """Counts by surface, which is a file's name."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.fell: dict[str, list[str]] = {}
        self.skipped: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        surface = Path(report.location[0]).stem.removeprefix("attack_")
        if report.failed:
            self.fell.setdefault(surface, []).append(report.location[2])
        elif report.skipped:
            self.skipped[surface] = self.skipped.get(surface, 0) + 1
        elif report.when == "call":
            self.held[surface] = self.held.get(surface, 0) + 1

    def show(self) -> None:
        table = Table("surface", "held", "fell", "not run")
        surfaces = sorted({*self.held, *self.fell, *self.skipped})
        for one in surfaces:
            table.add_row(
                one, str(self.held.get(one, 0)), str(len(self.fell.get(one, []))), str(self.skipped.get(one, 0))
            )
        table.add_section()
        fallen = sum(map(len, self.fell.values()))
        table.add_row("all", str(sum(self.held.values())), str(fallen), str(sum(self.skipped.values())))
        console = Console()
        console.print(table)
        for one in surfaces:
            for name in self.fell.get(one, []):
                console.print(f"fell: {one}: {name}", style="red", soft_wrap=True, markup=False)


def main() -> int:
    tally = Tally()
    options = ["-q", "-o", "python_files=attack_*.py", "--no-header", "-p", "no:cacheprovider", "--timeout=120"]
    options += ["-o", "timeout_func_only=true"]  # a vault that starts during other work takes longer than an attack
    chosen = sys.argv[1:]
    places = [] if any(not one.startswith("-") and ".py" in one for one in chosen) else [str(FOLDER)]
    if places and "-n" not in chosen:
        options += ["-n", "2", "--dist", "loadfile"]  # a surface runs as a whole, two surfaces at a time
    code = pytest.main([*options, *places, *chosen], plugins=[tally])
    tally.show()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

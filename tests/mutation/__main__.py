"""`make mutate`: draw mutants, run the tests of their lines, print the score and each survivor.

    python -m tests.mutation [--sample 200] [--seed 1] [--minutes 60] [--within server/proxy] [--coverage FILE]

Without `--coverage`, the tests of TESTS run once with coverage first, in the copy of the commit that is mutated.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutants import Mutant, drawn, mutants_of, mutated

ROOT = Path(__file__).parents[2]
PACKAGES = ("vault", "server/oauth", "server/proxy")
TESTS = ("tests/vault", "tests/oauth", "tests/proxy", "tests/mcp", "tests/portal")
MOST_TESTS = 40  # for one mutant
PATIENCE = 300  # seconds for the tests of one mutant; one that hangs them is dead
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long", "-k", "not postgres")


@dataclass(frozen=True)
class Reach:
    """Which tests run which lines of a file."""

    lines: Mapping[int, Collection[str]]

    def tests_of(self, line: int) -> list[str]:
        """Tests that run the line; for one that runs at import, tests that run any line of the file."""
        found = sorted(self.lines.get(line, ())) or sorted({one for tests in self.lines.values() for one in tests})
        return random.Random(line).sample(found, min(MOST_TESTS, len(found)))


def copy_of_commit(folder: Path) -> None:
    """The files of the commit that is checked out."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def run_with_coverage(tree: Path) -> Path:
    """Run TESTS once; the file that says which test reached what."""
    measured = [f"--cov={one}" for one in PACKAGES]
    command = [*PYTEST, "-p", "no:xdist", *measured, "--cov-context=test", "--cov-report=", "--timeout=600", *TESTS]
    subprocess.run(command, cwd=tree, check=False, stdout=subprocess.DEVNULL)
    return tree / ".coverage"


def reach_of(data: Path, tree: Path) -> Mapping[str, Reach]:
    """By file, as far as any test went there."""
    from coverage import CoverageData

    read = CoverageData(str(data))
    read.read()
    found: dict[str, Reach] = {}
    for path in read.measured_files():
        file = next((path[path.index(f"/{one}/") + 1 :] for one in PACKAGES if f"/{one}/" in path), None)
        if file is not None and (tree / file).exists():
            by_line = read.contexts_by_lineno(path)
            tests = {line: {one.partition("|")[0] for one in names if "::" in one} for line, names in by_line.items()}
            if any(tests.values()):
                found[file] = Reach({line: names for line, names in tests.items() if names})
    return found


def survives(mutant: Mutant, tree: Path, tests: Collection[str]) -> bool | None:
    """Whether all tests pass with the change; None when it changes nothing."""
    path = tree / mutant.file
    original = path.read_text(encoding="utf-8")
    changed = mutated(original, mutant)
    if changed is None or changed == original:
        return None
    path.write_text(changed, encoding="utf-8")
    try:
        done = subprocess.run(
            [*PYTEST, "-x", "-p", "no:xdist", *tests],
            cwd=tree,
            check=False,
            capture_output=True,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(original, encoding="utf-8")
    return done.returncode == 0


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="make mutate")
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=600, help="begin no mutant after that")
    parser.add_argument("--within", action="append", help="only files whose path begins so; can be repeated")
    parser.add_argument("--coverage", type=Path, help="of an earlier run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="token-vault-mutants-") as folder:
        tree = Path(folder)
        copy_of_commit(tree)
        reach = reach_of(given.coverage or run_with_coverage(tree), tree)
        within = tuple(given.within or PACKAGES)
        population = [one for file in sorted(reach) if file.startswith(within) for one in mutants_of(tree, file)]
        began, killed, alive = time.monotonic(), 0, 0
        print(f"{len(population):,} mutants in {len(reach)} files; seed {given.seed}", flush=True)
        for mutant in drawn(population, count=given.sample, seed=given.seed):
            if time.monotonic() - began > given.minutes * 60:
                break
            outcome = survives(mutant, tree, reach[mutant.file].tests_of(mutant.line))
            if outcome is None:
                continue
            killed, alive = killed + (not outcome), alive + outcome
            if outcome:
                line = (tree / mutant.file).read_text(encoding="utf-8").splitlines()[mutant.line - 1].strip()
                print(
                    f"survives: {mutant.file}:{mutant.line} {mutant.operator} {mutant.occurrence}: {line}", flush=True
                )
    tried = killed + alive
    print(f"{killed} of {tried} killed ({100 * killed / max(1, tried):.0f} %)")


if __name__ == "__main__":
    main()

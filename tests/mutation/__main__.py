"""`make mutate`: draw mutants, run the tests of their lines, print the score and each survivor.

python -m tests.mutation [--sample 60] [--seed 7] [--minutes 60] [--within server/proxy] [--again]

What the tests reach is recorded once for each test file (so the first run takes long) and kept in `--state`, as are a
seed's sample and its results: the same command continues where an earlier run ended.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from tests.mutation.children import end_when_told, wait_for_all
from tests.mutation.explanations import explained_mutants, explanation_of, stale
from tests.mutation.mutants import LEFT_OUT, Mutant, changed_lines, draw_sample, mutants_of, mutate
from tests.mutation.names import lines_of_function, lines_of_statement, name_at_import

ROOT = Path(__file__).parents[2]
FOLDERS = ("vault", "server/oauth", "server/proxy")
FOLDERS_OF_TESTS = (
    *("vault", "oauth", "proxy", "mcp", "enterprise", "policy", "signals", "scim", "api", "portal"),
    *("credentials", "secret_sources", "programs", "auth0"),
)
FILES_OF_TESTS = (  # of folders whose other tests reach little of this code
    *("providers/test_lookups.py", "cli/test_completion.py", "cli/transfers/test_exports.py"),
    *("cli/activity/test_activity_proof.py", "journeys/test_stock_trade.py"),
)
TESTS = tuple(f"tests/{one}" for one in (*FOLDERS_OF_TESTS, *FILES_OF_TESTS))
DEAD = frozenset({"killed", "hung"})
Row = dict[str, str]  # file, operator, before, after, and a number among those that are equal in all of these


def copy_of_commit(folder: Path) -> None:
    """The files of the commit that is checked out."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def sources(tree: Path) -> list[str]:
    """All files that mutants are made from."""
    return [str(one.relative_to(tree)) for folder in FOLDERS for one in sorted((tree / folder).rglob("*.py"))]


def sample_of(tree: Path, given: argparse.Namespace, kept: Path) -> list[Row]:
    """This many mutants of each folder, drawn by the seed; the same ones as in an earlier run with that seed."""
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    rows: list[Row] = []
    for folder in FOLDERS:
        files = [one for one in sources(tree) if one.startswith(f"{folder}/") and one.startswith(tuple(given.within))]
        population = {file: list(mutants_of(tree, file)) for file in files}
        everything = [mutant for mutants in population.values() for mutant in mutants]
        for one in draw_sample(everything, count=given.sample, seed=given.seed):
            alike = [same for same, *_ in alike_in(tree, population[one.file], one)]
            if one in alike:
                _, _, before, after = next(alike_in(tree, [one], one))
                place = {"file": one.file, "operator": one.operator, "before": before, "after": after}
                rows.append({**place, "number": str(alike.index(one) + 1)})
        print(f"{folder}: {len(everything):,} mutants in {len(files)} files", flush=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(rows), encoding="utf-8")
    return rows


def alike_in(tree: Path, mutants: Sequence[Mutant], wanted: Mutant) -> Iterator[tuple[Mutant, str, str, str]]:
    """Mutants by the same operator whose line has the same text; with the new text and the lines before and after."""
    text = (tree / wanted.file).read_text(encoding="utf-8")
    lines = text.splitlines()
    line = lines[wanted.line - 1].strip()
    target: tuple[str, str] | None = None
    new = mutate(text, wanted)
    if new is not None and new != text:
        target = changed_lines(text, new)
    for one in mutants:
        if one.operator == wanted.operator and lines[one.line - 1].strip() == line:
            new = mutate(text, one)
            if new is not None and new != text and changed_lines(text, new) == target:
                yield one, new, *changed_lines(text, new)


def key_of(row: Row) -> str:
    again = f" (number {row['number']})" if row.get("number", "1") != "1" else ""
    return f"{row['file']}: {row['before']}  ->  {row['after']}{again}"


def plan_mutants(tree: Path, rows: Sequence[Row]) -> list[dict[str, object]]:
    """What the plugin needs to know about each mutant; mutants whose lines are gone are left out."""
    found: list[dict[str, object]] = []
    of_file = cache(lambda file: list(mutants_of(tree, file)) if (tree / file).exists() else [])
    for row in rows:
        number, changed = int(row.get("number", "1")), set(row["before"].splitlines())
        for one in of_file(row["file"]):
            text = (tree / one.file).read_text(encoding="utf-8")
            if one.operator == row["operator"] and text.splitlines()[one.line - 1].strip() in changed:
                new = mutate(text, one)
                if new is not None and changed_lines(text, new) == (row["before"], row["after"]):
                    number -= 1
                    if not number:
                        name = name_at_import(text, new)
                        lines = lines_of_statement(text, one.line)
                        around = lines_of_function(text, one.line)
                        place = {"file": one.file, "line": one.line, "lines": lines, "around": around, "name": name}
                        found.append({"key": key_of(row), **place, "old": text, "new": new})
                        break
        else:
            print(f"gone: {key_of(row)}", flush=True)
    return found


def try_them(tree: Path, plan: dict[str, object], tests: Sequence[str]) -> None:
    """Start pytest, which imports all tests and tries the mutants; it prints each outcome."""
    path = Path(str(plan["work"])) / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # has cosmic-ray's packages
    options = ["-q", "-s", "--timeout=0", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "tests.mutation.plugin"]
    trying = subprocess.Popen(
        [sys.executable, "-B", "-m", "pytest", *options, "--continue-on-collection-errors", *tests],
        cwd=tree,
        env=environment | {"MUTATION_PLAN": str(path)},
    )
    wait_for_all([trying])


def outcomes(results: Path) -> dict[str, str]:
    """The latest outcome of each mutant that was tried."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return {one["key"]: one["outcome"] for one in map(json.loads, lines)}


def report(rows: Sequence[Row], found: dict[str, str]) -> None:
    """A line for each folder, and each survivor with its reason, if it has one."""
    explained = explained_mutants()
    print(f"left out of the population: {LEFT_OUT}")
    print("| folder | tried | killed | hung | equivalent | accepted | unexplained | unreached | not decided | score |")
    total: Counter[str] = Counter()
    for folder in FOLDERS:
        counts: Counter[str] = Counter()
        for row in rows:
            outcome = found.get(key_of(row))
            if outcome is None or not row["file"].startswith(f"{folder}/"):
                continue
            reason = explanation_of(row, explained)
            counts["tried"] += 1
            alive = outcome not in DEAD
            counts[reason.kind if alive and reason else outcome] += 1
            if alive:
                print(
                    f"{reason.kind if reason else outcome}: {key_of(row)}" + (f" ({reason.reason})" if reason else "")
                )
        total += counts
        print(_line(folder, counts))
    print(_line("all", total))


def _line(folder: str, counts: Counter[str]) -> str:
    dead, judged = counts["killed"] + counts["hung"], counts["tried"] - counts["equivalent"]
    names = ("tried", "killed", "hung", "equivalent", "accepted", "survived", "unreached", "undecided")
    score = f"{100 * dead / max(1, judged):.1f} %"
    return f"| {folder} | {' | '.join(str(counts[one]) for one in names)} | {score} |"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="make mutate")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each folder")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1_000_000), help="printed, so that a run can go on"
    )
    parser.add_argument("--minutes", type=float, default=600, help="begin no mutant after that")
    parser.add_argument("--record-minutes", type=float, default=600, help="record no test file after that")
    parser.add_argument("--seconds", type=float, default=45, help="of tests for one mutant, as they were recorded")
    parser.add_argument("--within", action="append", help="only files whose path begins so; can be repeated")
    parser.add_argument("--tests", action="append", help="test files or folders; can be repeated")
    parser.add_argument("--again", action="store_true", help="try the survivors of an earlier run again")
    parser.add_argument("--state", type=Path, default=ROOT / ".venv" / "mutation" / "state")
    given = parser.parse_args()
    given.within = given.within or list(FOLDERS)
    for row in explained_mutants():
        if stale(row, ROOT):
            print(f"gone from the code, remove it from explanations.toml: {row.file}: {row.before}")
    name = f"{given.seed}-{given.sample}" + "".join(f"-{one.replace('/', '.')}" for one in given.within)
    if len(name) > 100:  # too long for a file
        name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    results = given.state / f"results-{name}.jsonl"
    with tempfile.TemporaryDirectory(prefix="tvm", dir="/tmp", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        tree = work / "tree"
        copy_of_commit(tree)
        print(f"seed {given.seed}, {given.sample} of each folder", flush=True)
        rows = sample_of(tree, given, given.state / f"sample-{name}.json")
        known = outcomes(results)
        todo = [one for one in rows if (key := key_of(one)) not in known or (given.again and known[key] not in DEAD)]
        plan = {
            "tree": str(tree),
            "state": str(given.state),
            "work": str(work),
            "results": str(results),
            "minutes": given.minutes,
            "record_minutes": given.record_minutes,
            "seconds": given.seconds,
            "sources": sources(tree),
            "is_quick": False,
            "tests": given.tests or TESTS,
            "mutants": plan_mutants(tree, todo),
        }
        try_them(tree, plan, given.tests or TESTS)
        report(rows, outcomes(results))


if __name__ == "__main__":
    end_when_told()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("ended; the same command continues")

"""`make refusals`: try each refusal's mutants on the tests that reach it; print the counts and what is missing.

python -m tests.refusals [--within server/portal] [--again] [--workers 2]

What the tests reach is kept in `--state`, shared with `make mutate`, and so are the outcomes: the same command
continues where an earlier run ended and tries only what has changed since.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutation.__main__ import DEAD, copy_of_commit
from tests.mutation.children import end_when_told, wait_for_all
from tests.mutation.plugin import postgres
from tests.refusals.explanations import Explanation, explanations, stale
from tests.refusals.sites import Change, Site, sites_of

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "server/portal",
    "server/administration",
    "server/sign_in",
    "server/connecting",
    "server/remote",
    "server/notices",
    "vault/approvals",
)
TESTS = tuple(
    f"tests/{one}"
    for one in (
        "portal",
        "credentials",
        "api",
        "mcp",
        "cli",
        "scim",
        "enterprise",
        "auth0",
        "oauth",
        "providers",
        "signals",
        "policy",
        "programs/hosted",
        "vault",
    )
)
RESULTS = "refusals.jsonl"
COLUMNS = (
    "places",
    "test and twin",
    "explained",
    "survived",
    "unreached",
    "undecided",
    "not tried",
    "mutants",
    "killed",
)


def sites(tree: Path, within: Sequence[str]) -> Iterator[tuple[Site, list[Change]]]:
    """All refusals of the folders, file by file."""
    for folder in FOLDERS:
        for path in sorted((tree / folder).rglob("*.py")):
            file = str(path.relative_to(tree))
            if file.startswith(tuple(within)):
                yield from sites_of(file, path.read_text(encoding="utf-8"))


def plan_change(tree: Path, change: Change) -> dict[str, object]:
    """What the plugin needs to know: if a refusal is gone, the tests that it refuses run; otherwise, the others do."""
    site = change.site
    place = {"key": change.key, "file": site.file, "around": [], "name": ""}
    place |= {"old": (tree / site.file).read_text(encoding="utf-8"), "new": change.new}
    if change.kind == "always":
        return place | {"line": site.guard_lines[0], "lines": site.guard_lines, "avoided": site.lines}
    return place | {"line": site.line, "lines": site.lines}


def try_them(tree: Path, given: argparse.Namespace, mutants: Sequence[dict[str, object]]) -> None:
    """Divide the mutants among processes, each of which imports all tests."""
    files = [one for folder in FOLDERS for one in sorted((tree / folder).rglob("*.py"))]
    share = -(-len(mutants) // given.workers)  # those of one source file mostly have the same tests
    running: list[subprocess.Popen[bytes]] = []
    if "TEST_DATABASE_URL" not in os.environ:
        os.environ["TEST_DATABASE_URL"] = postgres()  # one server for all of them
    for number in range(given.workers):
        work = tree.parent / str(number)
        work.mkdir()
        plan = {
            "tree": str(tree),
            "state": str(given.state),
            "work": str(work),
            "results": str(given.state / RESULTS),
            "minutes": given.minutes,
            "record_minutes": 600,
            "seconds": 30,
            "sources": [str(one.relative_to(tree)) for one in files],
            "is_quick": True,
            "tests": given.tests or TESTS,
            "mutants": mutants[number * share : (number + 1) * share],
        }
        (work / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        options = ["-q", "-s", "--timeout=0", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "tests.refusals.plugin"]
        running.append(
            subprocess.Popen(
                [sys.executable, "-B", "-m", "pytest", *options, "--continue-on-collection-errors", *plan["tests"]],
                cwd=tree,
                env=os.environ | {"MUTATION_PLAN": str(work / "plan.json")},
            )
        )
    wait_for_all(running)


def outcomes(results: Path) -> dict[str, str]:
    """The latest outcome of each mutant; one that broke before a test ran has none."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    rows = [json.loads(one) for one in lines]
    return {one["key"]: one["outcome"] for one in rows if one["by"] not in {"broke", "import"}}


def report(found: Sequence[tuple[Site, list[Change]]], known: dict[str, str], rows: Sequence[Explanation]) -> int:
    """A line for each folder, after each of its mutants that no test detects; returns how many sites miss something."""
    total: Counter[str] = Counter()
    by_folder: dict[str, Counter[str]] = {folder: Counter() for folder in FOLDERS}
    for site, changes in found:
        counts = by_folder[next(one for one in FOLDERS if site.file.startswith(f"{one}/"))]
        alive = [one for one in changes if known.get(one.key, "not tried") not in DEAD]
        open_ones = [one for one in alive if not any(row.explains(one) for row in rows)]
        by_hand = len(changes) == 1 and any(row.file == site.file and row.says == site.key for row in rows)
        if len(changes) == 1 and not by_hand:
            print(f"by hand: {site.file}:{site.line} {site.function}: {site.key}")
        for one in open_ones:
            without = f" without {one.reason}" if one.reason else ""
            outcome = known.get(one.key, "not tried")
            print(f"{outcome}: {site.file}:{site.line} {site.function}: {one.kind}{without}: {site.key[:100]}")
        counts["places"] += 1
        found_out = {known.get(one.key, "not tried") for one in open_ones}
        if len(changes) == 1 and not by_hand:
            found_out.add("survived")
        state = next(
            (one for one in ("survived", "broke", "unreached", "undecided", "not tried") if one in found_out), ""
        )
        counts[state or ("explained" if alive or by_hand else "test and twin")] += 1
        counts["mutants"] += len(changes)
        counts["killed"] += len(changes) - len(alive)
    print(f"| folder | {' | '.join(COLUMNS)} |")
    for folder, counts in by_folder.items():
        total += counts
        print(_line(folder, counts))
    print(_line("all", total))
    return total["places"] - total["test and twin"] - total["explained"]


def _line(folder: str, counts: Counter[str]) -> str:
    return f"| {folder} | {' | '.join(str(counts[one]) for one in COLUMNS)} |"


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="make refusals")
    parser.add_argument("--within", action="append", help="only files whose path begins so; can be repeated")
    parser.add_argument("--tests", action="append", help="test files or folders; can be repeated")
    parser.add_argument("--minutes", type=float, default=600, help="begin no mutant after that")
    parser.add_argument("--workers", type=int, default=2, help="processes that try mutants")
    parser.add_argument("--again", action="store_true", help="try again those that no test told")
    parser.add_argument("--report", action="store_true", help="try nothing, print what is known")
    parser.add_argument("--state", type=Path, default=ROOT / ".venv" / "mutation" / "state")
    given = parser.parse_args()
    for row in explanations():
        if stale(row, ROOT):
            print(f"gone from the code, remove it from explanations.toml: {row.file}: {row.says}")
    with tempfile.TemporaryDirectory(prefix="tvr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        tree = Path(folder) / "tree"
        copy_of_commit(tree)
        found = list(sites(tree, given.within or FOLDERS))
        results = given.state / RESULTS
        known = outcomes(results)
        mutants = [one for _, changes in found for one in changes]
        todo = [one for one in mutants if one.key not in known or (given.again and known[one.key] not in DEAD)]
        if todo and not given.report:
            given.state.mkdir(parents=True, exist_ok=True)
            try_them(tree, given, [plan_change(tree, one) for one in todo])
        return 1 if report(found, outcomes(results), explanations()) else 0


if __name__ == "__main__":
    end_when_told()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("ended; the same command continues")

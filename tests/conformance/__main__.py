"""Run the official MCP conformance suite: `python -m tests.conformance [--write]`, or `make conformance`.

Every scenario of both revisions either passes or is named in `gaps.toml` with its reason; anything else fails the run.
With `--write`, the result becomes `docs/evidence/conformance.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.conformance.report import write
from tests.conformance.suite import REVISIONS, Check, list_scenarios, place, run_authorization, run_server, version

FOLDER = Path(__file__).parent
AT_ONCE = 2  # scenarios


def gaps(kind: str) -> Mapping[str, str]:
    """Reasons why something doesn't apply, by name: whole `scenarios`, or single `checks` of others."""
    groups = tomllib.loads((FOLDER / "gaps.toml").read_text(encoding="utf-8"))["gap"]
    return {name: group["reason"] for group in groups for name in group.get(kind, ())}


def scenarios_to_run(known: Mapping[str, str]) -> dict[str, list[str]]:
    """The server scenarios to run, by revision."""
    listed = list_scenarios()
    unknown = sorted(set(known) - set(listed))
    assert not unknown, f"gaps.toml names scenarios that the suite doesn't have: {unknown}"
    return {
        revision: [name for name, revisions in listed.items() if revision in revisions and name not in known]
        for revision in REVISIONS
    }


async def run_all(known: Mapping[str, str]) -> Sequence[Check]:
    """Run every scenario that applies, on both protocol revisions, and the authorization scenarios."""
    turns, found = asyncio.Semaphore(AT_ONCE), list[Check]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with place(folder) as (room, url):

            async def one(scenario: str, revision: str) -> Iterable[Check]:
                async with turns:
                    return await run_server(url, scenario, revision, folder=folder / f"{scenario}-{revision}")

            each = [
                one(scenario, revision) for revision, names in scenarios_to_run(known).items() for scenario in names
            ]
            for checks in await asyncio.gather(*each):
                found += checks
            for revision in REVISIONS:
                found += await run_authorization(room, revision, folder=folder / f"authorization-{revision}")
    return found


def failures(checks: Iterable[Check], excused: Mapping[str, str]) -> Sequence[Check]:
    """The checks that the suite reports as failed, without those that don't apply."""
    return [check for check in checks if check.status == "FAILURE" and check.name not in excused]


def stale(checks: Iterable[Check], excused: Mapping[str, str]) -> Sequence[str]:
    """Checks that are excused needlessly: they passed, or the suite has none of that name."""
    unneeded = {check.name for check in checks if check.status in {"FAILURE", "WARNING", "SKIPPED"}}
    return sorted(set(excused) - unneeded)


def main() -> None:
    """Run the suite, print the result, and say what failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/evidence/conformance.md")
    chosen = parser.parse_args()
    known, excused, began = gaps("scenarios"), gaps("checks"), time.monotonic()
    checks = asyncio.run(run_all(known))
    for check in checks:
        if check.status not in {"SUCCESS", "INFO"} and check.name not in excused:
            print(f"{check.status:8} {check.revision} {check.scenario}: {check.name}: {check.message}")
    ran = {(check.scenario, check.revision) for check in checks}
    passed = sum(check.status == "SUCCESS" for check in checks)
    failed, unneeded = failures(checks, excused), stale(checks, excused)
    print(
        f"conformance {version()}: {len(ran)} scenarios, {passed} checks passed, {len(failed)} failed; "
        f"{len(known)} scenarios and {len(excused)} checks don't apply; {time.monotonic() - began:.0f} s"
    )
    if unneeded:
        print(f"gaps.toml excuses checks without need: {', '.join(unneeded)}")
    if chosen.write:
        write(checks, known, excused)
    sys.exit(bool(failed or unneeded))


if __name__ == "__main__":
    main()

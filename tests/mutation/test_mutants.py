"""What the sampler draws from; cosmic-ray itself is installed by `make mutate` only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutation.__main__ import key_of, report
from tests.mutation.children import HUNG, begin_step, in_child, own_seconds, own_seconds_since, step_name
from tests.mutation.code_swap import functions_of, swap_functions, swap_values
from tests.mutation.explanations import (
    ANY_NUMBER,
    ExplainedMutant,
    explained_mutants,
    explanation_of,
    stale,
    without_comments,
)
from tests.mutation.mutants import Mutant, changed_lines, draw_sample, inert_ranges
from tests.mutation.names import (
    classes_around,
    classes_with,
    dependent_names,
    is_used_at_import,
    lines_of_function,
    lines_of_statement,
    name_at_import,
)
from tests.mutation.plugin import twin_name
from tests.mutation.reach import FileRecord, Reach, Wording

MANY = [Mutant("a.py", line, "core/AddNot", 0) for line in range(50)]
ROOT = Path(__file__).parents[2]


RUN = """
import atexit, os, pathlib, subprocess, sys, time
from tests.mutation.children import end_when_told, in_child, wait_for_all
there = pathlib.Path(sys.argv[1])
if os.environ["TOLD"] == "yes":
    end_when_told()

def work():
    (there / "child").write_text(str(os.getpid()))
    time.sleep(60)

if len(sys.argv) == 2:
    wait_for_all([subprocess.Popen([sys.executable, __file__, str(there), "plugin"])])
atexit.register((there / "ended").touch)
(there / "plugin").write_text(str(os.getpid()))
in_child(work, seconds=60)
"""


def _until(check: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


def _is_alive(file: Path) -> bool:
    state = Path(f"/proc/{file.read_text(encoding='ascii')}/stat")
    return state.exists() and " Z " not in state.read_text(encoding="ascii")


@pytest.mark.parametrize("told", ["yes", "no"])
def test_a_run_that_gets_sigterm_ends_what_it_started(tmp_path: Path, told: str) -> None:
    program = tmp_path / "run.py"
    program.write_text(RUN, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOLD": told}
    run = subprocess.Popen([sys.executable, str(program), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL)
    plugin, child = tmp_path / "plugin", tmp_path / "child"
    _until(lambda: child.exists() and child.read_text(encoding="ascii"))
    try:
        run.terminate()
        assert run.wait(timeout=30)
        assert _is_alive(plugin) == _is_alive(child) == (told == "no"), "the twin leaves them running"
        assert (tmp_path / "ended").exists() == (told == "yes")
    finally:
        for one in (plugin, child):
            if _is_alive(one):
                os.kill(int(one.read_text(encoding="ascii")), signal.SIGKILL)


@pytest.mark.parametrize(("limit", "nap", "expected"), [(0.2, 30, HUNG), (60, 0.4, "done")])
def test_a_child_ends_when_a_step_takes_longer_than_it_said(
    limit: float, nap: float, expected: str, tmp_path: Path
) -> None:
    """A busy machine may let this process look only seconds after the limit, so the step takes far longer."""
    step = tmp_path / "step"

    def work() -> str:
        for name in "ab":
            begin_step(step, name, seconds=limit if name == "a" else 60)
            time.sleep(nap if name == "a" else 0.4)
        return "done"

    assert in_child(work, seconds=300, step=step) == expected
    assert step_name(step) == ("a" if expected == HUNG else "b")


@pytest.mark.parametrize(
    ("test", "twin"),
    [
        ("a.py::test[sqlite]", "a.py::test[postgres]"),
        ("a.py::test[1-sqlite-x]", "a.py::test[1-postgres-x]"),
        ("sqlite.py::test_sqlite[no-sqlite_at]", "sqlite.py::test_sqlite[no-sqlite_at]"),
    ],
)
def test_a_test_on_sqlite_may_have_a_twin_on_postgresql(test: str, twin: str) -> None:
    assert twin_name(test) == twin


def test_a_quick_test_never_takes_less_than_no_time() -> None:
    assert own_seconds_since(own_seconds() + 9) == 0
    assert 8 < own_seconds_since(own_seconds() - 9) < 60


def test_a_mutant_that_is_undecided_stands_apart(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"file": "vault/ids.py", "operator": "core/AddNot", "before": one, "after": ""} for one in "abcd"]
    report(rows, dict(zip(map(key_of, rows), ["killed", "survived", "undecided", "killed"], strict=True)))
    assert "| vault | 4 | 2 | 0 | 0 | 0 | 1 | 0 | 1 | 50.0 % |" in capsys.readouterr().out


def test_a_sample_is_drawn_again_by_its_seed() -> None:
    assert (
        draw_sample(MANY, count=10, seed=1)
        == draw_sample(MANY, count=10, seed=1)
        != draw_sample(MANY, count=10, seed=2)
    )
    assert len({one.line for one in draw_sample(MANY, count=10, seed=1)}) == 10
    assert len(draw_sample(MANY, count=90, seed=1)) == 50


def test_lines_that_only_name_types_are_left_out() -> None:
    assert inert_ranges("x = 1\nif TYPE_CHECKING:\n    from a import b\ny = 2\n") == [((2, 0), (3, 19))]


def test_flags_annotations_and_log_calls_are_left_out() -> None:
    assert inert_ranges("@dataclass(frozen=True)\nclass A:\n    a: Fixed[3] = 4\n") == [
        ((1, 1), (1, 23)),
        ((3, 7), (3, 15)),
    ]
    assert inert_ranges("log.info('x', extra={'a': 1 + 1})\nother.info(1)\n") == [((1, 0), (1, 33))]
    assert inert_ranges("zip(a, b, strict=True)\n") == [((1, 17), (1, 21))]


def test_a_function_gets_the_code_of_a_mutant_and_a_constant_does_not(tmp_path: Path) -> None:
    path = str(tmp_path / "sample.py")
    old = (
        "LIMIT = 3\ndef small(a):\n    return a < LIMIT\n"
        "class A:\n    def twice(self, c):\n        return [b * 2 for b in c]\n"
    )
    module: dict[str, object] = {}
    exec(compile(old, path, "exec"), module)
    small, kind = module["small"], module["A"]
    assert callable(small) and isinstance(kind, type)
    functions = functions_of(path)[path]
    assert not swap_functions(path, old, old.replace("LIMIT = 3", "LIMIT = 4"), functions)
    assert not small(3)
    assert swap_functions(path, old, old.replace("<", "<="), functions)
    assert small(3)
    assert swap_functions(path, old, old.replace("* 2", "* 3"), functions)
    assert kind().twice([1]) == [3]


def test_a_mutant_that_runs_at_import_is_named() -> None:
    old = "A = 1\nclass B:\n    c: int = 2\n    def d(self, e=3):\n        return 4\n"
    named = {one: name_at_import(old, old.replace(one, "9")) for one in "1234"}
    assert named == {"1": "A", "2": "c", "3": "d", "4": ""}


def test_tests_of_a_line_are_found_after_it_moved_the_likeliest_first(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("a\nb\n", encoding="utf-8")
    seconds = {
        "tests/proxy/test_x.py::one": 0.1,
        "tests/vault/test_limits.py::two": 5.0,
        "tests/proxy/test_x.py::bad": -1,
    }
    recorded = FileRecord(seconds, {"vault/limits.py": {"2": "3"}}, {"vault/limits.py": "old"})
    reach = Reach([recorded], {"vault/limits.py": "a\nnew\nb\n"}, tmp_path)
    assert reach.of_line("vault/limits.py", 2) == set()
    found = reach.of_line("vault/limits.py", 3)
    assert reach.of_name("b") == found == reach.of_file("vault/limits.py")
    in_order = ["tests/vault/test_limits.py::two", "tests/proxy/test_x.py::one"]
    assert reach.in_order("vault/limits.py", found, seconds=60) == in_order
    assert reach.in_order("vault/limits.py", found, seconds=1) == in_order[:1]


def test_a_new_line_has_the_tests_of_the_lines_that_it_replaced_or_follows(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("a\nb\nc\n", encoding="utf-8")
    recorded = FileRecord({"one": 1.0, "two": 1.0}, {"a.py": {"2": "1", "3": "2"}}, {"a.py": "old"})
    reach = Reach([recorded], {"a.py": "a\nx\ny\nc\nz\n"}, tmp_path)
    assert [reach.of_line("a.py", line) for line in range(1, 6)] == [set(), {"one"}, {"one"}, {"two"}, {"two"}]


def test_each_explained_mutant_is_still_in_the_code() -> None:
    assert [row.before for row in explained_mutants() if stale(row, ROOT)] == []
    assert all(row.kind in {"equivalent", "accepted"} and row.reason for row in explained_mutants())


def test_an_explanation_survives_another_comment(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("A = 1  # seconds\n", encoding="utf-8")
    for before, is_gone in (("A = 1", False), ("A = 2", True)):
        assert stale(ExplainedMutant("a.py", before, "A = 3", "accepted", "why"), tmp_path) == is_gone
    assert without_comments("A = 1  # one\nB = '#'  # two") == "A = 1\nB = '#'"


def test_an_explanation_of_any_number_holds_for_numbers_only() -> None:
    row = {"file": "a.py", "before": "A = 1  # second", "after": "A = 2  # second"}
    known = [ExplainedMutant("a.py", "A = 1", ANY_NUMBER, "accepted", "why")]
    for operator, expected in (("core/NumberReplacer", known[0]), ("core/AddNot", None)):
        assert explanation_of(row | {"operator": operator}, known) is expected
    assert explanation_of(row | {"operator": "core/NumberReplacer", "before": "B = 1"}, known) is None


def test_a_mutant_is_named_by_what_its_lines_say() -> None:
    assert changed_lines("a\n  b = 1\n", "a\n  b = 2\n") == ("b = 1", "b = 2")
    assert changed_lines("(\n  a\n  > 0\n)\nb\n", "(\n  a <= 0\n)\nb\n") == ("a\n> 0", "a <= 0")


def test_a_statement_has_all_its_lines_and_a_block_only_its_head() -> None:
    text = "if (\n    a\n):\n    b(\n        1,\n    )\n"
    assert {line: lines_of_statement(text, line) for line in (2, 5)} == {2: [1, 2, 3], 5: [4, 5, 6]}
    assert lines_of_function("def a():\n    def b():\n        c\n    d\n", 3) == [2, 3]


def test_a_rare_way_through_a_function_comes_first(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("1\n2\n", encoding="utf-8")
    seconds = {f"tests/vault/test_limits.py::{number}": 1.0 for number in range(9)}
    recorded = FileRecord(seconds, {"vault/limits.py": {"1": "1ff", "2": "80"}}, {"vault/limits.py": "text"})
    reach = Reach([recorded], {"vault/limits.py": "1\n2\n"}, tmp_path)
    found = reach.in_order("vault/limits.py", reach.of_line("vault/limits.py", 1), around=[1, 2], seconds=4)
    assert [one[-1] for one in found] == ["7", "0", "1", "2"]


def test_tests_that_speak_of_the_same_come_first() -> None:
    texts = {"a": "register a client", "b": "register an unused client", "c": "unused", "d": "register"}
    assert Wording(texts).nearest({"a", "b", "d"}, "clients.reap_unused(client)")[:2] == ["b", "a"]
    assert Wording(texts).tests_with(["_Unused", "Other"]) == {"b", "c"}
    texts = {"a": "a token that expires in a day", "b": "token_expires_in"}
    assert Wording(texts).nearest({"a", "b"}, 'answer["token_expires_in"]') == ["b", "a"], "a name counts as a whole"


def test_a_constant_and_a_default_are_changed_where_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = (
        "from dataclasses import dataclass\nLIMIT = 300\nOTHER = object()\n"
        "@dataclass(frozen=True, slots=True)\nclass A:\n    size: int = 2\n"
        "def small(a, *, most=LIMIT - 1):\n    return a < LIMIT, most\n"
    )
    module, reader = ModuleType("sample"), ModuleType("reader")
    monkeypatch.setitem(sys.modules, "sample", module)
    module.__file__ = str(tmp_path / "sample.py")
    exec(compile(old, module.__file__, "exec"), vars(module))
    reader.__dict__["LIMIT"] = module.LIMIT
    for before, after in (("LIMIT = 300", "LIMIT = 299"), ("size: int = 2", "size: int = 3")):
        assert swap_values(old, old.replace(before, after), module, [module, reader])
    assert (reader.__dict__["LIMIT"], module.small(299), module.A().size) == (299, (False, 298), 3)
    assert not swap_values(old, old.replace("object()", "not object()"), ModuleType("sample"), [])
    assert not swap_values(old, old.replace("300", "1 / 0"), module, [module])


def test_the_limits_of_a_model_are_not_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checks were made at import, so the changed class attribute would have no effect."""
    old = (
        "from pydantic import BaseModel, ConfigDict\nclass A(BaseModel):\n"
        "    model_config = ConfigDict(str_max_length=3)\n    b: str\nclass C:\n    d = 3\n"
    )
    module = ModuleType("models")
    monkeypatch.setitem(sys.modules, "models", module)
    module.__file__ = str(tmp_path / "models.py")
    exec(compile(old, module.__file__, "exec"), vars(module))
    assert not swap_values(old, old.replace("length=3", "length=4"), module, [module])
    assert swap_values(old, old.replace("d = 3", "d = 4"), module, [module])


def test_a_name_is_used_at_import_outside_of_functions_and_annotations() -> None:
    used = ["B = A + 1", "def f(x=A): ...", "@f(A)\ndef g(): ...", "class C:\n    a: int = b.A"]
    unused = ["def f():\n    return A", "from b import A", "x: A = 1", "A = 1", "f = lambda: A"]
    assert [one for one in [*used, *unused] if is_used_at_import(one, "A")] == used
    assert dependent_names("A = 1\nB: int = A\nC = [one + B for one in D]\nE = 2\n", "A") == {"A", "B", "C"}
    nested = "class A:\n    b = 1\nclass C(A):\n    d = 2\nclass E(C): ...\n"
    assert [classes_around(nested, 2), classes_with(nested, 2), classes_with(nested, 4)] == [["A"], [*"ACE"], [*"CE"]]

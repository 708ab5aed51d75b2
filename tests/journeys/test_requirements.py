"""The manifest of requirements and the tests' marks agree in both directions."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent.parent


@cache
def _marks() -> dict[str, set[str]]:
    """Requirement id -> names of its tests, read from the sources so that a partial run compares them, too."""
    found: dict[str, set[str]] = {}
    for path in sorted(HERE.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)) if "mark.requirement" in source else ():
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.requirement":
                    for argument in mark.args:
                        assert isinstance(argument, ast.Constant), f"{path.name}: {node.name}: ids must be literals"
                        found.setdefault(str(argument.value), set()).add(f"{path.name}::{node.name}")
    return found


@cache
def _manifest() -> dict[str, dict[str, object]]:
    return tomllib.loads((HERE / "requirements.toml").read_text(encoding="utf-8"))


def test_every_requirement_that_must_hold_has_a_test() -> None:
    marks = _marks()
    missing = [
        f"{key} ({facts['severity']}): {facts['requirement']}" for key, facts in _manifest().items() if key not in marks
    ]
    assert not missing, "requirements without a test:\n" + "\n".join(missing)


def test_every_id_that_a_test_names_is_a_requirement() -> None:
    unknown = {key: sorted(tests) for key, tests in _marks().items() if key not in _manifest()}
    assert not unknown

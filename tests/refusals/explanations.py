"""What `make refusals` can't prove, judged by hand: `explanations.toml`."""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.refusals.sites import Change, sites_of

LIST = Path(__file__).with_name("explanations.toml")


@dataclass(frozen=True)
class Explanation:
    """A refusal, identified by its file, its function, and its statement as `ast.unparse` writes it.

    `mutants`: which of `gone`, `always`, and `reason` (all of them, or `without` this one) no test detects, and `why`.
    If it was judged by hand, `test` and `twin` name what was found.
    """

    file: str
    function: str
    says: str
    mutants: tuple[str, ...]
    why: str
    without: str = ""
    test: str = ""
    twin: str = ""

    def explains(self, change: Change) -> bool:
        site = change.site
        same = (site.file, site.function, site.key) == (self.file, self.function, self.says)
        return same and change.kind in self.mutants and self.without in ("", change.reason)


def explanations() -> list[Explanation]:
    """All rows of the list."""
    rows = tomllib.loads(LIST.read_text(encoding="utf-8")).get("refusal", [])
    return [Explanation(**{**row, "mutants": tuple(row["mutants"])}) for row in rows]


def stale(row: Explanation, root: Path) -> bool:
    """Whether the refusal no longer exists in the code."""
    path = root / row.file
    found = sites_of(row.file, path.read_text(encoding="utf-8")) if path.exists() else []
    if row.mutants:
        return not any(row.explains(change) for _, changes in found for change in changes)
    return not any((site.function, site.key) == (row.function, row.says) for site, _ in found)


def is_test(name: str, root: Path) -> bool:
    """Whether `tests/a/test_b.py::test_c` names a test."""
    file, _, test = name.partition("::")
    path = root / file
    functions = ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ()
    return any(
        isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name == test.partition("[")[0]
        for one in functions
    )

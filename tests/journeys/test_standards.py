"""Each row of the security standards names tests that exist, or says why it has none."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
STANDARDS = tomllib.loads((HERE / "standards.toml").read_text(encoding="utf-8"))
REQUIREMENTS = tomllib.loads((HERE / "requirements.toml").read_text(encoding="utf-8"))
REASON = re.compile(r"(Not here|Operator|Gap): \S.{4,}[.)]")


def fault_of(row: str) -> str:
    """What is wrong with a row; empty if nothing."""
    has_reason = REASON.fullmatch(row) is not None
    named = re.findall(r"[a-z0-9_/]+\.py|\b[SV]-\d+\b", row) if has_reason else row.split()
    for one in named:
        if one not in REQUIREMENTS and not (one.endswith(".py") and (HERE / one).is_file()):
            return f"{one} is no requirement and no test"
    return "" if named or has_reason else "neither a test nor a reason"


@pytest.mark.parametrize("name", list(STANDARDS))
def test_every_row_has_a_test_or_a_reason(name: str) -> None:
    chapters = {chapter: rows for chapter, rows in STANDARDS[name].items() if isinstance(rows, dict)}
    faults = {
        f"{chapter} {key}": fault
        for chapter, rows in chapters.items()
        for key, row in rows.items()
        if (fault := fault_of(row))
    }
    assert not faults
    assert sum(map(len, chapters.values())) == STANDARDS[name]["rows"]


@pytest.mark.parametrize("row", ["", "Gap:", "Elsewhere: somebody does it.", "S-999", "mcp/test_nothing.py"])
def test_a_row_that_shows_nothing_is_noticed(row: str) -> None:
    assert fault_of(row)
    assert not fault_of("S-001 mcp/test_budgets.py")

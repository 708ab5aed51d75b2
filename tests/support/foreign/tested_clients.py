"""Which clients ran against the vault: the table in `docs/evidence/clients.md`, made from the tests that ran them.

    python -m tests.support.foreign.tested_clients [FILE...]

runs every test that has a mark `client(key, transport, form, revision)`, or those of some files, and writes each
client, revision, transport and form whose tests passed, with today's date. Rows that weren't run again stay unchanged.
The table has one row per client, day, and revision.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/evidence/clients.md"
HEADER = "| Client | Version | Revision | Ran | Transport: form | Test |"
RULE = "| --- | --- | --- | --- | --- | --- |"


def _installed_version(package: str) -> str:
    return importlib.metadata.version(package)


def _npm(package: str) -> str:
    wanted = json.loads((ROOT / "tests/node/package.json").read_text(encoding="utf-8"))
    return str(wanted["dependencies"][package])


def _sdk(package: str, lock: str) -> str:
    """The release that `make sdks` installs."""
    pins = (ROOT / "tests/sdks" / f"{lock}.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)", pins, re.MULTILINE)
    if found is None:
        raise KeyError(package)
    return found[1]


def _claude_code() -> str:
    program = os.environ.get("CLAUDE_CODE", "")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout if program else ""
    return told.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Software:
    """A client as the table names it; `version` is empty if it isn't installed."""

    name: str
    version: Callable[[], str]


SOFTWARE: Mapping[str, Software] = {
    "python": Software("Python `mcp`", partial(_installed_version, "mcp")),
    "typescript": Software("TypeScript `@modelcontextprotocol/sdk`", partial(_npm, "@modelcontextprotocol/sdk")),
    "typescript-client": Software(
        "TypeScript `@modelcontextprotocol/client`", partial(_npm, "@modelcontextprotocol/client")
    ),
    "inspector": Software("Inspector, command line", partial(_npm, "@modelcontextprotocol/inspector")),
    "mcp-remote": Software("`mcp-remote`", partial(_npm, "mcp-remote")),
    "langgraph": Software("LangGraph, `langchain-mcp-adapters`", partial(_sdk, "langchain-mcp-adapters", "mcp-1")),
    "openai-agents": Software("OpenAI Agents SDK", partial(_sdk, "openai-agents", "mcp-2")),
    "pydantic-ai": Software("Pydantic AI", partial(_sdk, "pydantic-ai-slim", "mcp-2")),
    "claude-code": Software("Claude Code, `claude -p` with a scripted model", _claude_code),
    "openid-client": Software("`openid-client`", partial(_npm, "openid-client")),
    "httpx": Software("`httpx`", partial(_installed_version, "httpx")),
}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """What makes a row distinct."""

    key: str
    revision: str
    transport: str
    form: str


class PassedTests:
    """A pytest plugin: runs only the marked tests, and records those that passed."""

    def __init__(self) -> None:
        self.passed: dict[Place, set[str]] = {}  # and the files of the tests
        self.failed: set[Place] = set()
        self._marks: dict[str, list[Place]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("client"):
                self._marks.setdefault(item.nodeid, []).append(read_mark(*mark.args))
        items[:] = [item for item in items if item.nodeid in self._marks]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for place in self._marks[report.nodeid]:
            if report.failed:
                self.failed.add(place)
            elif report.when == "call" and report.passed:
                self.passed.setdefault(place, set()).add(report.nodeid.partition("::")[0])


def read_mark(key: str, transport: str, form: str, revision: str = "") -> Place:
    """The row of a mark."""
    if key not in SOFTWARE:
        raise KeyError(f"{key} has no entry in SOFTWARE")
    return Place(key, revision, transport, form)


def row_of(place: Place, files: Iterable[str], day: str) -> tuple[str, ...]:
    """The cells."""
    software = SOFTWARE[place.key]
    named = ", ".join(f"`{one}`" for one in sorted(files))
    return software.name, software.version(), place.revision, place.transport, place.form, day, named


def rows_in(page: str) -> list[tuple[str, ...]]:
    """What the table contains, in the form of `row_of`: a row's tests cover each transport and form in it."""
    _, _, rest = page.partition(f"{HEADER}\n{RULE}\n")
    found: list[tuple[str, ...]] = []
    for line in rest.partition("\n\n")[0].splitlines():
        name, version, revision, day, ways, files = (cell.strip() for cell in line.strip("|").split("|"))
        for way in ways.split("; "):
            transport, _, forms = way.partition(": ")
            found += [(name, version, revision, transport, form, day, files) for form in forms.split(" or ")]
    return found


def lines_of(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of the table."""
    lines: dict[tuple[str, ...], dict[str, list[str]]] = {}
    files: dict[tuple[str, ...], set[str]] = {}
    for name, version, revision, transport, form, day, named in rows:
        line = (name, version, revision, day)
        lines.setdefault(line, {}).setdefault(transport, []).append(form)
        files.setdefault(line, set()).update(named.split(", "))
    found: list[str] = []
    for line, ways in lines.items():
        shown = "; ".join(f"{transport}: {' or '.join(forms)}".removesuffix(": ") for transport, forms in ways.items())
        cells = (*line, shown, ", ".join(sorted(files[line])))
        found.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return found


def merge_rows(old: Sequence[tuple[str, ...]], new: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """New rows, and old ones that weren't run again, in the order of `SOFTWARE`."""
    again = {(row[0], row[2:5]) for row in new}
    kept = [row for row in old if (row[0], row[2:5]) not in again]
    order = [one.name for one in SOFTWARE.values()]
    return sorted([*new, *kept], key=lambda row: (order.index(row[0]), row[2:5]))


def replace_table(page: str, rows: Sequence[tuple[str, ...]]) -> str:
    """The page with these rows."""
    before, found, rest = page.partition(f"{HEADER}\n{RULE}\n")
    if not found:
        raise ValueError("the page has no such table")
    _, _, after = rest.partition("\n\n")
    return before + found + "\n".join(lines_of(rows)) + "\n\n" + after


def main(chosen: Sequence[str]) -> None:
    """Run the tests, all or those of the chosen files, and write the rows of those that passed."""
    watching = PassedTests()
    chosen = chosen or sorted(str(path) for path in marked_files())
    code = pytest.main(["-q", "-p", "no:cacheprovider", "--timeout", "300", *chosen], plugins=[watching])
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    new = [row_of(place, files, day) for place, files in watching.passed.items() if place not in watching.failed]
    page = PAGE.read_text(encoding="utf-8")
    rows = merge_rows(rows_in(page), new)
    PAGE.write_text(replace_table(page, rows), encoding="utf-8")
    print(f"{len(new)} rows written, {len(rows) - len(new)} kept as they were")
    if code != pytest.ExitCode.OK:
        sys.exit(f"some tests failed ({code!r}), so no row was written for {sorted(watching.failed)}")


def marked_files() -> list[Path]:
    """Test files with such marks."""
    own = {Path(__file__), ROOT / "tests/journeys/test_tested_clients.py"}
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if "node_modules" not in path.parts]
    return [path for path in found if path not in own and "mark.client" in path.read_text(encoding="utf-8")]


if __name__ == "__main__":
    main(sys.argv[1:])

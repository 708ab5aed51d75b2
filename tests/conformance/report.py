"""`docs/evidence/conformance.md`: what ran, with which result, and what doesn't apply and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from tests.conformance.running import REVISIONS, Check, version
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "evidence" / "conformance.md"
_START = """# Conformance

`make conformance WRITE=1` (after `make node`) runs the official MCP suite, npm `@modelcontextprotocol/conformance`
{version}, against a running vault, with a shim for tokens and the tools that it calls by name, and writes this page.
{date}: {passed} checks passed, {failed} failed, in {scenarios} scenarios.

| Scenario | {revisions} |
| --- | {rules} |
"""


def write(checks: Iterable[Check], gaps: Mapping[str, str], excused: Mapping[str, str]) -> None:
    """The page. `gaps` and `excused`: why scenarios, and checks of others, don't apply."""
    checks = [check for check in checks if check.name not in excused]
    cells: dict[str, dict[str, Counter[str]]] = {}
    for check in checks:
        cells.setdefault(check.scenario, {}).setdefault(check.revision, Counter())[check.status] += 1
    text = _START.format(
        version=version(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        passed=sum(check.status == "SUCCESS" for check in checks),
        failed=sum(check.status == "FAILURE" for check in checks),
        scenarios=sum(len(found) for found in cells.values()),
        revisions=" | ".join(REVISIONS),
        rules=" | ".join("---" for _ in REVISIONS),
    )
    for scenario, found in cells.items():
        text += f"| {scenario} | {' | '.join(_cell(found.get(revision)) for revision in REVISIONS)} |\n"
    warned = [check for check in checks if check.status in {"WARNING", "SKIPPED"}]
    if warned:
        text += "\nNot passed and not failed, in the suite's words:\n\n"
        lines = {
            f"- {one.scenario}, {one.name}: {' '.join(one.message.split()) or one.status.lower()}" for one in warned
        }
        text += "\n".join(sorted(lines)) + "\n"
    text += "\n## What doesn't apply\n\n`tests/conformance/gaps.toml` names scenarios, and checks of others.\n\n"
    text += "| Number | Why |\n| --- | --- |\n"
    by_reason: dict[str, list[str]] = {}
    for name, reason in (*gaps.items(), *excused.items()):
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        text += f"| {len(names)} | {reason} |\n"
    PAGE.write_text(text, encoding="utf-8")


def _cell(found: Counter[str] | None) -> str:
    if found is None:
        return "not of this revision"
    words = {"SUCCESS": "passed", "FAILURE": "failed", "WARNING": "warned", "SKIPPED": "skipped"}
    return ", ".join(f"{found[status]} {word}" for status, word in words.items() if found[status]) or "nothing to check"


def _one_line(text: str) -> str:
    return " ".join(text.split())

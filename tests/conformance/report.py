"""Write `docs/evidence/conformance.md`: what ran, the results, and what doesn't apply and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from tests.conformance.suite import REVISIONS, Check, version
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "evidence" / "conformance.md"
_START = """# Conformance

`make conformance WRITE=1` (after `make node`) runs the official MCP suite, npm `@modelcontextprotocol/conformance`
{version}, against a running vault with a shim for tokens and the suite's tools, and writes this page. {date}: {passed}
checks passed, {failed} failed, in {scenarios} scenarios:

"""

_OPENID = """## OpenID Connect

`make openid` runs two libraries' end-to-end tests with a shim (`GAPS` in `tests/conformance/openid.py`):

"""
_NOT_RUN = (
    "`oidc-provider`: not run: `test/test_helper.js` starts its own provider, and `certification/runner/api.js`, like "
    "`conformance/api.ts` of the other two, calls OpenID's own suite, a server that is in no package"
)


def write(checks: Iterable[Check], gaps: Mapping[str, str], excused: Mapping[str, str]) -> None:
    """Write the page. `gaps` and `excused` say why scenarios, and checks of others, don't apply."""
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
    )
    for revision in REVISIONS:
        ran = [f"{scenario} {_count_text(found[revision])}" for scenario, found in cells.items() if revision in found]
        text += f"- {revision}: {', '.join(ran)}\n"
    warned = [check for check in checks if check.status in {"WARNING", "SKIPPED"}]
    if warned:
        text += "\nNot passed and not failed, in the suite's words:\n\n"
        lines = {
            f"- {one.scenario}, {one.name}: {' '.join(one.message.split()) or one.status.lower()}" for one in warned
        }
        text += "\n".join(sorted(lines)) + "\n"
    text += "\n## What doesn't apply\n\nScenarios and checks (`tests/conformance/gaps.toml`):\n\n"
    by_reason: dict[str, list[str]] = {}
    for name, reason in (*gaps.items(), *excused.items()):
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        text += f"- {len(names)}: {reason}\n"
    PAGE.write_text(text + _openid_part(), encoding="utf-8")


def write_openid(results: Iterable[str]) -> None:
    """Replace the part about OpenID Connect with these results, one line each."""
    before = PAGE.read_text(encoding="utf-8").removesuffix(_openid_part())
    lines = "".join(f"- {datetime.now(UTC):%Y-%m-%d}, {one}\n" for one in (*results, _NOT_RUN))
    PAGE.write_text(f"{before}\n{_OPENID}{lines}", encoding="utf-8")


def _openid_part() -> str:
    _, heading, rest = PAGE.read_text(encoding="utf-8").partition(f"\n{_OPENID}")
    return heading + rest


def _count_text(found: Counter[str]) -> str:
    """How many checks passed, and what happened to the others."""
    words = {"FAILURE": "failed", "WARNING": "warned", "SKIPPED": "skipped"}
    others = "".join(f" ({found[status]} {word})" for status, word in words.items() if found[status])
    return f"{found['SUCCESS']}{others}"

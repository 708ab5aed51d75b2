"""The rules and cases of docs/operate/policy.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path

from server.policy.cases import run_cases
from server.policy.checks import doubts
from server.policy.schema import ATTRIBUTES, GROUPS
from tests.generating.documentation import DOCS
from tests.support.rules import rules_in

PAGE = (DOCS / "operate" / "policy.md").read_text(encoding="utf-8")


def block(kind: str, number: int = 0) -> str:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)[number]


async def test_the_pages_cases_hold_for_its_rules(tmp_path: Path) -> None:
    here = await rules_in(tmp_path, zone="Europe/Berlin")
    rules = here.load(block("cedar"))
    assert (len(rules.rules), doubts(rules)) == (3, [])
    cases = here.folder / "cases.toml"
    cases.write_text(block("toml", 1))
    results = run_cases([cases], rules, here.place)
    assert [(one.is_right, one.verdict.rule) for one in results] == [(True, "mail-outside"), (True, "contractors")]
    post = {"arguments": {"channel": "#general", "text": "Hello"}}
    assert here.outcome(rules, "slack_post", **post) == "allow"
    assert here.judge(rules, "slack_post", **post, at="2026-01-07T20:00").rule == "office-hours"


def test_the_page_names_everything_that_a_rule_can_look_at() -> None:
    missing = {name for name in ATTRIBUTES | set(GROUPS) if f"`{name}`" not in PAGE}
    assert not missing

"""The page about sizes plans with the figures that were measured."""

from __future__ import annotations

import re

from tests.generating.documentation import DOCS
from tests.generating.plan import PAGE, read_costs

SPEED = " ".join((DOCS / "evidence/speed.md").read_text(encoding="utf-8").split())


def milliseconds(pattern: str) -> list[float]:
    """Figures that the page of measurements gives in microseconds."""
    found = re.search(pattern, SPEED)
    assert found is not None, pattern
    return [round(int(one) / 1000, 2) for one in found.groups()]


def test_the_plan_uses_the_figures_of_the_page_of_measurements() -> None:
    costs = read_costs(PAGE.read_text(encoding="utf-8"))
    assert [costs.call, costs.call_in_postgres] == milliseconds(r"(\d+) us a call, and (\d+) of PostgreSQL's")
    assert [costs.handle, costs.handle_in_postgres] == milliseconds(
        r"\| a new handle \| 1, 2, 4 \| (\d+),[\d ,]*\| (\d+),"
    )


def test_other_figures_for_planning_are_measured_ones() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    (call,), (proxied,) = (
        milliseconds(r"\| token vault \| (\d+) \|"),
        milliseconds(r"`chat\.postMessage` took (\d+) us"),
    )
    assert f"tool call: {call} ms of a core on SQLite" in text
    assert f"API proxy: {proxied} ms" in text
    repeated = milliseconds(r"\| a token released a moment ago \| 1, 2, 4 \| (\d+),[\d ,]*\| (\d+),")
    assert f"for a new handle: {repeated[0]} and " in text
    assert f"and {repeated[1]} and " in text
    fastest = re.search(r"1, 4, and 16 writers made \d+, (\d+), and \d+ a second", SPEED)
    assert fastest is not None
    assert f"[{int(fastest[1]):,} a second]" in text

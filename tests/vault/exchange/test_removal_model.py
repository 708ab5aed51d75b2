"""The model of deriving a grant while its client is removed keeps its promise, and finds each broken rule."""

from __future__ import annotations

import pytest

from tests.support.models.removal_model import DONE, REFUSED, Rules, explore, way_to_survivor


def test_nothing_that_is_derived_outlives_what_it_depends_on() -> None:
    assert way_to_survivor(Rules()) == []
    ends = {(one.exchange, one.is_live) for one in explore(Rules()) if one.removal == DONE}
    assert {(DONE, False), (REFUSED, False)} <= ends


@pytest.mark.parametrize("broken", [Rules(holds=False), Rules(checks=False), Rules(ends_first=False)], ids=str)
def test_each_broken_rule_is_noticed(broken: Rules) -> None:
    assert way_to_survivor(broken)

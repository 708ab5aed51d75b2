"""A database that goes back in time: nothing spent is presented if the journal is checked before each send."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.models.refresh_model import PROVIDERS, Budget, Provider
from tests.support.models.rollback_model import RollbackRules, explore

KILL = Budget(kills=1, pauses=0, losses=0, failures=0, claims=3)
LOSS = Budget(kills=0, pauses=0, losses=1, failures=1, claims=2)
CALM = Budget(kills=0, pauses=0, losses=0, failures=0, claims=3)
STAYS, RESENDS, SIBLING, STRICT, REVOKES = PROVIDERS
BUDGETS = (  # with a grace, three claims reach five times as many states as with any other provider
    *((KILL, one, f"kill-{one.name}") for one in (STAYS, STRICT, REVOKES)),
    *((KILL._replace(claims=2), one, f"kill, two claims-{one.name}") for one in (RESENDS, SIBLING)),
    *((LOSS, one, f"loss and failing commit-{one.name}") for one in PROVIDERS),
)
LARGE = ((KILL, one, f"kill-{one.name}") for one in (RESENDS, SIBLING))


@pytest.mark.parametrize(
    ("budget", "provider"),
    [
        *(pytest.param(budget, provider, id=name) for budget, provider, name in BUDGETS),
        *(pytest.param(budget, provider, id=name, marks=pytest.mark.long) for budget, provider, name in LARGE),
    ],
)
def test_a_database_that_goes_back_costs_nothing_while_its_hosts_journal_is_there(
    provider: Provider, budget: Budget
) -> None:
    found = explore(provider, rules=RollbackRules(), budget=budget)
    assert found.states > 100
    assert found.lost == []
    assert found.doubled == []


@pytest.mark.parametrize("provider", [RESENDS, SIBLING, REVOKES], ids=lambda provider: provider.name)
@pytest.mark.parametrize(
    "rules",
    [RollbackRules(looks_always=False), RollbackRules(has_journal=False)],
    ids=["asked where a send shows", "none"],
)
def test_without_a_look_into_the_journal_at_each_attempt_the_model_finds_the_loss(
    provider: Provider, rules: RollbackRules
) -> None:
    found = explore(provider, rules=rules, budget=CALM, until_harm=True)
    assert "back" in found.lost


@pytest.mark.parametrize("provider", [RESENDS, SIBLING, STRICT, REVOKES], ids=lambda provider: provider.name)
def test_where_a_consent_only_follows_its_row_the_model_finds_an_older_answer_in_its_place(provider: Provider) -> None:
    found = explore(provider, rules=RollbackRules(consents_outrun=False), budget=CALM, until_harm=True)
    assert "consent" in found.lost


@pytest.mark.parametrize("provider", [RESENDS, SIBLING, STRICT, REVOKES], ids=lambda provider: provider.name)
def test_where_each_restore_adds_the_same_the_model_finds_an_answer_from_between_two(provider: Provider) -> None:
    rules = RollbackRules(restores=2)
    found = explore(provider, rules=replace(rules, restores_outrun=False), budget=CALM, until_harm=True)
    assert found.lost.count("restore") == 2
    found = explore(provider, rules=rules, budget=CALM)
    assert found.lost == found.doubled == []

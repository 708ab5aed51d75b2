"""The rules of refreshing hold in every interleaving, and each of them is needed; `make chaos` explores further."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import pytest

from tests.support.models.exploration import SeenWhole, VisitedClasses, explore
from tests.support.models.refresh_model import PROVIDERS, Budget, Provider, Rules
from vault.refresh import rules as rotation_rules
from vault.refresh.rules import SendDecision, UnresolvedSends, may_send, pause_after, seconds_of_grace
from vault.upstream import UpstreamPolicy

STAYS, RESENDS, SIBLING, STRICT, REVOKES = PROVIDERS
NARROW = (  # together, these cover every kind of failure, in pairs small enough for the suite
    Budget(kills=1, pauses=1, losses=0, failures=0, claims=2),
    Budget(kills=1, pauses=0, losses=1, failures=1, claims=2),
    Budget(kills=0, pauses=1, losses=0, failures=0, claims=3, unknown=1),
    Budget(kills=0, pauses=0, losses=1, failures=0, claims=2, unknown=2),
    Budget(kills=1, pauses=0, losses=1, failures=0, claims=2, files=1),
    Budget(kills=0, pauses=0, losses=4, failures=0, claims=6),
    Budget(kills=0, pauses=0, losses=2, failures=0, claims=3, asks=2),
)
NAMES = (
    "kill and pause",
    "kill, loss and failing commit",
    "pause and unknown commit",
    "loss and two unknown commits",
    "kill, loss and missing file",
    "a bad hour",
    "a provider that asks to wait",
)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
@pytest.mark.parametrize("budget", NARROW, ids=NAMES)
def test_nothing_is_lost_outside_the_gap_nothing_is_sent_twice_and_nothing_is_stuck(
    provider: Provider, budget: Budget
) -> None:
    found = explore(provider, budget=budget)
    assert found.states > 10
    assert found.lost == []
    assert found.doubled == []
    assert found.stuck == []


@pytest.mark.parametrize("provider", [STRICT, REVOKES], ids=lambda provider: provider.name)
def test_a_loss_in_the_gap_is_found_where_no_client_can_avoid_it(provider: Provider) -> None:
    assert explore(provider, budget=NARROW[0]).lost_in_gap > 0


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_looking_at_classes_of_states_leaves_nothing_out(provider: Provider) -> None:
    whole, reduced = SeenWhole(), VisitedClasses()
    everything = explore(provider, budget=NARROW[1], seen=whole)
    found = explore(provider, budget=NARROW[1], seen=reduced)
    assert set(reduced.classes) == whole.classes
    assert found.states < everything.states
    assert (found.lost_in_gap > 0) == (everything.lost_in_gap > 0)


def sends_at_once(policy: UpstreamPolicy, unresolved: Collection[UnresolvedSends], **facts: int | None) -> SendDecision:
    return SendDecision.SEND


def sends_to_the_end_of_grace(
    policy: UpstreamPolicy, unresolved: Collection[UnresolvedSends], *, now: int, **facts: int | None
) -> SendDecision:
    longer = replace(policy, grace=policy.grace + 2 * rotation_rules.SEND_DEADLINE)
    return may_send(longer, unresolved, now=now, access_expires_at=facts["access_expires_at"])


def waits_to_the_end_of_grace(
    policy: UpstreamPolicy, unresolved: Collection[UnresolvedSends], *, now: int, asked: int, **facts: bool
) -> int:
    left = seconds_of_grace(policy, unresolved, now=now) if unresolved else 0
    return min(asked, left - 1) if left else pause_after(policy, unresolved, now=now, asked=asked, **facts)


def stops_after_three(
    policy: UpstreamPolicy, unresolved: Collection[UnresolvedSends], *, now: int, **facts: int | None
) -> SendDecision:
    if sum(one.sends for one in unresolved) >= 3:
        return SendDecision.WAIT  # forever
    return may_send(policy, unresolved, now=now, **facts)


def sends_while_the_old_token_lives(
    policy: UpstreamPolicy, unresolved: Collection[UnresolvedSends], *, now: int, **facts: int | None
) -> SendDecision:
    return may_send(policy, unresolved, now=now, access_expires_at=now)


def stores_everything(*, spent_generation: int, row_generation: int, holds_lease: bool) -> bool:
    return True


def never_under_the_lease(*, spent_generation: int, row_generation: int, holds_lease: bool) -> bool:
    return spent_generation >= row_generation


@dataclass(frozen=True)
class BrokenTable:
    """A table with one changed rule, and where the model must detect it."""

    name: str
    rules: Rules
    provider: Provider
    budget: Budget
    harm: str = "lost"

    def is_noticed(self) -> bool:
        found = explore(self.provider, rules=self.rules, budget=self.budget, until_harm=True)
        return bool(getattr(found, self.harm))


THREE = Budget(kills=1, pauses=1, losses=0, failures=0, claims=3)
BROKEN = (
    BrokenTable("silence is sent again", Rules(may_send=sends_at_once), REVOKES, NARROW[0]),
    BrokenTable("1: a lapsed lease is death", Rules(lapsed_is_dead=True), REVOKES, NARROW[0]),
    BrokenTable("1: a lapsed lease is death, doubled", Rules(lapsed_is_dead=True), STRICT, NARROW[0], harm="doubled"),
    BrokenTable("2: one intent only", Rules(one_intent_only=True), RESENDS, THREE),
    BrokenTable("3: an older answer is stored", Rules(is_newer=stores_everything), SIBLING, NARROW[0]),
    BrokenTable("3: a later sibling is dropped", Rules(is_newer=never_under_the_lease), SIBLING, NARROW[0]),
    BrokenTable("4: late answers are dropped", Rules(keeps_late_answers=False), RESENDS, NARROW[0]),
    BrokenTable("5: grace to its last second", Rules(may_send=sends_to_the_end_of_grace), RESENDS, THREE),
    BrokenTable("5: a wait to its end", Rules(pause_after=waits_to_the_end_of_grace), RESENDS, NARROW[6]),
    BrokenTable("6: a claim that slept is sent", Rules(is_claim_void=lambda _: False), RESENDS, NARROW[0]),
    BrokenTable("7: any death frees the lease", Rules(any_death_frees=True), RESENDS, THREE, harm="doubled"),
    BrokenTable("8: a fence counts from the row", Rules(has_unique_fences=False), REVOKES, NARROW[2]),
    BrokenTable("8: the same, doubled", Rules(has_unique_fences=False), STRICT, NARROW[2], harm="doubled"),
    BrokenTable("9: any intent of the owner changes", Rules(has_exact_intents=False), REVOKES, NARROW[2]),
    BrokenTable("both of 8 and 9", Rules(has_unique_fences=False, has_exact_intents=False), REVOKES, NARROW[2]),
    BrokenTable("10: a missing file is death", Rules(missing_is_dead=True), REVOKES, NARROW[4], harm="doubled"),
    BrokenTable("11: three silences are the end", Rules(may_send=stops_after_three), REVOKES, NARROW[5], harm="stuck"),
    BrokenTable("12: no pause after a silence", Rules(pause_after=lambda *_, **__: 0), REVOKES, NARROW[5]),
    BrokenTable("no journal", Rules(has_journal=False), STRICT, NARROW[1]),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_without_this_rule_the_model_finds_the_harm(broken: BrokenTable) -> None:
    assert broken.is_noticed()

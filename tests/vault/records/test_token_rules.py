"""The rule for repeated refresh tokens (RFC 9700 §4.14.2), in every interleaving of honest processes and a thief."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.models.token_model import AWAY, GRACE, HOME, Budget, Model
from vault.records import RefreshToken
from vault.tokens.token_rules import Family, RepeatVerdict, TokenRepeat, judge, judge_use

HONEST = Budget(uses=5, steps=2, crashes=2)
CARRIED = Budget(uses=4, steps=2, crashes=1, moves=1)
MEETINGS = Budget(uses=10, steps=0, crashes=0, thefts=1)
THEFT = Budget(uses=5, steps=2, crashes=0, thefts=1)


@pytest.mark.requirement("S-080", "S-081")
@pytest.mark.parametrize("budget", [HONEST, CARRIED])
def test_no_honest_client_is_signed_out(budget: Budget) -> None:
    found = Model().explore(budget)
    assert found.states > 3_000
    assert not found.signed_out, found.signed_out


@pytest.mark.requirement("S-079")
@pytest.mark.parametrize("network", [HOME, AWAY])
def test_every_use_of_a_thief_is_seen_and_none_is_answered_late(network: str) -> None:
    found = Model(theft_from=network).explore(THEFT)
    assert found.states > 3_000
    assert found.ended
    assert not found.unseen, found.unseen
    assert not found.late, found.late


@pytest.mark.requirement("S-079")
def test_a_thief_on_another_network_and_the_client_meet_over_two_tokens_and_not_over_a_third() -> None:
    assert Model(theft_from=AWAY).explore(MEETINGS).rallies == 4  # however long they continue, with two processes


Rule = Any  # the signature of `judge_use`


def strict(spent: RefreshToken, family: Family, **facts: Any) -> RepeatVerdict:
    """The strict rule: half a minute, and only the direct successor."""
    return judge_use(replace(spent, key_thumbprint="as if bound"), family, **facts)


def judge_by_grace_only(spent: RefreshToken, family: Family, *, now: int, grace: int, **facts: Any) -> RepeatVerdict:
    """A lost answer is repeated only within the grace."""
    if spent.consumed_at is not None and now >= spent.consumed_at + grace:
        return RepeatVerdict.LATE
    return judge_use(spent, family, now=now, grace=grace, **facts)


def test_the_model_notices_rules_that_sign_people_out() -> None:
    assert Model(decide=strict).explore(HONEST).signed_out
    assert Model(decide=judge_by_grace_only).explore(HONEST).signed_out


def rigid(spent: RefreshToken, family: Family, **facts: Any) -> RepeatVerdict:
    """Any other network ends the family, however soon."""
    verdict = judge_use(spent, family, **facts)
    return RepeatVerdict.ELSEWHERE if verdict is RepeatVerdict.MOVED else verdict


def test_the_model_notices_a_rule_that_a_change_of_network_trips() -> None:
    assert Model(decide=rigid).explore(CARRIED).signed_out


def endless(spent: RefreshToken, family: Family, *, grace: int, **facts: Any) -> RepeatVerdict:
    return judge_use(spent, family, grace=10 * 86400 + grace, **facts)


def blind(spent: RefreshToken, family: Family, *, network: str, **facts: Any) -> RepeatVerdict:
    """Ignores networks."""
    return judge_use(spent, family, network=None, **facts)


def forgetful(spent: RefreshToken, family: Family, **facts: Any) -> RepeatVerdict:
    """Forgets what was answered on another network before, so that the network counts as known."""
    return judge_use(spent, {n: replace(one, moved_at=None) for n, one in family.items()}, **facts)


def test_the_model_notices_rules_that_let_a_thief_stay() -> None:
    assert Model(theft_from=HOME, decide=endless).explore(THEFT).late
    assert Model(theft_from=AWAY, decide=blind).explore(MEETINGS).rallies > 4
    assert Model(theft_from=AWAY, decide=forgetful).explore(MEETINGS).rallies > 4


USUAL = TokenRepeat(
    spent_at=1000,
    now=1300,
    is_successor_used=True,
    spent_on=frozenset({HOME}),
    repeated_on=HOME,
    known=frozenset({HOME}),
    moves=0,
    is_authenticated=False,
    is_bound=False,
)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "same"),
        ({"now": 1000 + GRACE - 1}, "same"),
        ({"now": 1000 + GRACE}, "late"),
        ({"now": 1000 + GRACE, "is_successor_used": False}, "same"),
        ({"repeated_on": AWAY}, "moved"),
        ({"repeated_on": AWAY, "moves": 1}, "moved"),
        ({"repeated_on": AWAY, "moves": 2}, "elsewhere"),
        ({"repeated_on": AWAY, "moves": 2, "known": frozenset({HOME, AWAY})}, "same"),
        ({"repeated_on": AWAY, "moves": 2, "known": frozenset({AWAY})}, "elsewhere"),
        ({"repeated_on": AWAY, "moves": 2, "is_authenticated": True}, "same"),
        ({"repeated_on": "2001:db8::/32", "moves": 2}, "same"),
        ({"repeated_on": None, "moves": 2}, "same"),
        ({"spent_on": frozenset[str](), "repeated_on": AWAY, "moves": 2}, "same"),
        ({"spent_on": frozenset({HOME, AWAY}), "moves": 2}, "elsewhere"),
        ({"repeated_on": AWAY, "now": 1000 + GRACE}, "late"),
        ({"is_bound": True}, "bound"),
        ({"is_bound": True, "is_successor_used": False, "now": 1029}, "same"),
        ({"is_bound": True, "is_successor_used": False, "now": 1030}, "bound"),
        ({"is_bound": True, "now": 1001}, "bound"),
    ],
)
def test_each_limit_of_the_rule(changes: dict[str, Any], verdict: str) -> None:
    assert judge(replace(USUAL, **changes), grace=GRACE).value == verdict


NOW = 1_800_000_000


def used_token(generation: int, network: str, **facts: Any) -> RefreshToken:
    """One of a family, used a second ago."""
    end = NOW + 86400
    about = RefreshToken(b"", "grant", "client", "family", generation, frozenset(), "", 0, end, end)
    return replace(about, issued_to=network, consumed_at=NOW - 1, **facts)


@pytest.mark.parametrize(
    ("age", "verdict"), [(30 * 86400 - 1, RepeatVerdict.ELSEWHERE), (30 * 86400, RepeatVerdict.MOVED)]
)
def test_an_answer_on_another_network_counts_for_30_days(age: int, verdict: RepeatVerdict) -> None:
    family = {n: used_token(n, HOME, moved_at=NOW - age if n < 3 else None) for n in range(1, 5)}
    facts = {"network": AWAY, "is_authenticated": False, "now": NOW, "grace": GRACE}
    assert judge_use(family[3], family, **facts) is verdict


@pytest.mark.parametrize(
    ("networks", "repeated_on", "verdict"),
    [
        ((HOME, HOME, AWAY), AWAY, RepeatVerdict.SAME),  # where the second token was used
        ((HOME, HOME, AWAY), HOME, RepeatVerdict.MOVED),
        ((HOME, AWAY, HOME), AWAY, RepeatVerdict.SAME),  # where the client got it
        ((HOME, HOME, HOME), AWAY, RepeatVerdict.MOVED),
    ],
)
def test_a_token_that_comes_back_where_its_client_was_is_no_move(
    networks: tuple[str, ...], repeated_on: str, verdict: RepeatVerdict
) -> None:
    """`networks`: where each token was issued, which is where the one before it was used."""
    family = {n: used_token(n, network) for n, network in enumerate(networks, start=1)}
    facts = {"network": repeated_on, "is_authenticated": False, "now": NOW, "grace": GRACE}
    assert judge_use(family[2], family, **facts) is verdict


def test_without_a_grace_every_repeat_is_a_contradiction() -> None:
    for repeat in (USUAL, replace(USUAL, now=1000, is_successor_used=False), replace(USUAL, is_authenticated=True)):
        assert judge(repeat, grace=0) is RepeatVerdict.LATE

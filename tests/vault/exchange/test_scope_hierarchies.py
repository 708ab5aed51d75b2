"""The scope hierarchies of all shipped provider files: as data, and whether the algebra holds for each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.api.rules import Call, allows
from providers.definitions.catalog import SHELF, load_catalog
from providers.definitions.model import Provider
from vault.records import Narrowing
from vault.scopes import derives, expand, is_within, meet, plan
from vault.upstream import Downscope, ItemLimit

CATALOG = load_catalog()
EVERYTHING = tuple(CATALOG.provider(path.stem) for path in sorted(SHELF.glob("*.toml")))  # keys have no scopes
LAYERED = tuple(provider for provider in EVERYTHING if provider.covers)
Drawn = tuple[Provider, frozenset[str], frozenset[str], frozenset[str]]


@st.composite
def scope_sets(draw: st.DrawFn, providers: tuple[Provider, ...] = EVERYTHING) -> Drawn:
    """A provider and three sets of its scopes."""
    provider = draw(st.sampled_from(providers))
    some = st.frozensets(st.sampled_from(sorted(provider.scopes)), max_size=8)
    return provider, draw(some), draw(some), draw(some)


def test_there_are_hierarchies_to_look_at() -> None:
    assert len(LAYERED) >= 7
    assert {"google", "microsoft", "dropbox", "github", "box"} <= {provider.name for provider in LAYERED}


@pytest.mark.parametrize("provider", LAYERED, ids=lambda provider: provider.name)
def test_no_scope_includes_itself_and_no_two_include_each_other(provider: Provider) -> None:
    for scope, reach in provider.covers.items():
        assert scope not in reach
        assert all(scope not in provider.covers.get(other, ()) for other in reach)
        assert reach <= frozenset(provider.scopes)
        assert expand(frozenset({scope}), provider.covers) == reach | {scope}


@settings(max_examples=400)
@given(scope_sets(LAYERED))
def test_the_meet_never_grows_and_meeting_again_changes_nothing(drawn: Drawn) -> None:
    provider, a, b, c = drawn
    covers = provider.covers
    both = meet(a, b, covers)
    assert expand(both, covers) == expand(a, covers) & expand(b, covers)
    assert meet(both, both, covers) == both
    assert meet(both, a, covers) == both
    assert meet(b, a, covers) == both
    assert meet(both, c, covers) == meet(a, meet(b, c, covers), covers)


@settings(max_examples=400)
@given(scope_sets(), st.none() | st.just("https://api.example/one/thing"))
def test_no_plan_at_any_shipped_provider_holds_more_than_the_request_the_permission_and_the_account(
    drawn: Drawn, item: str | None
) -> None:
    provider, wanted, delegation, connection = drawn
    policy = provider.policy()
    made = plan(wanted, delegation=delegation, connection=connection, policy_scopes=None, policy=policy, item=item)
    authority = expand(made.scopes, policy.covers)
    for limit in (wanted, delegation, connection):
        assert authority <= expand(limit, policy.covers)
    if made.needs_narrow_token:
        assert not policy.downscope_is_destructive
        assert policy.downscope is not Downscope.NONE
        assert derives(policy) or made.scopes <= connection  # RFC 6749 §6
    elif made.narrowing is Narrowing.UPSTREAM:
        assert item is None
        assert not policy.grants_more_than_asked
    if item is not None and policy.items is ItemLimit.NONE:
        assert not made.needs_narrow_token


@settings(max_examples=300)
@given(scope_sets(LAYERED))
def test_an_answer_is_within_a_request_exactly_when_the_request_includes_each_of_its_scopes(drawn: Drawn) -> None:
    provider, asked, answered, _ = drawn
    policy = provider.policy()
    inside = answered <= expand(asked, policy.covers) | expand(policy.always_granted, policy.covers)
    assert is_within(answered, asked, policy=policy) == inside
    assert is_within(asked, asked, policy=policy)


@settings(max_examples=300)
@given(scope_sets(tuple(provider for provider in LAYERED if provider.rules)), st.data())
def test_a_scope_opens_all_that_the_scopes_it_includes_open(drawn: Drawn, data: st.DataObject) -> None:
    provider, some, more, _ = drawn
    rule = data.draw(st.sampled_from(provider.rules))
    call = Call(rule.api, rule.method[0], rule.path.replace("{+}", "abc/def").replace("{}", "abc"))
    if allows(provider, call, expand(some, provider.covers)):
        assert allows(provider, call, some)
        assert allows(provider, call, some | more)

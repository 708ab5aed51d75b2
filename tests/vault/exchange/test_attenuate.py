"""The scope algebra: attenuation never grows, and every plan stays inside all of its inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.records import Narrowing
from vault.scopes import covers_all, derives, expand, is_within, meet, missing_scopes, plan, scope_key
from vault.upstream import Downscope, ItemLimit, UpstreamPolicy

NAMES = tuple("abcdefgh")
SCOPES = st.frozensets(st.sampled_from(NAMES), max_size=6)
COVERS = st.dictionaries(st.sampled_from(NAMES), st.frozensets(st.sampled_from(NAMES), max_size=3), max_size=6)
POLICIES = st.builds(
    UpstreamPolicy,
    provider=st.just("google"),
    downscope=st.sampled_from(list(Downscope)),
    downscope_is_destructive=st.booleans(),
    covers=COVERS,
    always_granted=st.frozensets(st.sampled_from(NAMES), max_size=2),
    items=st.sampled_from(list(ItemLimit)),
    grants_more_than_asked=st.booleans(),
)
ITEM = "https://api.example/repos/octo/hello"
CALENDAR = {
    "calendar": frozenset({"calendar.readonly", "calendar.events"}),
    "calendar.events": frozenset({"events.read"}),
}
GOOGLE = UpstreamPolicy(
    provider="google",
    downscope=Downscope.REFRESH_SCOPE,
    covers=CALENDAR,
    always_granted=frozenset({"openid", "email"}),
)


def scopes(*names: str) -> frozenset[str]:
    return frozenset(names)


@given(SCOPES, COVERS)
def test_expanding_keeps_what_was_there_and_is_idempotent(
    held: frozenset[str], covers: dict[str, frozenset[str]]
) -> None:
    whole = expand(held, covers)
    assert held <= whole
    assert expand(whole, covers) == whole


@given(SCOPES, SCOPES, COVERS)
def test_the_meet_never_grows_beyond_either_side(
    a: frozenset[str], b: frozenset[str], covers: dict[str, frozenset[str]]
) -> None:
    both = expand(meet(a, b, covers), covers)
    assert both <= expand(a, covers)
    assert both <= expand(b, covers)


@given(SCOPES, SCOPES, COVERS)
def test_the_meet_loses_nothing_that_both_sides_hold(
    a: frozenset[str], b: frozenset[str], covers: dict[str, frozenset[str]]
) -> None:
    assert expand(meet(a, b, covers), covers) == expand(a, covers) & expand(b, covers)


@given(SCOPES, SCOPES, SCOPES, COVERS)
def test_the_meet_is_idempotent_commutative_and_associative(
    a: frozenset[str], b: frozenset[str], c: frozenset[str], covers: dict[str, frozenset[str]]
) -> None:
    once = meet(a, b, covers)
    assert meet(once, once, covers) == once
    assert meet(once, b, covers) == once
    assert meet(b, a, covers) == once
    assert meet(once, c, covers) == meet(a, meet(b, c, covers), covers)


@given(SCOPES, SCOPES, COVERS)
def test_what_is_missing_and_what_is_covered_agree(
    granted: frozenset[str], wanted: frozenset[str], covers: dict[str, frozenset[str]]
) -> None:
    assert covers_all(granted, wanted, covers) == (not missing_scopes(wanted, granted, covers))


@given(SCOPES | st.none(), SCOPES, SCOPES, SCOPES | st.none(), POLICIES)
def test_a_plan_never_yields_authority_outside_any_of_its_inputs(
    wanted: frozenset[str] | None,
    delegation: frozenset[str],
    connection: frozenset[str],
    ceiling: frozenset[str] | None,
    policy: UpstreamPolicy,
) -> None:
    made = plan(wanted, delegation=delegation, connection=connection, policy_scopes=ceiling, policy=policy)
    authority = expand(made.scopes, policy.covers)
    assert authority <= expand(delegation, policy.covers)
    assert authority <= expand(connection, policy.covers)
    if wanted is not None:
        assert authority <= expand(wanted, policy.covers)
    if ceiling is not None:
        assert authority <= expand(ceiling, policy.covers)


@given(SCOPES | st.none(), SCOPES, SCOPES, POLICIES, st.none() | st.just(ITEM))
def test_a_plan_says_upstream_only_when_the_token_itself_can_carry_no_more(
    wanted: frozenset[str] | None,
    delegation: frozenset[str],
    connection: frozenset[str],
    policy: UpstreamPolicy,
    item: str | None,
) -> None:
    made = plan(wanted, delegation=delegation, connection=connection, policy_scopes=None, policy=policy, item=item)
    if made.needs_narrow_token:
        assert made.narrowing is Narrowing.UPSTREAM
        assert not policy.downscope_is_destructive
        assert made.scopes
        assert policy.items is not (ItemLimit.REQUIRED if item is None else ItemLimit.NONE)
        if policy.downscope is Downscope.REFRESH_SCOPE:
            assert made.scopes <= connection
        else:
            assert derives(policy)
            assert made.scopes <= expand(connection, policy.covers)
    elif made.narrowing is Narrowing.UPSTREAM:
        assert item is None
        assert not policy.grants_more_than_asked
        assert connection - policy.always_granted <= expand(made.scopes, policy.covers)


@given(SCOPES, SCOPES, SCOPES, POLICIES)
def test_a_request_inside_all_limits_is_given_exactly(
    wanted: frozenset[str], delegation: frozenset[str], connection: frozenset[str], policy: UpstreamPolicy
) -> None:
    made = plan(
        wanted, delegation=delegation | wanted, connection=connection | wanted, policy_scopes=None, policy=policy
    )
    assert made.scopes == wanted
    assert made.scope_key == scope_key(wanted)
    assert not made.not_delegated | made.not_granted | made.outside_ceiling


def test_a_wide_scope_covers_the_narrow_ones_below_it_but_not_the_other_way() -> None:
    assert covers_all(scopes("calendar"), scopes("events.read"), CALENDAR)
    assert not covers_all(scopes("events.read"), scopes("calendar"), CALENDAR)
    assert meet(scopes("calendar"), scopes("calendar.events"), CALENDAR) == scopes("calendar.events")


def test_an_unknown_scope_covers_only_itself() -> None:
    assert expand(scopes("mystery"), CALENDAR) == scopes("mystery")


def test_a_plan_names_what_each_limit_leaves_out() -> None:
    made = plan(
        scopes("calendar.events", "drive", "mail"),
        delegation=scopes("calendar", "drive"),
        connection=scopes("calendar", "mail"),
        policy_scopes=scopes("calendar", "drive"),
        policy=GOOGLE,
    )
    assert made.not_granted == scopes("drive")
    assert made.not_delegated == scopes("mail")
    assert made.outside_ceiling == scopes("mail")
    assert made.scopes == scopes("calendar.events")


def test_a_whole_grant_needs_no_token_of_its_own_and_is_upstream() -> None:
    made = plan(
        scopes("calendar"),
        delegation=scopes("calendar"),
        connection=scopes("calendar", "calendar.readonly", "openid", "email"),
        policy_scopes=None,
        policy=GOOGLE,
    )
    assert made.narrowing is Narrowing.UPSTREAM
    assert not made.needs_narrow_token


def test_a_part_of_a_grant_gets_a_token_of_its_own_where_the_provider_can() -> None:
    made = plan(
        scopes("calendar.readonly"),
        delegation=scopes("calendar"),
        connection=scopes("calendar.readonly", "drive"),
        policy_scopes=None,
        policy=GOOGLE,
    )
    assert made.narrowing is Narrowing.UPSTREAM
    assert made.needs_narrow_token


def test_a_scope_granted_only_as_part_of_a_wider_one_is_enforced_by_us() -> None:
    made = plan(
        scopes("calendar.readonly"),
        delegation=scopes("calendar"),
        connection=scopes("calendar", "drive"),
        policy_scopes=None,
        policy=GOOGLE,
    )
    assert made.narrowing is Narrowing.ENFORCED
    assert not made.needs_narrow_token


@pytest.mark.parametrize(
    "policy",
    [
        UpstreamPolicy(provider="slack"),
        UpstreamPolicy(provider="doorkeeper", downscope=Downscope.REFRESH_SCOPE, downscope_is_destructive=True),
        UpstreamPolicy(provider="github", downscope=Downscope.NATIVE, items=ItemLimit.REQUIRED),
        UpstreamPolicy(provider="box", downscope=Downscope.EXCHANGE, downscope_is_destructive=True),
    ],
    ids=["none", "destructive", "for one thing only", "destructive exchange"],
)
def test_a_provider_that_cannot_narrow_safely_is_never_asked_to(policy: UpstreamPolicy) -> None:
    made = plan(
        scopes("chat:write"),
        delegation=scopes("chat:write"),
        connection=scopes("chat:write", "channels:read"),
        policy_scopes=None,
        policy=policy,
    )
    assert made.narrowing is Narrowing.ENFORCED
    assert not made.needs_narrow_token


@pytest.mark.parametrize(
    ("policy", "item"),
    [
        (UpstreamPolicy(provider="github", downscope=Downscope.NATIVE, items=ItemLimit.REQUIRED), ITEM),
        (UpstreamPolicy(provider="box", downscope=Downscope.EXCHANGE, items=ItemLimit.OPTIONAL), ITEM),
        (UpstreamPolicy(provider="box", downscope=Downscope.EXCHANGE, items=ItemLimit.OPTIONAL), None),
    ],
)
def test_a_token_made_of_the_full_one_may_carry_what_a_granted_scope_includes(
    policy: UpstreamPolicy, item: str | None
) -> None:
    made = plan(
        scopes("calendar.readonly"),
        delegation=scopes("calendar"),
        connection=scopes("calendar"),
        policy_scopes=None,
        policy=replace(policy, covers=CALENDAR),
        item=item,
    )
    assert (made.narrowing, made.needs_narrow_token) == (Narrowing.UPSTREAM, True)


def test_a_full_token_never_passes_for_a_narrow_one_where_the_app_has_its_scopes() -> None:
    def narrowing_under(policy: UpstreamPolicy) -> Narrowing:
        whole = scopes("issues:read")
        return plan(whole, delegation=whole, connection=whole, policy_scopes=None, policy=policy).narrowing

    assert narrowing_under(UpstreamPolicy("github", grants_more_than_asked=True)) is Narrowing.ENFORCED
    assert narrowing_under(UpstreamPolicy("github")) is Narrowing.UPSTREAM


def test_a_token_without_scopes_is_never_called_narrow() -> None:
    made = plan(
        frozenset(), delegation=frozenset(), connection=frozenset(), policy_scopes=None, policy=UpstreamPolicy("notion")
    )
    assert made.narrowing is Narrowing.ENFORCED


def test_asking_for_everything_means_what_was_delegated_and_granted() -> None:
    made = plan(
        None,
        delegation=scopes("calendar.events", "mail"),
        connection=scopes("calendar", "drive"),
        policy_scopes=None,
        policy=GOOGLE,
    )
    assert made.scopes == scopes("calendar.events")
    assert not made.not_delegated | made.not_granted


def test_a_request_for_everything_that_was_delegated_is_given_as_it_was_asked() -> None:
    everything = expand(scopes("calendar"), CALENDAR)
    made = plan(everything, delegation=everything, connection=scopes("calendar"), policy_scopes=None, policy=GOOGLE)
    assert (made.scopes, made.scope_key) == (everything, scope_key(everything))


def test_a_narrowed_answer_may_carry_identity_scopes_but_nothing_else() -> None:
    assert is_within(scopes("calendar.readonly", "openid"), scopes("calendar.readonly"), policy=GOOGLE)
    assert is_within(scopes("events.read"), scopes("calendar"), policy=GOOGLE)
    assert not is_within(scopes("calendar.readonly", "drive"), scopes("calendar.readonly"), policy=GOOGLE)


def test_equal_sets_have_equal_keys_and_different_sets_do_not() -> None:
    assert scope_key(scopes("b", "a")) == scope_key(scopes("a", "b"))
    assert scope_key(scopes("a")) != scope_key(scopes("a", "b"))
    assert len({scope_key(scopes("a"), item) for item in (None, ITEM, f"{ITEM}-2")}) == 3

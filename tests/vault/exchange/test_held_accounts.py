"""What an exchange may do with an account at each moment: whether its tokens, its permission, and its lease last."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vault.exchange.decision import ExchangeRequest, list_refusals, settle
from vault.exchange.recent import basis_of
from vault.records import ConnectionState, Narrowing, Principal
from vault.refresh.accounts import MARGIN, AccountQuery, HeldAccount, HeldToken, skew_of
from vault.refusals import CiphertextRejected, ConnectionRequired, DelegationRequired, ScopeRefused, VaultError
from vault.scopes import Plan, scope_key
from vault.upstream import Downscope, RotationMode, UpstreamPolicy

NOW = 1000
READ, WRITE = frozenset({"read"}), frozenset({"write"})


def token(*, left: int | None = 500, skew: int = 20) -> HeldToken:
    return HeldToken(b"sealed", 3, None if left is None else NOW + left, skew)


HELD = HeldAccount(
    id="c",
    user_id="u",
    provider="slack",
    account="a",
    label="alice",
    scopes=READ | WRITE,
    state=ConnectionState.ACTIVE,
    full=token(),
    narrowed=None,
    has_refresh_token=True,
    lease_until=None,
    sent_at=None,
    delegated=READ,
    delegation_state="live",
    delegated_until=None,
    ask=frozenset(),
    is_default=False,
    wrapped=None,
    kek_id="k",
    salt=None,
)


@pytest.mark.parametrize(("left", "skew", "is_good"), [(4, 6, True), (3, 6, False), (None, 6, True)])
def test_a_token_is_good_while_it_will_arrive_in_time(left: int | None, skew: int, *, is_good: bool) -> None:
    assert token(left=left, skew=skew).is_good(NOW) is is_good


def test_at_most_the_margin_is_kept_of_a_long_token() -> None:
    assert token(left=MARGIN + 1, skew=10_000).is_good(NOW)
    assert not token(left=MARGIN, skew=10_000).is_good(NOW)


@pytest.mark.parametrize(("left", "is_ageing"), [(21, False), (20, True), (None, False)])
def test_a_token_ages_before_it_ends(left: int | None, *, is_ageing: bool) -> None:
    assert token(left=left).is_ageing(NOW) is is_ageing


@pytest.mark.parametrize(("end", "lasts"), [(None, True), (NOW + 1, True), (NOW, False)])
def test_a_permission_and_a_membership_count_until_their_end(end: int | None, *, lasts: bool) -> None:
    held = replace(HELD, delegated_until=end)
    assert held.is_delegated(NOW) is lasts
    assert held.delegation_ended(NOW) is not lasts
    assert replace(HELD, shared_until=end).is_within(NOW) is lasts


@pytest.mark.parametrize("name", ["delegated_until", "shared_until", "beyond_until"])
@pytest.mark.parametrize(("end", "until"), [(None, 1497), (NOW, 1497), (NOW + 1, NOW + 1), (1497, 1497), (1498, 1497)])
def test_a_kept_decision_lasts_until_the_token_or_a_permission_ends(name: str, end: int | None, until: int) -> None:
    accounts = (HELD, replace(HELD, **{name: end}))
    wanted = AccountQuery(Principal("u", "a", "g", READ, "https://vault.example"), "slack", "")
    basis = basis_of(wanted, accounts, HELD, rows=(), token=token(skew=6), purpose="access_token", now=NOW)
    assert basis.until == until
    assert basis.ends == (until, 1494)
    endless = basis_of(wanted, accounts, HELD, rows=(), token=token(left=None), purpose="access_token", now=NOW)
    assert endless.until == (None if end in (None, NOW) else end)


def test_only_a_live_permission_for_something_is_one() -> None:
    assert not replace(HELD, delegation_state="revoked").is_delegated(NOW)
    assert not replace(HELD, delegated=frozenset()).is_delegated(NOW)


@pytest.mark.parametrize(("end", "allowed"), [(NOW + 1, READ | WRITE), (NOW, READ), (None, READ)])
def test_what_a_request_added_counts_until_its_end(end: int | None, allowed: frozenset[str]) -> None:
    held = replace(HELD, beyond=WRITE, beyond_until=end)
    assert held.allowed_scopes(NOW) == allowed
    assert replace(held, delegated=frozenset()).is_delegated(NOW) is (allowed != READ)


@pytest.mark.parametrize(("end", "is_leased"), [(NOW + 1, True), (NOW, False), (None, False)])
def test_a_lease_lasts_until_its_end(end: int | None, *, is_leased: bool) -> None:
    held = replace(HELD, lease_until=end)
    assert held.is_leased(NOW) is is_leased
    strict = UpstreamPolicy("slack", rotation=RotationMode.STRICT)
    assert replace(held, sent_at=NOW - 1).may_refresh(strict, now=NOW) is is_leased


def test_an_account_can_be_refreshed_unless_a_send_is_unresolved() -> None:
    strict = UpstreamPolicy("slack", rotation=RotationMode.STRICT)
    assert HELD.may_refresh(strict, now=NOW)
    assert not replace(HELD, has_refresh_token=False).may_refresh(strict, now=NOW)
    assert not replace(HELD, sent_at=NOW - 1).may_refresh(strict, now=NOW)
    free = UpstreamPolicy("slack", rotation=RotationMode.NONE)
    assert replace(HELD, sent_at=NOW - 1).may_refresh(free, now=NOW)


def test_a_destroyed_key_opens_nothing() -> None:
    for held in (replace(HELD, wrapped=b"w"), replace(HELD, salt=b"s")):
        with pytest.raises(CiphertextRejected):
            held.key(None)  # pyright: ignore[reportArgumentType] -- not asked


NARROW = Plan(READ, Narrowing.UPSTREAM, needs_narrow_token=True, scope_key=scope_key(READ))
WHOLE = replace(NARROW, needs_narrow_token=False)
ENFORCED = replace(WHOLE, narrowing=Narrowing.ENFORCED)
BY_REFRESH = UpstreamPolicy("slack", rotation=RotationMode.STRICT, downscope=Downscope.REFRESH_SCOPE)
BY_EXCHANGE = replace(BY_REFRESH, downscope=Downscope.EXCHANGE)
STUCK = replace(HELD, sent_at=NOW - 1)


@pytest.mark.parametrize(
    ("made", "held", "policy", "is_refused", "settled"),
    [
        (WHOLE, STUCK, BY_REFRESH, False, WHOLE),
        (WHOLE, replace(HELD, has_refresh_token=False), BY_REFRESH, False, WHOLE),
        (NARROW, HELD, BY_REFRESH, False, NARROW),
        (NARROW, HELD, BY_REFRESH, True, ENFORCED),
        (NARROW, replace(HELD, narrowed=token()), BY_REFRESH, True, NARROW),
        (NARROW, replace(STUCK, narrowed=token()), BY_REFRESH, False, NARROW),
        (NARROW, replace(STUCK, narrowed=token(left=0)), BY_REFRESH, False, ENFORCED),
        (NARROW, STUCK, BY_REFRESH, False, ENFORCED),
        (NARROW, replace(STUCK, full=token(left=0)), BY_REFRESH, False, NARROW),
        (NARROW, replace(STUCK, full=None), BY_REFRESH, False, NARROW),
        (NARROW, replace(HELD, has_refresh_token=False, full=None), BY_REFRESH, False, ENFORCED),
        (NARROW, STUCK, BY_EXCHANGE, False, NARROW),
        (NARROW, HELD, BY_EXCHANGE, True, ENFORCED),
    ],
)
def test_scopes_are_enforced_here_where_no_narrow_token_can_be_had(
    made: Plan, held: HeldAccount, policy: UpstreamPolicy, *, is_refused: bool, settled: Plan
) -> None:
    assert settle(made, held, policy=policy, now=NOW, is_refused=is_refused) == settled


@pytest.mark.parametrize(
    ("issued_at", "expires_at", "skew"),
    [(0, 3600, 60), (0, 600, 60), (0, 599, 59), (0, 20, 2), (0, 9, 0), (10, 9, 0), (None, 3600, 0), (0, None, 0)],
)
def test_a_token_is_refreshed_ahead_by_a_tenth_of_its_life_and_by_a_minute_at_most(
    issued_at: int | None, expires_at: int | None, skew: int
) -> None:
    assert skew_of(issued_at, expires_at) == skew


def refusals(
    scopes: frozenset[str] | None, *, held: HeldAccount = HELD, made: Plan = WHOLE, for_person: bool = False
) -> list[VaultError]:
    who = Principal("u", "agent", "g", scopes=frozenset(), audience="", actors=(), expires_at=NOW + 60, token_id="")
    request = ExchangeRequest(who, "slack", scopes, is_for_person=for_person)
    return list(list_refusals(request, held, made, now=NOW))


LACKING = replace(WHOLE, outside_ceiling=WRITE, not_granted=WRITE, not_delegated=WRITE)


def test_each_reason_for_a_refusal_names_what_was_asked_for_and_what_is_missing() -> None:
    assert refusals(READ) == refusals(None) == []
    inactive = replace(HELD, state=ConnectionState.NEEDS_REAUTH)
    for scopes, asked in ((READ | WRITE, READ | WRITE), (None, READ)):
        ceiling, state, granted, delegated = refusals(scopes, held=inactive, made=LACKING)
        assert isinstance(ceiling, ScopeRefused)
        assert ceiling.missing == WRITE
        assert isinstance(state, ConnectionRequired)
        assert (state.reason, state.scopes, state.connection_id) == ("needs_reauth", asked, "c")
        assert isinstance(granted, ConnectionRequired)
        assert (granted.reason, granted.scopes, granted.missing) == ("scopes", asked, WRITE)
        assert isinstance(delegated, DelegationRequired)
        assert (delegated.scopes, delegated.missing, delegated.is_beyond_rule) == (asked, WRITE, False)


def test_what_an_agent_may_not_do_is_refused_and_a_persons_own_page_needs_no_permission() -> None:
    beyond = replace(WHOLE, not_delegated=WRITE)
    for held, made, missing, is_beyond in (
        (replace(HELD, delegation_state="revoked"), beyond, frozenset[str](), False),
        (replace(HELD, delegated_until=NOW), WHOLE, frozenset[str](), False),
        (replace(HELD, rule=READ), beyond, WRITE, True),
        (replace(HELD, rule=READ | WRITE), beyond, WRITE, False),
        (replace(HELD, rule=READ, delegation_state="none"), beyond, frozenset[str](), False),
    ):
        (refused,) = refusals(READ, held=held, made=made)
        assert isinstance(refused, DelegationRequired)
        assert (refused.missing, refused.is_beyond_rule) == (missing, is_beyond)
        assert refusals(READ, held=held, made=made, for_person=True) == []

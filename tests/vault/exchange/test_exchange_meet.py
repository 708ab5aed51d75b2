"""An exchange gets only what all four allow (request, delegation, account grant, operator): for any four sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.oauth.exchange.release import ReleasePolicy, released_narrowing
from vault.exchange.decision import ExchangeRequest, choose, settle
from vault.records import ConnectionState, Narrowing, Principal
from vault.refresh.accounts import HeldAccount, HeldToken
from vault.refusals import ConnectionRequired, DelegationRequired, ScopeRefused
from vault.scopes import Plan, expand
from vault.upstream import Downscope, UpstreamPolicy

NAMES = tuple("abcdef")
SCOPES = st.frozensets(st.sampled_from(NAMES), max_size=5)
COVERS = st.dictionaries(st.sampled_from(NAMES), st.frozensets(st.sampled_from(NAMES), max_size=2), max_size=4)
NOW = 1_800_000_000
PRINCIPAL = Principal("user", "client", "grant", frozenset({"exchange"}), "https://vault.example/mcp")


def account(granted: frozenset[str], delegated: frozenset[str]) -> HeldAccount:
    token = HeldToken(b"sealed", 1, expires_at=NOW + 3600, skew=60)
    return HeldAccount(
        id="connection",
        user_id="user",
        provider="slack",
        account="account",
        label="label",
        scopes=granted,
        state=ConnectionState.ACTIVE,
        full=token,
        narrowed=None,
        has_refresh_token=True,
        lease_until=None,
        sent_at=None,
        delegated=delegated,
        delegation_state="live",
        delegated_until=None,
        ask=frozenset(),
        is_default=False,
        wrapped=b"wrapped",
        kek_id="kek",
        salt=b"salt",
    )


def plan_or_missing(
    asked: frozenset[str] | None,
    delegated: frozenset[str],
    granted: frozenset[str],
    allowed: frozenset[str] | None,
    policy: UpstreamPolicy,
) -> Plan | frozenset[str]:
    """The plan, or what the refusal reports as missing."""
    held = account(granted, delegated)
    request = ExchangeRequest(PRINCIPAL, "slack", asked)
    try:
        _, made = choose(request, [held], policy=policy, ceiling=allowed, now=NOW)
    except (ScopeRefused, ConnectionRequired, DelegationRequired) as refusal:
        return refusal.missing
    return settle(made, held, policy=policy, now=NOW)


@given(
    asked=st.none() | SCOPES.filter(bool),
    delegated=SCOPES,
    granted=SCOPES,
    allowed=st.none() | SCOPES,
    covers=COVERS,
    downscope=st.sampled_from([Downscope.NONE, Downscope.REFRESH_SCOPE]),
)
def test_an_exchange_issues_the_meet_of_four_or_names_what_is_missing(
    asked: frozenset[str] | None,
    delegated: frozenset[str],
    granted: frozenset[str],
    allowed: frozenset[str] | None,
    covers: dict[str, frozenset[str]],
    downscope: Downscope,
) -> None:
    policy = UpstreamPolicy("slack", downscope=downscope, covers=covers, operator_scopes=allowed)
    limits = [expand(delegated, covers), expand(granted, covers)]
    if allowed is not None:
        limits.append(expand(allowed, covers))
    most = frozenset.intersection(*limits)
    made = plan_or_missing(asked, delegated, granted, allowed, policy)
    if isinstance(made, frozenset):
        if not delegated:
            return  # a permission without scopes counts as none
        assert asked is not None
        assert made, "a refusal names what is missing"
        assert made <= asked - most
        return
    issued = expand(made.scopes, covers)
    assert issued <= most, "never more than any of the four"
    if asked is None:
        assert issued == most, "nothing asked: all of it"
    else:
        assert issued == expand(asked, covers), "nothing is dropped or added silently"


@given(
    asked=SCOPES.filter(bool),
    granted=SCOPES,
    policy=st.sampled_from(list(ReleasePolicy)),
    downscope=st.sampled_from([Downscope.NONE, Downscope.REFRESH_SCOPE]),
    expires=st.booleans(),
)
def test_a_token_leaves_only_if_it_is_no_wider_than_asked_or_an_operator_said_full(
    asked: frozenset[str], granted: frozenset[str], policy: ReleasePolicy, downscope: Downscope, expires: bool
) -> None:
    made = plan_or_missing(asked, asked, granted, None, UpstreamPolicy("slack", downscope=downscope))
    if isinstance(made, frozenset):
        assert made == asked - granted
        return
    narrowing = released_narrowing(policy, made.narrowing, expires=expires)
    is_wider = not made.needs_narrow_token and not granted <= asked
    if narrowing is not None and policy is not ReleasePolicy.FULL:
        assert not is_wider
    if narrowing is Narrowing.UPSTREAM:
        assert not is_wider, "what calls itself narrow is"

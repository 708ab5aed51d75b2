"""The request and the result of an exchange, and the decision between them. Pure.

From the rows of one read it decides which account is meant and what may be released and how, or refuses and says what
is missing. `vault.exchange` reads, opens and records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace

from vault.approvals.approvals import ToolCall
from vault.classes.immutable import immutable
from vault.connections import names_account
from vault.exchange.recent import Basis
from vault.records import ConnectionState, Event, Narrowing, Principal
from vault.refresh.accounts import HeldAccount
from vault.refresh.refresh_request import reconnect_text
from vault.refusals import AccountRequired, ConnectionRequired, DelegationRequired, ScopeRefused, VaultError
from vault.scopes import Plan, derives, expand, plan
from vault.upstream import UpstreamPolicy


@immutable
class ExchangeRequest:
    """What an agent requests. `scopes` None: everything delegated. `purpose` names the use: the tool's name.

    `account` is the person's or agent's name for the account; `connection_id` selects exactly one connection. `details`
    are added to the event; `event` replaces the token's event, or suppresses it if the caller records one together with
    its use of the token. `call` is a tool call that the person can be asked about; None for a release for later use.
    `tool_sets`: the names of the tool sets that include the called tool. `is_kept`: the caller wants the `basis` of the
    token. `is_for_person`: one of the person's pages reads, with the connection's own authority and read-only scopes;
    `principal` is the agent that the page is about, and its permission doesn't matter. `wire` is for the operator's
    policy (`PolicyQuestion.wire`). `goes_out_whole`: whether a full token of this connection leaves the vault.
    """

    principal: Principal
    provider: str
    scopes: frozenset[str] | None
    account: str | None = None
    purpose: str = ""
    connection_id: str | None = None
    item: str | None = None  # the address of the one thing that the token may reach
    details: Mapping[str, object] = field(default_factory=dict[str, object])
    call: ToolCall | None = None
    tool_sets: frozenset[str] | None = None
    event: Callable[[UpstreamToken], Event | None] | None = None
    is_kept: bool = False
    is_for_person: bool = False
    wire: Mapping[str, str] = field(default_factory=dict[str, str])
    goes_out_whole: Callable[[str], bool] = field(default=lambda _: False, repr=False, compare=False)


@immutable
class UpstreamToken:
    """An upstream token and how its scopes are enforced. If `narrowing` is ENFORCED, the value stays in the process.

    `generation` tells the vault which token the provider answered with 401 (`exchange(after_unauthorized=...)`).
    `also_allowed`: what else this agent may always do with the account, without approval.
    `entered`: the password or client credentials that the token was issued for, so that answers can be searched for
    their secret.
    """

    value: str = field(repr=False)
    scopes: frozenset[str]
    expires_at: int | None
    narrowing: Narrowing
    connection_id: str
    account: str
    label: str
    granted: frozenset[str]
    generation: int
    is_asked_beyond: bool  # the account holds scopes that need approval each time
    also_allowed: frozenset[str] = frozenset()
    approval: str = ""  # text on how the person approved this call; empty: no approval was needed
    entered: str = field(default="", repr=False)
    secret_source: str = ""  # where the secret was read for this use, such as `bao`; empty: the vault holds it
    basis: Basis | None = field(default=None, repr=False, compare=False)  # None: not requested, or not all is stored


def choose(
    request: ExchangeRequest,
    accounts: Sequence[HeldAccount],
    *,
    policy: UpstreamPolicy,
    ceiling: frozenset[str] | None,
    now: int,
) -> tuple[HeldAccount, Plan]:
    """The selected account and its plan, or the refusal that says what is missing. Pure."""
    held, made = select(request, accounts, policy=policy, ceiling=ceiling, now=now)
    if refusals := [*list_refusals(request, held, made, now=now)]:
        raise refusals.pop(0)  # a variable would keep the exception and, through its traceback, this frame
    return held, made


def select(
    request: ExchangeRequest,
    accounts: Sequence[HeldAccount],
    *,
    policy: UpstreamPolicy,
    ceiling: frozenset[str] | None,
    now: int,
) -> tuple[HeldAccount, Plan]:
    """The selected account and its plan, whether or not the plan is allowed. Raises if no account is selected."""
    held = _which(request, [one for one in accounts if one.is_within(now)], now=now)
    delegated = held.allowed_scopes(now) if held.is_delegated(now) else frozenset[str]()
    if request.is_for_person:
        _check_reads(request, policy)
        delegated = held.scopes
    made = plan(
        request.scopes,
        delegation=delegated,
        connection=held.scopes,
        policy_scopes=ceiling,
        policy=policy.for_renewal(held.renewed_by),
        item=request.item,
    )
    return held, made


def _check_reads(request: ExchangeRequest, policy: UpstreamPolicy) -> None:
    """Without an agent's permission, allow only scopes that read, and never everything."""
    if request.scopes is None or request.connection_id is None or request.call is not None:
        raise ScopeRefused("A page must name the scopes and the account that it reads.", missing=frozenset())
    if writing := expand(request.scopes, policy.covers) - policy.reading - policy.always_granted:
        raise ScopeRefused(f"A page can only read, and {words(writing)} does more.", missing=writing)


def list_refusals(request: ExchangeRequest, held: HeldAccount, made: Plan, *, now: int) -> Iterator[VaultError]:
    """Everything that prevents the plan, in the order in which it is refused."""
    wanted = request.scopes
    provider, asked = request.provider, made.scopes if wanted is None else wanted
    if made.outside_ceiling:
        yield ScopeRefused(
            f"This vault's settings don't allow {words(made.outside_ceiling)} for {provider}. Ask an "
            "admin to change the limit.",
            missing=made.outside_ceiling,
        )
    if held.state is not ConnectionState.ACTIVE:
        yield ConnectionRequired(
            reconnect_text(provider, held.label, renewed_by=held.renewed_by, is_groups=held.rule is not None),
            provider=provider,
            reason="needs_reauth",
            scopes=asked,
            connection_id=held.id,
        )
    if made.not_granted:
        yield ConnectionRequired(
            f"The {provider} account {held.label} hasn't granted {words(made.not_granted)}. Reconnect "
            "it and allow that."
            if held.rule is None
            else f"The {provider} account {held.label} hasn't granted {words(made.not_granted)}. Ask the person who "
            "gave this account to the group to reconnect it, allow that, and give it again.",
            provider=provider,
            reason="scopes",
            scopes=asked,
            connection_id=held.id,
            missing=made.not_granted,
        )
    if not request.is_for_person and (not held.is_delegated(now) or made.not_delegated):
        yield DelegationRequired(
            _why_not_delegated(provider, held, missing=made.not_delegated, now=now),
            provider=provider,
            scopes=asked,
            connection_id=held.id,
            missing=made.not_delegated if held.is_delegated(now) else frozenset(),
            is_beyond_rule=held.is_delegated(now) and _is_beyond_rule(held, made.not_delegated),
        )


def for_member(refusal: ConnectionRequired, held: HeldAccount) -> ConnectionRequired:
    """The refusal of a refresh; of a group's account, for someone who can't reconnect it themselves."""
    match refusal.reason if held.rule is not None else "":
        case "needs_reauth":
            told = reconnect_text(refusal.provider, held.label, renewed_by=None, is_groups=True)
        case "ambiguous":
            told = (
                f"{refusal.provider} never answered the last refresh of {held.label}, so the connection may be dead. "
                "Ask the person who gave this account to the group to reconnect it and give it again."
            )
        case _:
            return refusal
    return refusal.with_description(told)


def _which(request: ExchangeRequest, accounts: Sequence[HeldAccount], *, now: int) -> HeldAccount:
    """The selected account: the named one, the only one this agent may use, or the person's default for it.

    It never silently picks the first match.
    """
    provider = request.provider
    if not accounts:
        raise ConnectionRequired(
            f"No {provider} account is connected yet. Connect one, then try again.",
            provider=provider,
            reason="missing",
            scopes=request.scopes or frozenset(),
        )
    if request.connection_id is not None:
        matching = [one for one in accounts if one.id == request.connection_id]
        if not matching:
            raise ConnectionRequired(
                f"This {provider} account is no longer connected. Connect it, then try again.",
                provider=provider,
                reason="missing",
                scopes=request.scopes or frozenset(),
            )
        if not _fits(matching[0], request.account) and matching[0].is_delegated(now):  # otherwise it could guess names
            raise AccountRequired(
                "The request names two different accounts.", provider=provider, accounts=(matching[0].label,)
            )
        why = ""
    elif (len(accounts) > 1 or request.account is not None) and not any(one.is_delegated(now) for one in accounts):
        # The agent must not learn which accounts these are or whether its guess was right: the person chooses.
        raise DelegationRequired(
            f"This agent isn't allowed to use any {provider} account yet. Allow one, then try again.",
            provider=provider,
            scopes=request.scopes or frozenset(),
            connection_id=None,
        )
    elif request.account is None:
        matching = _candidates(accounts, now=now)
        why = f"Several {provider} accounts are connected. Say which one to use."
    else:
        matching = [one for one in accounts if one.is_delegated(now) and _fits(one, request.account)]
        if not matching:  # same answer for a forbidden account and for none: otherwise it could guess names
            names = _names(accounts, now=now)
            raise DelegationRequired(
                f"This agent can use only {', '.join(names)} ({provider}). Name one of these, or ask "
                "the person to allow another account.",
                provider=provider,
                scopes=request.scopes or frozenset(),
                connection_id=None,
                accounts=names,
            )
        why = f"Several {provider} accounts have that name. Say which one to use."
    if len(matching) == 1:
        return matching[0]
    raise AccountRequired(why, provider=provider, accounts=_names(accounts, now=now))


def _names(accounts: Sequence[HeldAccount], *, now: int) -> tuple[str, ...]:
    """A distinct name for each account that this agent may use."""
    shown = [one for one in accounts if one.is_delegated(now)]
    labels = [one.label for one in shown]
    return tuple(sorted(one.label if labels.count(one.label) == 1 else one.account for one in shown))


def _fits(held: HeldAccount, named: str | None) -> bool:
    return named is None or names_account(named, id=held.id, account=held.account, label=held.label)


def _candidates(accounts: Sequence[HeldAccount], *, now: int) -> Sequence[HeldAccount]:
    """The accounts to choose from when a call names none; one when the choice is clear."""
    usable = [one for one in accounts if one.is_delegated(now)]
    return [one for one in usable if one.is_default] or usable or accounts


def _why_not_delegated(provider: str, held: HeldAccount, *, missing: frozenset[str], now: int) -> str:
    if held.delegation_ended(now):
        return f"This agent's permission to use {held.label} ({provider}) has ended. Allow it again."
    if not held.is_delegated(now):
        return f"This agent isn't allowed to use {held.label} ({provider}) yet. Allow it, then try again."
    if _is_beyond_rule(held, missing):
        return (
            f"This agent can use {held.label} ({provider}), but the group's rule leaves out {words(missing)}. Ask the "
            "group for it, then try again."
        )
    return f"This agent can use {held.label} ({provider}), but not for {words(missing)}. Allow that, then try again."


def _is_beyond_rule(held: HeldAccount, missing: frozenset[str]) -> bool:
    return held.rule is not None and bool(missing - held.rule)


def words(scopes: frozenset[str]) -> str:
    """Scopes as part of a sentence."""
    return ", ".join(sorted(scopes))


def settle(made: Plan, held: HeldAccount, *, policy: UpstreamPolicy, now: int, is_refused: bool = False) -> Plan:
    """Fall back to enforcing the scopes in the vault. `policy` is the account's (`UpstreamPolicy.for_renewal`).

    For when no narrow token is available but the full one is alive, or the provider does not issue such a token
    (`is_refused`).
    """
    if not made.needs_narrow_token or (held.narrowed is not None and held.narrowed.is_good(now)):
        return made
    if derives(policy):  # it uses the full token and refreshes it only when it is old
        return replace(made, narrowing=Narrowing.ENFORCED, needs_narrow_token=False) if is_refused else made
    is_stuck = not held.may_refresh(policy, now=now) and held.full is not None and held.full.is_good(now)
    if is_stuck or is_refused or not held.has_refresh_token:
        return replace(made, narrowing=Narrowing.ENFORCED, needs_narrow_token=False)
    return made

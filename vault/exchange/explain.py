"""Explain which precondition of an exchange fails and how to fix it, for operators, before any call.

Reads what `vault.exchange` reads and calls the same pure functions in the same order; opens and records nothing, and
sends nothing but the question to the operator's own policy. The first failure is therefore what the exchange would
refuse with. Each step is checked separately; a step that can't be checked is reported as not checked, and so is what
only the provider knows.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from vault import clients, grants, shared_connections, users
from vault.approvals import standing_approvals
from vault.classes.immutable import immutable
from vault.exchange.approval_rules import ApprovalQuestion, can_stand
from vault.exchange.decision import ExchangeRequest, choose, for_member, list_refusals, select, settle
from vault.exchange.exchange import check_policy
from vault.records import Client, Connection, ConnectionState, Grant, Principal, User, format_scope
from vault.refresh import company, leases, rotation
from vault.refresh.accounts import AccountQuery, HeldAccount, read_accounts
from vault.refresh.concurrency import Vault
from vault.refresh.policy_checks import PolicyOutcome
from vault.refusals import (
    CiphertextRejected,
    ConnectionRequired,
    DelegationRequired,
    PolicyRefused,
    ProviderSilent,
    ScopeRefused,
    TemporarilyUnavailable,
    VaultError,
)
from vault.scopes import Plan, derives, scope_key
from vault.storage.database import Reader
from vault.upstream import UpstreamPolicy


class ExchangeStep(StrEnum):
    """The preconditions of an exchange, in the order in which they are checked."""

    USER = "user"
    CLIENT = "client"
    GRANT = "grant"
    CONNECTION = "connection"
    PROVIDER = "provider"
    OPERATOR = "operator"
    STATE = "state"
    SCOPES = "scopes"
    DELEGATION = "delegation"
    TOKEN = "token"
    POLICY = "policy"
    APPROVAL = "approval"
    UPSTREAM = "upstream"


class StepOutcome(StrEnum):
    """What is known about a step."""

    OK = "ok"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@immutable
class FailedStep:
    """What fails. `code` is that of the exchange's refusal."""

    step: ExchangeStep
    code: str
    sentence: str
    fix: str


@immutable
class CheckedStep:
    """One step; `failure` if it failed, `why` if it wasn't checked or needs an explanation."""

    step: ExchangeStep
    outcome: StepOutcome
    why: str = ""
    failure: FailedStep | None = None


@immutable
class StandingLeft:
    """A standing approval, and how many of its calls are left today (UTC)."""

    id: str
    tool: str
    left: int
    per_day: int


@immutable
class Explanation:
    """`first_failure` None: the exchange would return a token with `scopes`, enforced as `narrowing` says.

    `asks`: only for a tool call that the person approves; any other exchange is refused. `standing`: the standing
    approvals that allow some of these calls without asking.
    """

    steps: tuple[CheckedStep, ...]
    scopes: frozenset[str] = frozenset()
    narrowing: str = ""
    refreshes: bool = False  # a refresh at the provider comes first
    asks: bool = False
    standing: tuple[StandingLeft, ...] = ()

    @property
    def first_failure(self) -> FailedStep | None:
        """The first failure: what the exchange would refuse with."""
        return next((one.failure for one in self.steps if one.failure is not None), None)

    @property
    def passed_steps(self) -> tuple[ExchangeStep, ...]:
        """The preconditions that were checked and hold."""
        return tuple(one.step for one in self.steps if one.outcome is StepOutcome.OK)


class _Steps:
    """Collects what is known about each step."""

    def __init__(self) -> None:
        self._known: dict[ExchangeStep, CheckedStep] = {}

    def hold(self, *steps: ExchangeStep) -> None:
        for step in steps:
            self._known.setdefault(step, CheckedStep(step, StepOutcome.OK))

    def hold_because(self, step: ExchangeStep, why: str) -> None:
        self._known.setdefault(step, CheckedStep(step, StepOutcome.OK, why))

    def fail(self, failure: FailedStep) -> None:
        self._known.setdefault(failure.step, CheckedStep(failure.step, StepOutcome.FAILED, failure=failure))

    def leave(self, step: ExchangeStep, why: str) -> None:
        self._known.setdefault(step, CheckedStep(step, StepOutcome.NOT_CHECKED, why))

    @property
    def has_failed(self) -> bool:
        return any(one.outcome is StepOutcome.FAILED for one in self._known.values())

    def list(self) -> tuple[CheckedStep, ...]:
        """All steps; undecided ones are reported as not checked."""
        rest = "it depends on a step above"
        return tuple(self._known.get(step, CheckedStep(step, StepOutcome.NOT_CHECKED, rest)) for step in ExchangeStep)


@immutable
class ExchangeQuestion:
    """The person, client, connection, and scopes to explain; `scopes` None: everything delegated."""

    user_name: str
    client_id: str
    connection_id: str
    scopes: frozenset[str] | None = None
    purpose: str = ""


async def explain(question: ExchangeQuestion, *, vault: Vault, now: int) -> Explanation:
    """What is known about each precondition, and what the exchange would return."""
    steps = _Steps()
    steps.leave(ExchangeStep.UPSTREAM, "only a call shows whether the provider still accepts the account")
    grant, connection = await _who(vault, question, steps, now=now)
    policy = None if connection is None else vault.policies.get(connection.provider)
    if connection is not None and policy is None:
        steps.fail(
            FailedStep(
                ExchangeStep.PROVIDER,
                ScopeRefused.code,
                f"This vault doesn't know the provider {connection.provider}.",
                "restore its provider file in one of provider_folders",
            )
        )
    if connection is not None:
        steps.hold(ExchangeStep.PROVIDER)
    if grant is None or connection is None or policy is None:
        return Explanation(steps.list())
    principal = Principal(grant.user_id, grant.client_id, grant.id, scopes=grant.scopes, audience=grant.resource)
    request = ExchangeRequest(
        principal, connection.provider, question.scopes, connection_id=connection.id, purpose=question.purpose
    )
    key = "" if question.scopes is None else scope_key(question.scopes)
    wanted = AccountQuery(principal, connection.provider, key)
    ceiling = policy.operator_scopes
    try:
        accounts = await read_accounts(vault.database, wanted)
        held, made = select(request, accounts, policy=policy, ceiling=ceiling, now=now)
        if made.needs_narrow_token and made.scope_key != wanted.scope_key:
            accounts = await read_accounts(vault.database, replace(wanted, scope_key=made.scope_key))
            held, made = select(request, accounts, policy=policy, ceiling=ceiling, now=now)
    except VaultError as refusal:  # ended between two reads
        fix = "run the command again: something has just changed"
        failure = FailedStep(ExchangeStep.CONNECTION, refusal.code, refusal.description, fix)
        return Explanation((CheckedStep(ExchangeStep.CONNECTION, StepOutcome.FAILED, failure=failure),))
    for refusal in list_refusals(request, held, made, now=now):
        steps.fail(_refusal_finding(refusal, connection, user_id=principal.user_id))
    steps.hold(ExchangeStep.OPERATOR, ExchangeStep.STATE, ExchangeStep.SCOPES, ExchangeStep.DELEGATION)
    if steps.has_failed:
        return Explanation(steps.list())
    policy = policy.for_renewal(held.renewed_by)
    made = settle(made, held, policy=policy, now=now)
    refreshes = await _check_token(held, made, steps, vault=vault, now=now)
    asked = ApprovalQuestion(held.ask | policy.ask, held.allowed_scopes(now), policy)
    asks = bool(asked.entries) and asked.is_about(made.scopes, tool=None)
    standing: tuple[StandingLeft, ...] = ()
    if asks:
        steps.leave(ExchangeStep.APPROVAL, "the person approves each tool call with these scopes")
        standing = await _list_standing(principal, held, made, policy=policy, vault=vault, now=now)
    steps.hold(ExchangeStep.APPROVAL)
    if not steps.has_failed:
        asks |= await _ask_policy(request, held, made, steps, vault=vault, now=now)
    return Explanation(
        steps.list(), made.scopes, made.narrowing.value, refreshes=refreshes, asks=asks, standing=standing
    )


async def _ask_policy(
    request: ExchangeRequest, held: HeldAccount, made: Plan, steps: _Steps, *, vault: Vault, now: int
) -> bool:
    """What the operator's own policy answers now; for a tool's call, it is asked under that tool's name.

    True when it wants the person to approve.
    """
    if vault.policy_check is None:
        steps.hold_because(ExchangeStep.POLICY, "this vault has no operator's policy")
        return False
    try:
        answer = await check_policy(vault, request, held, scopes=made.scopes, now=now, is_trial=True)
    except PolicyRefused as refusal:
        place = "the rules in policy.folder" if refusal.rule else "the policy at exchange.policy_url"
        fix = f"change {place}, or request other scopes"
        steps.fail(FailedStep(ExchangeStep.POLICY, refusal.code, refusal.description, fix))
    except TemporarilyUnavailable as refusal:
        fix = f"check that exchange.policy_url answers ({refusal.detail})"
        steps.fail(FailedStep(ExchangeStep.POLICY, refusal.code, refusal.description, fix))
    else:
        if answer is not None and answer.verdict.outcome is PolicyOutcome.ASK:
            steps.hold_because(ExchangeStep.POLICY, f"the person approves each use. {answer.verdict.words}")
            return True
        steps.hold_because(ExchangeStep.POLICY, f'the policy allows "{request.purpose}"')
    return False


async def _list_standing(
    principal: Principal, held: HeldAccount, made: Plan, *, policy: UpstreamPolicy, vault: Vault, now: int
) -> tuple[StandingLeft, ...]:
    """The standing approvals of this agent and account that the operator's rules accept."""
    return tuple(
        StandingLeft(one.id, one.tool, one.per_day - min(one.per_day, one.used_today(now)), one.per_day)
        for one in await standing_approvals.list_live(vault.database, vault.keys, principal.user_id, now=now)
        if (one.client_id, one.connection_id) == (principal.client_id, held.id)
        and can_stand(policy, delegated=held.allowed_scopes(now), scopes=made.scopes, tool=one.tool)
    )


async def check_exchange(request: ExchangeRequest, *, vault: Vault, now: int) -> None:
    """Check that grant, account and permission allow this exchange now. Raises the refusal that the exchange would
    get."""
    policy = vault.policies.get(request.provider)
    if policy is None:
        raise ScopeRefused(f"This vault doesn't know the provider {request.provider}.", missing=frozenset())
    accounts = await read_accounts(vault.database, AccountQuery(request.principal, request.provider, ""))
    choose(request, accounts, policy=policy, ceiling=policy.operator_scopes, now=now)


async def _who(
    vault: Vault, question: ExchangeQuestion, steps: _Steps, *, now: int
) -> tuple[Grant | None, Connection | None]:
    """The live grant and the connection, the person's own or one of their groups', each checked separately."""
    reader = vault.database
    user, client = await _user(reader, question, steps), await _client(reader, question, steps)
    connection = grant = None
    if user is not None and client is not None:
        mine = await grants.list_grants(reader, user.id)
        grant = next((one for one in mine if one.client_id == client.id), None)
        if grant is None:
            sentence = (
                f"{client.name} has no active grant from {user.name}: it never signed in, or its access was revoked."
            )
            fix = "let the agent sign in again"
            if client.grant_types == frozenset({"client_credentials"}):
                sentence = f"{client.name} gets tokens by itself, so it never uses a person's account."
                fix = "register an agent that signs people in: token-vault clients add --redirect-uri"
            steps.fail(_grant_finding(ExchangeStep.GRANT, sentence, fix))
        steps.hold(ExchangeStep.GRANT)
    if user is not None:
        connection = await shared_connections.usable(reader, question.connection_id, user_id=user.id, now=now)
        if connection is None or connection.state is ConnectionState.REVOKED:
            sentence = (
                f"{user.name} has no such connection."
                if connection is None
                else f"{connection.label} ({connection.provider}) was disconnected."
            )
            fix = "run token-vault connections list; reconnect a disconnected account"
            if connection is None and (why := await company.explain(vault, user.id, question.connection_id)):
                sentence, fix = f"{sentence} {why.refusal}", why.fix
            steps.fail(FailedStep(ExchangeStep.CONNECTION, ConnectionRequired.code, sentence, fix))
            connection = None
        steps.hold(ExchangeStep.CONNECTION)
    if grant is None and connection is not None:  # otherwise the accounts that the grant reaches show it
        if connection.state is ConnectionState.NEEDS_REAUTH:
            sentence = f"{connection.provider} no longer accepts the connection of {connection.label}."
            fix = _reconnect_fix(connection, user_id="" if user is None else user.id)
            steps.fail(FailedStep(ExchangeStep.STATE, ConnectionRequired.code, sentence, fix))
        steps.hold(ExchangeStep.STATE)
    is_enabled = user is not None and user.has_agents
    return grant if is_enabled else None, connection


async def _user(reader: Reader, question: ExchangeQuestion, steps: _Steps) -> User | None:
    user = await users.find_user(reader, question.user_name)
    if user is None:
        sentence = f"There is no user {question.user_name}."
        steps.fail(FailedStep(ExchangeStep.USER, "not_found", sentence, "token-vault users list"))
    elif user.disabled_at is not None:
        sentence, fix = f"The user {user.name} is disabled.", f"token-vault users enable {user.name}"
        steps.fail(_grant_finding(ExchangeStep.USER, sentence, fix))
    elif user.stopped_at is not None:
        sentence = f"A signal from {user.stopped_by or 'each of two issuers'} stopped the agents of {user.name}."
        enable = f"run token-vault users enable {user.name}"
        fix = f"let them sign in there again, or {enable}" if user.stopped_by else enable
        steps.fail(_grant_finding(ExchangeStep.USER, sentence, fix))
    steps.hold(ExchangeStep.USER)
    return user


async def _client(reader: Reader, question: ExchangeQuestion, steps: _Steps) -> Client | None:
    client = await clients.get_client(reader, question.client_id)
    if client is None:
        sentence = f"There is no client {question.client_id}, or it was removed."
        fix = "token-vault clients list; a removed agent registers and signs in again"
        steps.fail(_grant_finding(ExchangeStep.CLIENT, sentence, fix))
    steps.hold(ExchangeStep.CLIENT)
    return client


def _grant_finding(step: ExchangeStep, sentence: str, fix: str) -> FailedStep:
    return FailedStep(step, "invalid_grant", sentence, fix)


def _connect_fix(provider: str, *, is_groups: bool) -> str:
    again = f"run token-vault connections connect {provider}"
    return f"let the person who gave it {again} and token-vault groups give" if is_groups else again


def _reconnect_fix(connection: Connection, *, user_id: str) -> str:
    again = _connect_fix(connection.provider, is_groups=connection.user_id != user_id)
    if connection.renewed_by is None:
        return again
    return f"let the person sign in through their identity provider again, check its policy, or {again}"


def _refusal_finding(refusal: VaultError, connection: Connection, *, user_id: str) -> FailedStep:
    """The finding for a refusal of the pure decision: its sentence, and where to fix it."""
    again = _reconnect_fix(connection, user_id=user_id)
    match refusal:
        case ScopeRefused():
            limit = f"providers.{connection.provider}.scopes"
            return FailedStep(
                ExchangeStep.OPERATOR, refusal.code, refusal.description, f"the limit is the setting {limit}"
            )
        case ConnectionRequired(reason="needs_reauth"):
            why = (
                ""
                if connection.renewed_by is None
                else f"{company.refusal_text(connection.provider, connection.reason or '')} "
            )
            return FailedStep(ExchangeStep.STATE, refusal.code, f"{why}{refusal.description}", again)
        case ConnectionRequired(reason="scopes"):
            return FailedStep(
                ExchangeStep.SCOPES,
                refusal.code,
                refusal.description,
                f"{again}, and allow {format_scope(refusal.scopes)}",
            )
        case DelegationRequired():
            fix = "call the tool and open its link, or use the page /agents"
            return FailedStep(ExchangeStep.DELEGATION, refusal.code, refusal.description, fix)
        case _:  # ended between two reads
            return FailedStep(
                ExchangeStep.CONNECTION,
                refusal.code,
                refusal.description,
                "run the command again: something has just changed",
            )


async def _check_token(held: HeldAccount, made: Plan, steps: _Steps, *, vault: Vault, now: int) -> bool:
    """Check that a token is available or can be fetched; returns whether it must be fetched."""
    token = held.narrowed if made.needs_narrow_token else held.full
    refreshes = token is None or not token.is_good(now)
    if made.needs_narrow_token and derives(vault.policy_of(held.provider, held.renewed_by)):
        refreshes = refreshes and (held.full is None or not held.full.is_good(now))  # it is made from the full one
    again = _connect_fix(held.provider, is_groups=held.rule is not None)
    if held.wrapped is None or held.salt is None:
        sentence = f"The key of {held.label} ({held.provider}) was destroyed, so its tokens can't be opened."
        fix = f"disconnect it, then {again}"
        steps.fail(FailedStep(ExchangeStep.TOKEN, CiphertextRejected.code, sentence, fix))
        return refreshes
    facts = await leases.read(vault.database, held.id, scope_key=made.scope_key) if refreshes else None
    refusal = None if facts is None else await rotation.obstacle(vault, facts, now=now)
    match refusal:
        case None:
            steps.hold(ExchangeStep.TOKEN)
            return refreshes
        case ConnectionRequired():
            refusal, fix = for_member(refusal, held), again
        case ProviderSilent():
            fix = "no action needed: the vault retries until the provider answers"
        case _ if (upstream := vault.upstreams.get(held.provider)) is None or not upstream.is_configured:
            fix = f"set providers.{held.provider}.client_id and its secret"
        case _:
            fix = "wait a minute and ask again"
    steps.fail(FailedStep(ExchangeStep.TOKEN, refusal.code, refusal.description, fix))
    return refreshes

"""Explain which precondition of an exchange fails and how to fix it, for operators, before any call.

Reads what `vault.exchange` reads and calls the same pure functions in the same order; opens, sends and records nothing.
Its first finding is therefore what the exchange would refuse with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from vault import clients, connections, grants, users
from vault.exchange.decision import ExchangeRequest, choose, settle
from vault.records import Connection, ConnectionState, Grant, Principal, User, format_scope
from vault.refresh import leases, rotation
from vault.refresh.accounts import HeldAccount, Wanted, read_accounts
from vault.refresh.concurrency import Vault
from vault.refusals import (
    CiphertextRejected,
    ConnectionRequired,
    DelegationRequired,
    ProviderSilent,
    ScopeRefused,
    VaultError,
)
from vault.scopes import Plan, derives, scope_key
from vault.storage.database import Reader


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


@dataclass(frozen=True, slots=True)
class FailedStep:
    """What fails. `code` is that of the exchange's refusal."""

    step: ExchangeStep
    code: str
    sentence: str
    fix: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """`failing` None: the exchange would return a token with `scopes`, enforced as `narrowing` says."""

    failing: FailedStep | None
    scopes: frozenset[str] = frozenset()
    narrowing: str = ""
    refreshes: bool = False  # a refresh at the provider comes first

    @property
    def passed_steps(self) -> tuple[ExchangeStep, ...]:
        """The preconditions that hold before the failing one."""
        steps = tuple(ExchangeStep)
        return steps if self.failing is None else steps[: steps.index(self.failing.step)]


@dataclass(frozen=True, slots=True)
class ExchangeQuestion:
    """Whose exchange, by which client, with which connection; `scopes` None: everything delegated."""

    user_name: str
    client_id: str
    connection_id: str
    scopes: frozenset[str] | None = None


async def explain(question: ExchangeQuestion, *, vault: Vault, now: int) -> Explanation:
    """The first precondition that fails, or what the exchange would return."""
    found = await _who(vault.database, question)
    if isinstance(found, FailedStep):
        return Explanation(found)
    user, grant, connection = found
    policy = vault.policies.get(connection.provider)
    if policy is None:
        return Explanation(
            FailedStep(
                ExchangeStep.PROVIDER,
                ScopeRefused.code,
                f"This vault doesn't know the provider {connection.provider}.",
                "restore its provider file in one of provider_folders",
            )
        )
    principal = Principal(user.id, grant.client_id, grant.id, scopes=grant.scopes, audience=grant.resource)
    request = ExchangeRequest(principal, connection.provider, question.scopes, connection_id=connection.id)
    key = "" if question.scopes is None else scope_key(question.scopes)
    wanted = Wanted(principal, connection.provider, key)
    try:
        accounts = await read_accounts(vault.database, wanted)
        held, made = choose(request, accounts, policy=policy, ceiling=policy.operator_scopes, now=now)
        if made.needs_narrow_token and made.scope_key != wanted.scope_key:
            accounts = await read_accounts(vault.database, replace(wanted, scope_key=made.scope_key))
            held, made = choose(request, accounts, policy=policy, ceiling=policy.operator_scopes, now=now)
    except VaultError as refusal:
        return Explanation(_refusal_finding(refusal, connection))
    made = settle(made, held, policy=policy, now=now)
    return await _token(held, made, vault=vault, now=now)


async def check_exchange(request: ExchangeRequest, *, vault: Vault, now: int) -> None:
    """Check that grant, account and permission allow this exchange now. Raises what it would be refused with."""
    policy = vault.policies.get(request.provider)
    if policy is None:
        raise ScopeRefused(f"This vault doesn't know the provider {request.provider}.", missing=frozenset())
    accounts = await read_accounts(vault.database, Wanted(request.principal, request.provider, ""))
    choose(request, accounts, policy=policy, ceiling=policy.operator_scopes, now=now)


async def _who(reader: Reader, question: ExchangeQuestion) -> FailedStep | tuple[User, Grant, Connection]:
    """User, live grant and connection, or the finding for the first that is missing."""
    user = await users.find_user(reader, question.user_name)
    if user is None:
        return FailedStep(
            ExchangeStep.USER, "not_found", f"There is no user {question.user_name}.", "token-vault users list"
        )
    if user.disabled_at is not None:
        return _grant_finding(
            ExchangeStep.USER, f"The user {user.name} is disabled.", f"token-vault users enable {user.name}"
        )
    client = await clients.get_client(reader, question.client_id)
    if client is None:
        sentence = f"There is no client {question.client_id}, or it was removed."
        return _grant_finding(
            ExchangeStep.CLIENT, sentence, "token-vault clients list; a removed agent registers and signs in again"
        )
    mine = await grants.list_grants(reader, user.id)
    grant = next((one for one in mine if one.client_id == client.id), None)
    if grant is None:
        sentence = f"{client.name} has no active grant from {user.name}: it never signed in, or its access was revoked."
        return _grant_finding(ExchangeStep.GRANT, sentence, "let the agent sign in again")
    connection = await connections.get_connection(reader, question.connection_id, user_id=user.id)
    if connection is None or connection.state is ConnectionState.REVOKED:
        sentence = (
            f"{user.name} has no such connection."
            if connection is None
            else f"{connection.label} ({connection.provider}) was disconnected."
        )
        fix = "run token-vault connections list; reconnect a disconnected account"
        return FailedStep(ExchangeStep.CONNECTION, ConnectionRequired.code, sentence, fix)
    return user, grant, connection


def _grant_finding(step: ExchangeStep, sentence: str, fix: str) -> FailedStep:
    return FailedStep(step, "invalid_grant", sentence, fix)


def _refusal_finding(refusal: VaultError, connection: Connection) -> FailedStep:
    """The finding for a refusal of the pure decision: its own sentence, and where to fix it."""
    again = f"run token-vault connections connect {connection.provider}"
    match refusal:
        case ScopeRefused():
            limit = f"providers.{connection.provider}.scopes"
            return FailedStep(
                ExchangeStep.OPERATOR, refusal.code, refusal.description, f"the limit is the setting {limit}"
            )
        case ConnectionRequired(reason="needs_reauth"):
            return FailedStep(ExchangeStep.STATE, refusal.code, refusal.description, again)
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
                ExchangeStep.CONNECTION, refusal.code, refusal.description, "ask again: something just changed"
            )


async def _token(held: HeldAccount, made: Plan, *, vault: Vault, now: int) -> Explanation:
    """Whether a token is at hand or can be fetched."""
    token = held.narrowed if made.needs_narrow_token else held.full
    refreshes = token is None or not token.is_good(now)
    if made.needs_narrow_token and derives(vault.policies[held.provider]):
        refreshes = refreshes and (held.full is None or not held.full.is_good(now))  # it is made from the full one
    again = f"run token-vault connections connect {held.provider}"
    if held.wrapped is None or held.salt is None:
        sentence = f"The key of {held.label} ({held.provider}) was destroyed, so its tokens can't be opened."
        return Explanation(
            FailedStep(ExchangeStep.TOKEN, CiphertextRejected.code, sentence, f"disconnect it, then {again}")
        )
    facts = await leases.read(vault.database, held.id, scope_key=made.scope_key) if refreshes else None
    refusal = None if facts is None else await rotation.obstacle(vault, facts, now=now)
    match refusal:
        case None:
            return Explanation(None, made.scopes, made.narrowing.value, refreshes=refreshes)
        case ConnectionRequired():
            fix = again
        case ProviderSilent():
            fix = "no action needed: the vault retries until the provider answers"
        case _ if (upstream := vault.upstreams.get(held.provider)) is None or not upstream.is_configured:
            fix = f"set providers.{held.provider}.client_id and its secret"
        case _:
            fix = "wait a minute and ask again"
    return Explanation(FailedStep(ExchangeStep.TOKEN, refusal.code, refusal.description, fix))

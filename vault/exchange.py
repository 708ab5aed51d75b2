"""The exchange: a principal, a provider and scopes become an upstream token with at most that authority.

One indexed read brings everything that a revocation must reach: the agent's grant, its client and user, the accounts
and their sealed tokens, the delegations, the keys. The decision is pure. Only a token that is missing, expired or
refused by the provider waits for `vault.rotation`. The event is durable before the token is returned. Making a link
for the person from a refusal is the server's work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vault import approvals, rotation
from vault.accounts import HeldAccount, HeldToken, Wanted, read_accounts
from vault.approvals import ToolCall
from vault.asking import Asked
from vault.attenuate import Plan, derives, plan, scope_key
from vault.audit import append
from vault.connections import ACCESS_TOKEN, names_account, narrowed_token
from vault.flights import Flights, Vault, Wish
from vault.records import ConnectionState, Event, Narrowing, Principal, format_scope
from vault.refusals import (
    AccountRequired,
    ApprovalRequired,
    CiphertextRejected,
    ConnectionRequired,
    DelegationRequired,
    ItemRefused,
    ScopeRefused,
    StorageBusy,
    StorageUnavailable,
    TemporarilyUnavailable,
    VaultError,
)
from vault.repeats import Basis, basis_of
from vault.spending import NarrowingRefused
from vault.upstream import UpstreamPolicy

__all__ = ["ExchangeRequest", "Flights", "UpstreamToken", "Vault", "exchange"]

log = logging.getLogger("token_vault.exchange")

ROUNDS = 4  # looks at the row; each but the first follows a refresh


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """What an agent wants. `scopes` None: all that was delegated. `purpose` is what for: the tool's name.

    `account` is a word of the person or agent for the account, `connection_id` the one connection and nothing else.
    `details` is what the event says beside that; `event` makes another one of the token, or none where the caller
    records it together with what it makes of the token. `call` is a tool's call, about which the person can be asked;
    None for what is handed out for later use. `is_kept`: the caller wants the `basis` of the token.
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
    event: Callable[[UpstreamToken], Event | None] | None = None
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamToken:
    """An upstream token and how its scopes hold. With `narrowing` ENFORCED the value must not leave the process.

    `generation` tells the vault which token the provider answered 401 to (`exchange(after_unauthorized=...)`).
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
    is_asked_beyond: bool = False  # the account holds scopes that the person is asked about each time
    basis: Basis | None = field(default=None, repr=False, compare=False)  # None: not asked for, or not all is stored


async def exchange(
    request: ExchangeRequest, *, vault: Vault, now: int, after_unauthorized: int | None = None
) -> UpstreamToken:
    """The token, or a refusal that says what to do; both leave a durable event first.

    `after_unauthorized` is the generation of a token that the provider refused: an equal or older one is refreshed once
    even before it expires.
    """
    try:
        token = await _obtain(request, vault=vault, now=now, spoiled=after_unauthorized or 0)
    except (StorageUnavailable, StorageBusy):
        raise  # nowhere to write an event either
    except VaultError as refusal:
        await vault.activity.record(_refused(request, refusal))
        raise
    event = _exchanged(request, token) if request.event is None else request.event(token)
    if event is not None:
        await vault.activity.record(event)
    return token


async def _obtain(request: ExchangeRequest, *, vault: Vault, now: int, spoiled: int) -> UpstreamToken:
    """Read, decide, open; after a refresh read again."""
    policy = vault.policies.get(request.provider)
    if policy is None:
        raise ScopeRefused(f"This vault does not know the provider {request.provider}.", missing=frozenset())
    key = "" if request.scopes is None else scope_key(request.scopes, request.item)
    wanted = Wanted(request.principal, request.provider, scope_key=key)
    arrived = 0
    for _ in range(ROUNDS):
        accounts = await read_accounts(vault.database, wanted)
        held, made = choose(request, accounts, policy=policy, ceiling=policy.operator_scopes, now=now)
        if policy.audience is not None:
            return await _minted(vault, request, held, made, policy=policy, now=now)
        if made.needs_narrow_token and made.scope_key != wanted.scope_key:
            wanted = replace(wanted, scope_key=made.scope_key)  # the wish was "all": now the set is known
            continue
        is_refused = made.needs_narrow_token and vault.flights.refuses_narrowing(held.id, made.scope_key, now=now)
        planned = made
        made = settle(made, held, policy=policy, is_refused=is_refused, now=now)
        if request.item is not None and not made.needs_narrow_token:
            raise ItemRefused(f"{request.provider} issues no token for this one thing with these scopes.")
        token = held.narrowed if made.needs_narrow_token else held.full
        scopes, item = (made.scopes, request.item) if made.needs_narrow_token else (None, None)
        if token is not None and token.generation > spoiled and (token.is_good(now) or token.generation == arrived):
            asked = Asked(held.ask | policy.ask, held.delegated, policy)
            if asked.entries:
                await _spend_approval(vault, request, held, scopes=made.scopes, asked=asked, now=now)
            purpose = narrowed_token(made.scope_key) if made.needs_narrow_token else ACCESS_TOKEN
            value = await _open(vault, held, token=token, purpose=purpose)
            wish = Wish(held.id, token.generation, scopes=scopes, item=item)
            rotation.keep_fresh(vault, held, token, wish=wish, now=now)
            basis: Basis | None = None
            if request.is_kept and made is planned and token.is_good(now):  # no matter of what was tried before
                basis = basis_of(wanted, accounts, held, token=token, wish=wish, now=now)
            return UpstreamToken(
                value,
                made.scopes,
                token.expires_at,
                made.narrowing,
                held.id,
                account=held.account,
                label=held.label,
                granted=held.scopes,
                generation=token.generation,
                is_asked_beyond=bool(asked.entries) and asked.is_about(held.scopes, tool=None),
                basis=basis,
            )
        known = 0 if token is None else token.generation
        try:
            arrived = await rotation.refresh(vault, held.id, scopes=scopes, item=item, if_generation=known)
        except NarrowingRefused:
            continue  # enforced from now on, with the full token
    raise TemporarilyUnavailable("This account's tokens are changing just now. Nothing is lost.", retry_after=2)


async def _minted(
    vault: Vault,
    request: ExchangeRequest,
    held: HeldAccount,
    made: Plan,
    *,
    policy: UpstreamPolicy,
    now: int,
) -> UpstreamToken:
    """A token of ours for an API that verifies it: made now, with these scopes and no other, kept nowhere."""
    if policy.audience is None or vault.mint is None or request.item is not None:
        raise ItemRefused(f"{request.provider} takes no tokens for one thing.")
    asked = Asked(held.ask | policy.ask, held.delegated, policy)
    if asked.entries:
        await _spend_approval(vault, request, held, scopes=made.scopes, asked=asked, now=now)
    minted = vault.mint(request.principal, audience=policy.audience, scopes=made.scopes, now=now)
    return UpstreamToken(
        minted.value,
        made.scopes,
        minted.expires_at,
        made.narrowing,
        held.id,
        account=held.account,
        label=held.label,
        granted=held.scopes,
        generation=0,
        is_asked_beyond=False,  # the token is narrow: what is asked about each time is not in it
    )


def choose(
    request: ExchangeRequest,
    accounts: Sequence[HeldAccount],
    *,
    policy: UpstreamPolicy,
    ceiling: frozenset[str] | None,
    now: int,
) -> tuple[HeldAccount, Plan]:
    """The account that is meant and the plan for it, or the refusal that says what is missing. Pure."""
    held = _which(request, accounts, now=now)
    wanted = request.scopes
    delegated = held.delegated if held.is_delegated(now) else frozenset[str]()
    made = plan(
        wanted,
        delegation=delegated,
        connection=held.scopes,
        policy_scopes=ceiling,
        policy=policy,
        item=request.item,
    )
    provider, asked = request.provider, made.scopes if wanted is None else wanted
    if made.outside_ceiling:
        raise ScopeRefused(
            f"The operator of this vault does not allow {_words(made.outside_ceiling)} for {provider}.",
            missing=made.outside_ceiling,
        )
    if held.state is not ConnectionState.ACTIVE:
        raise ConnectionRequired(
            f"{provider} no longer accepts the connection of {held.label}. Connect this account again.",
            provider=provider,
            reason="needs_reauth",
            scopes=asked,
            connection_id=held.id,
        )
    if made.not_granted:
        raise ConnectionRequired(
            f"The {provider} account {held.label} has not granted {_words(made.not_granted)}. "
            "Connect it again and allow that.",
            provider=provider,
            reason="scopes",
            scopes=asked,
            connection_id=held.id,
            missing=made.not_granted,
        )
    if not held.is_delegated(now) or made.not_delegated:
        raise DelegationRequired(
            _why_not_delegated(provider, held, missing=made.not_delegated, now=now),
            provider=provider,
            scopes=asked,
            connection_id=held.id,
            missing=made.not_delegated if held.is_delegated(now) else frozenset(),
        )
    return held, made


def _which(request: ExchangeRequest, accounts: Sequence[HeldAccount], *, now: int) -> HeldAccount:
    """The one account that is meant: the named one, the only one that this agent may use, or the one that the person
    chose for it. Never a silent first match.
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
                f"This {provider} account is not connected any more. Connect it, then try again.",
                provider=provider,
                reason="missing",
                scopes=request.scopes or frozenset(),
            )
        if not _fits(matching[0], request.account) and matching[0].is_delegated(now):  # else it could guess names
            raise AccountRequired(
                "That names two different accounts.", provider=provider, accounts=(matching[0].label,)
            )
        why = ""
    elif (len(accounts) > 1 or request.account is not None) and not any(one.is_delegated(now) for one in accounts):
        # Whose accounts these are is none of this agent's business, nor whether it guessed one: the person chooses.
        raise DelegationRequired(
            f"This agent is not allowed to use any {provider} account yet. Allow one, then try again.",
            provider=provider,
            scopes=request.scopes or frozenset(),
            connection_id=None,
        )
    elif request.account is None:
        matching = _meant(accounts, now=now)
        why = f"There are several {provider} accounts. Say which one to use."
    else:
        matching = [one for one in accounts if _fits(one, request.account)]
        why = f"That does not name exactly one connected {provider} account. Say which one to use."
    if len(matching) == 1:
        return matching[0]
    shown = [one for one in accounts if one.is_delegated(now)]
    labels = [one.label for one in shown]
    names = sorted(one.label if labels.count(one.label) == 1 else one.account for one in shown)
    raise AccountRequired(why, provider=provider, accounts=tuple(names))


def _fits(held: HeldAccount, named: str | None) -> bool:
    return named is None or names_account(named, id=held.id, account=held.account, label=held.label)


def _meant(accounts: Sequence[HeldAccount], *, now: int) -> Sequence[HeldAccount]:
    """The accounts among which a call that names none has to be asked about; one where it is clear."""
    usable = [one for one in accounts if one.is_delegated(now)]
    if len(usable) > 1:
        return [one for one in usable if one.is_default] or usable
    return usable or accounts


def _why_not_delegated(provider: str, held: HeldAccount, *, missing: frozenset[str], now: int) -> str:
    if held.delegation_ended(now):
        return f"The permission of this agent to use {held.label} ({provider}) has ended. Allow it again."
    if not held.is_delegated(now):
        return f"This agent is not allowed to use {held.label} ({provider}) yet. Allow it, then try again."
    return f"This agent may use {held.label} ({provider}), but not for {_words(missing)}. Allow that, then try again."


def _words(scopes: frozenset[str]) -> str:
    return ", ".join(sorted(scopes))


def settle(made: Plan, held: HeldAccount, *, policy: UpstreamPolicy, now: int, is_refused: bool = False) -> Plan:
    """Fall back to enforcing the scopes ourselves where a narrow token cannot be had but the full one still lives, or
    where the provider does not issue such a token at all (`is_refused`).
    """
    if not made.needs_narrow_token or (held.narrowed is not None and held.narrowed.is_good(now)):
        return made
    if derives(policy):  # it takes the full token, and a refresh only where that is old
        return replace(made, narrowing=Narrowing.ENFORCED, needs_narrow_token=False) if is_refused else made
    is_stuck = not held.may_refresh(policy, now=now) and held.full is not None and held.full.is_good(now)
    if is_stuck or is_refused or not held.has_refresh_token:
        return replace(made, narrowing=Narrowing.ENFORCED, needs_narrow_token=False)
    return made


async def _spend_approval(
    vault: Vault,
    request: ExchangeRequest,
    held: HeldAccount,
    *,
    scopes: frozenset[str],
    asked: Asked,
    now: int,
) -> None:
    """Spend the person's yes to exactly this call, or refuse. The last thing before a token is opened."""
    call, principal = request.call, request.principal
    if not asked.is_about(scopes, tool=None if call is None else call.tool):
        return
    what = f"{request.provider} as {held.label}"
    if call is None:
        text = f"The person is asked each time about {_words(scopes)} ({what}), so it can only be used through a tool."
    else:
        digest = approvals.digest_of(
            call, account=held.account, client_id=principal.client_id, user_id=principal.user_id
        )
        async with vault.database.transaction() as transaction:
            if await approvals.consume(transaction, principal=principal, digest=digest, attempt=call.attempt, now=now):
                event = Event(
                    "approval.consumed",
                    user_id=principal.user_id,
                    client_id=principal.client_id,
                    connection_id=held.id,
                    details={"tool": call.tool, "provider": request.provider, "call": digest.hex()},
                )
                await append(transaction, event, now=now)
                return
        text = f"The person wants to be asked before each {call.tool} ({what})."
    raise ApprovalRequired(
        text,
        provider=request.provider,
        scopes=scopes,
        connection_id=held.id,
        account=held.account,
        label=held.label,
        can_ask=call is not None,
    )


async def _open(vault: Vault, held: HeldAccount, *, token: HeldToken, purpose: str) -> str:
    """Open a token of this row; a ciphertext that does not belong here is refused, with an event of its own."""
    try:
        key = await held.key(vault.keys)
        return key.open(
            token.sealed, purpose=purpose, provider=held.provider, account=held.account, generation=token.generation
        )
    except CiphertextRejected:
        log.error("token does not open", extra={"connection": held.id})  # noqa: TRY400  the trace would add nothing
        details = {"provider": held.provider, "account": held.label, "column": purpose.partition(":")[0]}
        await vault.activity.record(
            Event(
                "connection.ciphertext_rejected",
                outcome="failed",
                user_id=held.user_id,
                connection_id=held.id,
                details=details,
            )
        )
        raise


def _exchanged(request: ExchangeRequest, token: UpstreamToken) -> Event:
    return Event(
        "token.exchanged",
        user_id=request.principal.user_id,
        client_id=request.principal.client_id,
        connection_id=token.connection_id,
        details={
            "provider": request.provider,
            "account": token.label,
            "scopes": format_scope(token.scopes),
            "narrowing": token.narrowing.value,
            "purpose": request.purpose,
            "grant": request.principal.grant_id,
            "actors": list(request.principal.actors),
            **({} if request.item is None else {"item": request.item}),
            **request.details,
        },
    )


def _refused(request: ExchangeRequest, refusal: VaultError) -> Event:
    details: dict[str, object] = {
        "provider": request.provider,
        "code": refusal.code,
        "purpose": request.purpose,
        "grant": request.principal.grant_id,
        "actors": list(request.principal.actors),
        **request.details,
    }
    if request.scopes is not None:
        details["scopes"] = format_scope(request.scopes)
    if request.item is not None:
        details["item"] = request.item
    connection_id: str | None = None
    if isinstance(refusal, ConnectionRequired):
        details["reason"] = refusal.reason
        connection_id = refusal.connection_id
    elif isinstance(refusal, DelegationRequired | ApprovalRequired):
        connection_id = refusal.connection_id
    return Event(
        "exchange.refused",
        outcome="refused",
        user_id=request.principal.user_id,
        client_id=request.principal.client_id,
        connection_id=connection_id,
        details=details,
    )

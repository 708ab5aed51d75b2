"""The exchange: a principal, a provider and scopes become an upstream token with at most that authority.

One indexed read returns everything that a revocation must reach: the agent's grant, its client and user, the accounts
and their sealed tokens, the delegations, the keys. `vault.exchange.decision` decides. Only a token that is missing,
expired or refused by the provider waits for `vault.refresh.rotation`. The event is durable before the token is
returned. The server turns a refusal into a link for the person.
"""

from __future__ import annotations

import hashlib
import logging
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import field, replace

from vault.approvals import approvals, standing_approvals
from vault.approvals.approvals import ToolCall
from vault.approvals.standing_approvals import Binding, StandingUse
from vault.audit.audit import append
from vault.classes.immutable import immutable
from vault.connections import ACCESS_TOKEN, narrowed_token
from vault.exchange.approval_rules import ApprovalQuestion, can_stand
from vault.exchange.decision import ExchangeRequest, UpstreamToken, choose, for_member, settle, words
from vault.exchange.recent import Basis, basis_of
from vault.records import Event, Narrowing, format_scope
from vault.refresh import company, leases, rotation
from vault.refresh.accounts import AccountQuery, HeldAccount, HeldToken, check_rows, look, parameters_of
from vault.refresh.concurrency import RefreshTasks, UpstreamTokenRequest, Vault
from vault.refresh.policy_checks import PolicyOutcome, PolicyQuestion, PolicyVerdict
from vault.refresh.refresh_request import NarrowingRefused, open_refresh_token
from vault.refusals import (
    ApprovalRequired,
    CiphertextRejected,
    ConnectionRequired,
    DelegationRequired,
    ItemRefused,
    PolicyRefused,
    ScopeRefused,
    StorageBusy,
    StorageUnavailable,
    TemporarilyUnavailable,
    VaultError,
)
from vault.scopes import Plan, expand, scope_key
from vault.spans import CALLER_ADDRESS, span
from vault.storage.database import Transaction
from vault.upstream import CredentialKind, UpstreamPolicy

__all__ = ["ExchangeRequest", "RefreshTasks", "UpstreamToken", "Vault", "exchange", "thumbprint"]

log = logging.getLogger("token_vault.exchange")

ROUNDS = 5  # reads of the row; each after the first follows a refresh, or reading a secret elsewhere


@immutable
class ReadSecret:
    """The value of a sealed `reference`, read from its `source`."""

    reference: str = field(repr=False)
    value: str = field(repr=False)
    source: str


@immutable
class PolicyAnswer:
    """The question to the operator's own policy, and its answer."""

    question: PolicyQuestion
    verdict: PolicyVerdict


async def exchange(
    request: ExchangeRequest, *, vault: Vault, now: int, after_unauthorized: int | None = None
) -> UpstreamToken:
    """The token, or a refusal that says what to do; both leave a durable event first.

    `after_unauthorized` is the generation of a token that the provider refused: an equal or older one is refreshed once
    even before it expires.
    """
    try:
        with span("exchange", provider=request.provider):
            token = await _obtain(request, vault=vault, now=now, spoiled=after_unauthorized or 0)
    except (StorageUnavailable, StorageBusy):
        raise  # storage is down, so no event can be written either
    except VaultError as refusal:
        await vault.activity.record_refusal(_refusal_event(request, refusal))
        raise
    event = exchange_event(request, token, vault=vault) if request.event is None else request.event(token)
    if event is not None:
        await vault.activity.record(event)
    return token


async def _obtain(request: ExchangeRequest, *, vault: Vault, now: int, spoiled: int) -> UpstreamToken:
    """Read, decide, open; read again after a refresh."""
    known_policy = vault.policies.get(request.provider)
    if known_policy is None or known_policy.is_identity:
        raise ScopeRefused(f"This vault doesn't know the provider {request.provider}.", missing=frozenset())
    key = "" if request.scopes is None else scope_key(request.scopes, request.item)
    wanted = AccountQuery(request.principal, request.provider, scope_key=key, tool_sets=request.tool_sets)
    arrived, is_healed = 0, False
    answered: PolicyAnswer | None = None
    read: ReadSecret | None = None
    spent: dict[tuple[str, frozenset[str]], str] = {}  # approvals that were used up for this call
    for _ in range(ROUNDS if vault.policy_check is None else ROUNDS + 1):
        rows = await look(vault.database, parameters_of(wanted))
        accounts = check_rows(rows, wanted)
        try:
            held, made = choose(request, accounts, policy=known_policy, ceiling=known_policy.operator_scopes, now=now)
        except ConnectionRequired as refusal:
            if is_healed or not await company.heal(vault, request.principal.user_id, refusal):
                raise
            is_healed = True
            continue
        policy = known_policy.for_renewal(held.renewed_by)
        if policy.credential is CredentialKind.KEY and not _is_on(vault, request.provider):
            raise rotation.not_set_up(request.provider)  # a key has no refresh to refuse
        if policy.audience is not None:
            asking = await check_policy(vault, request, held, scopes=made.scopes, now=now, answered=answered)
            if _is_to_be_read_again(asking, answered):
                answered = asking
                continue
            asked = _question(request, held, policy, asking, now=now)
            return await _mint(vault, request, held, made, policy=policy, asked=asked, now=now)
        if made.needs_narrow_token and made.scope_key != wanted.scope_key:
            wanted = replace(wanted, scope_key=made.scope_key)  # the request was "all": now the set is known
            continue
        is_refused = made.needs_narrow_token and vault.tasks.refuses_narrowing(held.id, made.scope_key, now=now)
        planned = made
        made = settle(made, held, policy=policy, is_refused=is_refused, now=now)
        if request.item is not None and not made.needs_narrow_token:
            raise ItemRefused(f"{request.provider} issues no token for this item with these scopes.")
        token = held.narrowed if made.needs_narrow_token else held.full
        scopes, item = (made.scopes, request.item) if made.needs_narrow_token else (None, None)
        if token is not None and token.generation > spoiled and (token.is_good(now) or token.generation == arrived):
            reach = _reach(request, held, made, policy=policy)
            asking = await check_policy(vault, request, held, scopes=reach, now=now, answered=answered)
            if _is_to_be_read_again(asking, answered):
                answered = asking
                continue
            asked = _question(request, held, policy, asking, now=now)
            approval = spent.get((held.id, made.scopes)) or await _spend_approval(
                vault, request, held, scopes=made.scopes, asked=asked, now=now
            )
            purpose = narrowed_token(made.scope_key) if made.needs_narrow_token else ACCESS_TOKEN
            value = await _open(vault, held, token=token, purpose=purpose)
            entered = await _open_entered(vault, held, policy=policy)
            is_key = policy.credential is CredentialKind.KEY
            elsewhere = await _read_elsewhere(vault, request.provider, value if is_key else entered, known=read)
            if elsewhere is not read:
                read = elsewhere
                spent[held.id, made.scopes] = approval
                continue  # the account may have been disconnected while its secret was read
            following = UpstreamTokenRequest(held.id, token.generation, scopes=scopes, item=item)
            rotation.keep_fresh(vault, held, token, request=following, now=now)
            basis: Basis | None = None
            is_kept = request.is_kept and read is None  # a secret kept elsewhere is read for each use
            if is_kept and made is planned and token.is_good(now) and vault.policy_check is None:
                basis = basis_of(wanted, accounts, held, rows=rows, token=token, purpose=purpose, now=now)
            return UpstreamToken(
                read.value if read is not None and is_key else value,
                made.scopes,
                token.expires_at,
                made.narrowing,
                held.id,
                account=held.account,
                label=held.label,
                granted=held.scopes,
                generation=token.generation,
                also_allowed=_also_allowed(vault, held, policy=policy, asked=asked, now=now),
                is_asked_beyond=asked.is_about(held.scopes | policy.own, tool=None),
                approval=approval,
                entered=read.value if read is not None and not is_key else entered,
                secret_source="" if read is None else read.source,
                basis=basis,
            )
        known = 0 if token is None else token.generation
        try:
            refused = spoiled if scopes is None and known == spoiled else 0
            arrived = await rotation.refresh(
                vault, held.id, scopes=scopes, item=item, if_generation=known, spoiled=refused
            )
        except NarrowingRefused:
            continue  # enforced by us from now on, with the full token
        except ConnectionRequired as refusal:
            raise for_member(refusal, held) from refusal.__cause__
    raise TemporarilyUnavailable("This account's tokens are changing.", retry_after=2)


async def _read_elsewhere(vault: Vault, provider: str, token: str, *, known: ReadSecret | None) -> ReadSecret | None:
    """The secret that a person's key or other credential refers to, which may already be `known`; None for one held
    here.

    Raises TemporarilyUnavailable.
    """
    if vault.references is None or not token:
        return None
    if known is not None and known.reference == token:
        return known
    source = vault.references.source_of(provider, token)
    return ReadSecret(token, await vault.references.read(provider, token), source) if source else None


async def _open_entered(vault: Vault, held: HeldAccount, *, policy: UpstreamPolicy) -> str:
    """The credential that the person entered, where the account has a token for it; empty for all others."""
    if policy.credential not in {CredentialKind.CLIENT_CREDENTIALS, CredentialKind.SESSION}:
        return ""
    facts = await leases.read(vault.database, held.id)
    if facts is None or facts.refresh_sealed is None:
        return ""
    return open_refresh_token(facts.key(vault.keys), facts)


def _is_on(vault: Vault, provider: str) -> bool:
    upstream = vault.upstreams.get(provider)
    return upstream is not None and upstream.is_configured


def _reach(request: ExchangeRequest, held: HeldAccount, made: Plan, *, policy: UpstreamPolicy) -> frozenset[str]:
    """What the caller can do with the released token; for a full token, everything it allows."""
    if made.narrowing is Narrowing.UPSTREAM or not request.goes_out_whole(held.id):
        return made.scopes
    return held.scopes | policy.own


def _question(
    request: ExchangeRequest, held: HeldAccount, policy: UpstreamPolicy, answer: PolicyAnswer | None, *, now: int
) -> ApprovalQuestion:
    """What the person is asked about; nothing where one of their own pages reads."""
    entries = frozenset[str]() if request.is_for_person else held.ask | policy.ask
    verdict = None if answer is None or answer.verdict.outcome is not PolicyOutcome.ASK else answer.verdict
    return ApprovalQuestion(entries, held.allowed_scopes(now), policy, required=verdict)


async def _mint(
    vault: Vault,
    request: ExchangeRequest,
    held: HeldAccount,
    made: Plan,
    *,
    policy: UpstreamPolicy,
    asked: ApprovalQuestion,
    now: int,
) -> UpstreamToken:
    """Mint a token of ours for an API that verifies it: created now, with exactly these scopes, and stored nowhere."""
    if policy.audience is None or vault.mint is None or request.item is not None:
        raise ItemRefused(f"{request.provider} can't limit a token to a single item.")
    approval = await _spend_approval(vault, request, held, scopes=made.scopes, asked=asked, now=now)
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
        is_asked_beyond=False,  # the token is narrow: it leaves out what needs approval each time
        approval=approval,
    )


def _also_allowed(
    vault: Vault, held: HeldAccount, *, policy: UpstreamPolicy, asked: ApprovalQuestion, now: int
) -> frozenset[str]:
    """Empty where an operator's policy decides on each call."""
    if vault.policy_check is not None or not held.is_delegated(now):
        return frozenset()
    found = expand(held.delegated, policy.covers) & expand(held.scopes, policy.covers)
    if policy.operator_scopes is not None:
        found &= expand(policy.operator_scopes, policy.covers)
    return frozenset(one for one in found if not asked.is_about(frozenset({one}), tool=None))


def _is_to_be_read_again(answer: PolicyAnswer | None, before: PolicyAnswer | None) -> bool:
    """Whether this answer took so long that the permission may have been revoked in the meantime."""
    return answer is not None and answer is not before and answer.verdict.has_waited


async def check_policy(
    vault: Vault,
    request: ExchangeRequest,
    held: HeldAccount,
    *,
    scopes: frozenset[str],
    now: int,
    answered: PolicyAnswer | None = None,
    is_trial: bool = False,
) -> PolicyAnswer | None:
    """Ask the operator's own policy, before an approval is used up. Raises PolicyRefused or TemporarilyUnavailable.

    None: there is no policy. Questions that it has `answered` aren't asked again.
    """
    if vault.policy_check is None or request.is_for_person:
        return None
    who = request.principal
    question = PolicyQuestion(
        who.user_id,
        who.client_id,
        who.actors,
        provider=request.provider,
        connection_id=held.id,
        account=held.account,
        scopes=scopes,
        purpose=request.purpose,
        label=held.label,
        call=request.call,
        wire=request.wire,
        address=CALLER_ADDRESS.get(),
        signed_in_at=who.auth_time,
        is_strong=who.is_strong,
        is_trial=is_trial,
    )
    if answered is not None and answered.question == question:
        return answered
    verdict = await vault.policy_check(question, vault.database, now=now)
    if verdict.outcome is PolicyOutcome.FORBID:
        what = f"This vault's policy doesn't allow {words(scopes)} with {request.provider} here."
        raise PolicyRefused(f"{what} {verdict.words}".rstrip(), rule=verdict.rule, digest=verdict.digest)
    return PolicyAnswer(question, verdict)


async def _spend_approval(
    vault: Vault,
    request: ExchangeRequest,
    held: HeldAccount,
    *,
    scopes: frozenset[str],
    asked: ApprovalQuestion,
    now: int,
) -> str:
    """Use up the person's approval of exactly this call, or a use of a standing one, or refuse; returns how it was
    approved.

    The last step before a token is opened.
    """
    call, principal = request.call, request.principal
    is_release = call is not None and call.tool == approvals.RELEASE
    required = asked.required
    if required is None and not asked.is_about(scopes, tool=None if call is None or is_release else call.tool):
        return ""
    what = f"{request.provider} as {held.label}"
    if call is None:
        text = f"The person approves each use of {words(scopes)} ({what}), so use a tool for it."
    else:
        digest = approvals.digest_of(
            call, account=held.account, client_id=principal.client_id, user_id=principal.user_id
        )
        async with vault.database.transaction() as transaction:
            if await approvals.consume(
                transaction,
                principal=principal,
                connection_id=held.id,
                digest=digest,
                attempt=call.attempt,
                now=now,
            ):
                details = {"tool": call.tool, "provider": request.provider, "call": digest.hex()}
                await append(transaction, _approval_event("approval.consumed", request, held, details), now=now)
                return "the person approved this call"
            may_stand = required is None and can_stand(
                asked.policy, delegated=held.allowed_scopes(now), scopes=scopes, tool=call.tool
            )
            if may_stand and (use := await _use_standing(transaction, request, held, call=call, now=now)):
                return f"standing approval {use.id}, call {use.used} of {use.per_day} today"
        text = f"The person approves each {call.tool} call ({what})."
        if is_release:
            text = f"The person approves each use of {words(scopes)} ({what})."
    raise ApprovalRequired(
        text if required is None else f"{text} {required.words}",
        provider=request.provider,
        scopes=scopes,
        connection_id=held.id,
        account=held.account,
        label=held.label,
        can_ask=call is not None,
        rule="" if required is None else required.rule,
        digest="" if required is None else required.digest,
    )


async def _use_standing(
    transaction: Transaction, request: ExchangeRequest, held: HeldAccount, *, call: ToolCall, now: int
) -> StandingUse | None:
    """Take one use of a standing approval, once for each call; None when there is none left."""
    if (before := call.standing_use) is not None:
        return before if await standing_approvals.is_live(transaction, before.id, now=now) else None
    target = call.target()
    if target is None:
        return None
    who = request.principal
    binding = Binding(who.user_id, who.client_id, held.id, tool=call.tool, target=target)
    use = call.standing_use = await standing_approvals.spend(transaction, binding, now=now)
    if use is not None:
        details = {
            "tool": call.tool,
            "provider": request.provider,
            "account": held.label,
            "standing": use.id,
            "used": use.used,
            "per_day": use.per_day,
        }
        await append(transaction, _approval_event("approval.standing_used", request, held, details), now=now)
    return use


def _approval_event(kind: str, request: ExchangeRequest, held: HeldAccount, details: Mapping[str, object]) -> Event:
    who = request.principal
    return Event(kind, user_id=who.user_id, client_id=who.client_id, connection_id=held.id, details=details)


async def _open(vault: Vault, held: HeldAccount, *, token: HeldToken, purpose: str) -> str:
    """Open a token of this row; refuse a ciphertext that doesn't belong here, with a separate event."""
    try:
        return _unseal(vault, held, token=token, purpose=purpose)
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


def _unseal(vault: Vault, held: HeldAccount, *, token: HeldToken, purpose: str) -> str:
    return held.key(vault.keys).open(
        token.sealed, purpose=purpose, provider=held.provider, account=held.account, generation=token.generation
    )


async def open_again(token: UpstreamToken, basis: Basis, *, vault: Vault) -> UpstreamToken:
    """The token of an earlier decision, opened again; `basis.rows` were read again just now.

    Raises VaultError if it doesn't open, which the exchange reports.
    """
    policy = vault.policy_of(basis.held.provider, basis.held.renewed_by)
    value = _unseal(vault, basis.held, token=basis.token, purpose=basis.purpose)
    return replace(token, value=value, entered=await _open_entered(vault, basis.held, policy=policy))


def exchange_event(request: ExchangeRequest, token: UpstreamToken, *, vault: Vault) -> Event:
    """The details of the event, with what a later replay of rules needs if there are rules, and no value of a call."""
    is_judged = vault.policy_check is not None
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
            "token_thumbprint": thumbprint(token.value),
            **_call_details(request.call, vault),
            **({} if request.item is None else {"item": request.item}),
            **({"secret_source": token.secret_source} if token.secret_source else {}),
            **({"strong": request.principal.is_strong} if is_judged else {}),
            **(request.wire if is_judged else {}),
            **request.details,
        },
    )


def thumbprint(token: str) -> str:
    """The whole SHA-256 in base64url: identifies a token in records that must not hold it."""
    return urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


def hash_arguments(call: ToolCall, *, vault: Vault) -> str:
    """HMAC-SHA256 of the arguments in base64url: without the vault's key, no one can test guesses of a value."""
    return urlsafe_b64encode(vault.keys.mac("arguments", call.format_arguments())).rstrip(b"=").decode()


def _call_details(call: ToolCall | None, vault: Vault) -> Mapping[str, object]:
    return (
        {} if call is None or call.tool == approvals.RELEASE else {"arguments_hash": hash_arguments(call, vault=vault)}
    )


def _refusal_event(request: ExchangeRequest, refusal: VaultError) -> Event:
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
    if isinstance(refusal, PolicyRefused | ApprovalRequired) and refusal.rule:
        details |= {"rule": refusal.rule, "policy": refusal.digest}
    return Event(
        "exchange.refused",
        outcome="refused",
        user_id=request.principal.user_id,
        client_id=request.principal.client_id,
        connection_id=connection_id,
        details=details,
    )

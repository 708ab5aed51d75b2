"""Requests for access that only others can give: who may request what, who answers, and the effect of the answer.

Requests to use a group's account beyond its rule, or all of a group's accounts, are answered by its managers and by
administrators; requests for an agent that a company's rules don't admit, by administrators. People allow access to
their own accounts themselves, on their pages.
`vault.approvals.access_requests` stores requests, and `vault.upkeep.access_ends` ends the access that they gave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from server.administration.actor import Actor, ChangeRefused
from server.administration.people import hold_person
from server.deployment import Deployment
from server.http.page_texts import visible
from server.sign_in.approvers import gives_role, may_answer
from vault import clients, connections, delegations, groups, limits, shared_connections, users
from vault.approvals import access_requests as stored
from vault.approvals.access_requests import ANSWER_LIFETIME, MEMBERSHIP, AccessRequest, Kind, RequestedAccess
from vault.audit import audit
from vault.groups import Group, name_key
from vault.records import Client, Delegation, Event, User
from vault.scopes import expand
from vault.shared_connections import SharedConnection
from vault.storage.database import Reader, Transaction
from vault.upkeep import access_ends

DAY: Final = 86400
MOST_REASON: Final = 500  # characters
PER_DAY: Final = 30  # requests by one person
_NOTHING: Final = frozenset[str]()
_NO_REQUEST: Final = "This request doesn't exist."


@dataclass(frozen=True, slots=True)
class AccessInput:
    """A request from a form, program, or agent, for one of `account` (a connection's ID), `group`, and `company`
    (names).

    `client_id`: the agent that it is for; empty for a group's accounts. `is_by_agent`: the agent files it.
    """

    account: str = ""
    group: str = ""
    company: str = ""
    client_id: str = ""
    scopes: frozenset[str] = _NOTHING
    reason: str = ""
    days: int = 0
    is_by_agent: bool = False


@dataclass(frozen=True, slots=True)
class AccessAnswer:
    """An approval of all or some of the requested scopes, for at most the requested days. `scopes` None: all of them.

    For a company, `scopes` holds the names of the rules that then apply to this person and agent.
    """

    days: int
    scopes: frozenset[str] | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class DescribedRequest:
    """A request with the names of the objects that it concerns."""

    request: AccessRequest
    person: User | None
    client: Client | None
    provider: str = ""
    account: str = ""
    group: str = ""
    company: str = ""
    decided_by: str = ""

    @property
    def names(self) -> dict[str, object]:
        """The known names, for an event."""
        known = {"provider": self.provider, "account": self.account, "group": self.group}
        return {name: value for name, value in known.items() if value}


# What can be asked for


async def requested_access(deployment: Deployment, user: User, asking: AccessInput) -> RequestedAccess:
    """The requested access, checked. Raises ChangeRefused."""
    longest = deployment.settings.access_requests.longest_days
    if longest == 0:
        raise ChangeRefused("requests_off", "Access requests are turned off on this vault.", kind="forbidden")
    reason = " ".join(visible(asking.reason).split())
    if not 1 <= len(reason) <= MOST_REASON:
        said = f"Give a reason of 1 to {MOST_REASON} characters."
        raise ChangeRefused("request_reason", said, field="reason", most=str(MOST_REASON))
    if not 1 <= asking.days <= longest:
        said = f"Ask for 1 to {longest} days."
        raise ChangeRefused("request_days", said, field="days", most=str(longest))
    filed_by = "agent" if asking.is_by_agent else "person"
    access = RequestedAccess(
        user.id,
        asking.client_id,
        Kind.GROUP,
        target="",
        group_id="",
        scopes=_NOTHING,
        reason=reason,
        lifetime=asking.days * DAY,
        filed_by=filed_by,
    )
    if asking.account:
        return await _for_account(deployment, user, asking, access)
    if asking.company:
        return await _for_company(deployment, asking, access)
    return await _for_group(deployment, user, asking, access)


async def shared_accounts(deployment: Deployment, user: User) -> tuple[SharedConnection, ...]:
    """The accounts of the person's groups."""
    return await shared_connections.of_person(deployment.database, user.id, now=deployment.now())


async def shared_account(deployment: Deployment, user: User, connection_id: str) -> SharedConnection | None:
    """The account with this ID in one of the person's groups, or None."""
    found = await shared_accounts(deployment, user)
    return next((one for one in found if one.connection.id == connection_id), None)


def beyond_rule(deployment: Deployment, shared: SharedConnection) -> frozenset[str]:
    """The account's scopes that the group's rule doesn't include, within the operator's limit."""
    policy = deployment.vault.policies.get(shared.connection.provider)
    if policy is None:
        return _NOTHING
    held = expand(shared.connection.scopes, policy.covers) - policy.always_granted
    ceiling = held if policy.operator_scopes is None else expand(policy.operator_scopes, policy.covers)
    return (held & ceiling) - shared.rule.scopes


async def _for_account(
    deployment: Deployment, user: User, asking: AccessInput, access: RequestedAccess
) -> RequestedAccess:
    database = deployment.database
    if await connections.get_connection(database, asking.account, user_id=user.id) is not None:
        raise ChangeRefused(
            "own_account",
            "This account is yours: allow it on the agent's page, without a request.",
            field="scopes",
        )
    shared = await shared_account(deployment, user, asking.account)
    if shared is None:
        raise ChangeRefused("no_such_access", "You can't request this.", kind="not_found")
    await _own_agent(deployment, user, asking.client_id)
    scopes, rest = asking.scopes, beyond_rule(deployment, shared)
    if not scopes or not scopes <= rest | shared.rule.scopes:
        said = "Ask for permissions that this account has and the vault's settings allow."
        raise ChangeRefused("request_scopes", said, field="scopes")
    if not scopes & rest:
        said = "The group's rule already allows this: allow it on the agent's page."
        raise ChangeRefused("nothing_more", said, field="scopes")
    return replace(access, kind=Kind.ACCOUNT, target=asking.account, group_id=shared.group.id, scopes=scopes)


async def _own_agent(deployment: Deployment, user: User, client_id: str) -> None:
    own = await clients.list_own(deployment.database, user.id, now=deployment.now())
    if client_id not in {one.id for one in own}:
        raise ChangeRefused("request_agent", "Choose one of your agents.", field="agent")


async def _for_company(deployment: Deployment, asking: AccessInput, access: RequestedAccess) -> RequestedAccess:
    trusted = deployment.settings.enterprise.get(asking.company)
    client = await clients.get_client(deployment.database, asking.client_id)
    if trusted is None or not trusted.allow or client is None:
        raise ChangeRefused("no_such_access", "You can't request this.", kind="not_found")
    return replace(access, kind=Kind.COMPANY, target=asking.company)


async def askable_groups(deployment: Deployment, user: User) -> tuple[Group, ...]:
    """The groups that the person isn't in and that the operator allows everyone to request accounts of."""
    database, now = deployment.database, deployment.now()
    found: list[Group] = []
    for name in deployment.settings.access_requests.groups:
        group = None if gives_role(deployment, name) else await groups.find_group(database, name)
        if group is not None and not await groups.is_member(database, group.id, user.id, now=now):
            found.append(group)
    return tuple(found)


async def _for_group(
    deployment: Deployment, user: User, asking: AccessInput, access: RequestedAccess
) -> RequestedAccess:
    named = [one for one in await askable_groups(deployment, user) if name_key(one.name) == name_key(asking.group)]
    if not named:
        raise ChangeRefused("no_such_access", "You can't request this.", kind="not_found")
    return replace(access, client_id="", target=named[0].id, group_id=named[0].id)


# Asking


async def ask(deployment: Deployment, user: User, asking: AccessInput, *, via: str = "") -> tuple[AccessRequest, bool]:
    """File the request, or return the open one if it is the same. `via`: the agent's name.

    Raises ChangeRefused, or TemporarilyUnavailable after too many requests.
    """
    access, now = await requested_access(deployment, user, asking), deployment.now()
    async with deployment.transaction() as transaction:
        if not await limits.spend(transaction, f"access:{user.id}", limit=PER_DAY, window=DAY, now=now):
            said = f"You sent {PER_DAY} requests within a day: wait until tomorrow."
            raise ChangeRefused("request_limit", said, kind="too_many_requests", most=str(PER_DAY))
    async with deployment.transaction() as transaction:
        await users.hold_user(transaction, user.id)
        request, is_new = await stored.ask(transaction, access, now=now)
        if not access.scopes <= request.access.scopes:
            url = deployment.url(f"/access-requests/{request.id}")
            said = f"Another request for this account is open: {url}. Wait for its answer, or withdraw it."
            raise ChangeRefused("request_open", said, kind="conflict", field="scopes", url=url)
        if is_new:
            known = await describe(deployment, request, reader=transaction)
            details = {
                **access_ends.facts_of(request),
                **known.names,
                "days": asking.days,
                "until": now + ANSWER_LIFETIME,
            }
            details |= {"via": via} if via else {}
            event = access_ends.event_of(request, "permission.requested", details)
            await audit.append(transaction, event, now=now)
    return request, is_new


# Who answers


async def to_answer(deployment: Deployment, user: User) -> tuple[AccessRequest, ...]:
    """The open requests that this person may answer, including by the roles of their groups; oldest first."""
    database, now = deployment.database, deployment.now()
    if user.role.administers:
        return await stored.list_pending(database, now=now)
    if not await stored.managed_by(database, user.id):
        return ()
    mine = await stored.list_pending(database, now=now, manager=user.id)
    return tuple([one for one in mine if await may_answer(deployment, user, one.access, reader=database)])


async def visible_to(deployment: Deployment, user: User, request_id: str) -> AccessRequest:
    """The request, for the person who made it and those who may answer. Raises ChangeRefused."""
    found = await request_with_id(deployment, request_id)
    is_own = found.access.user_id == user.id
    if not is_own and not await may_answer(deployment, user, found.access, reader=deployment.database):
        raise ChangeRefused("no_request", _NO_REQUEST, kind="not_found")
    return found


async def request_with_id(deployment: Deployment, request_id: str) -> AccessRequest:
    """The request, whoever made it. Raises ChangeRefused."""
    found = await stored.get(deployment.database, request_id)
    if found is None:
        raise ChangeRefused("no_request", _NO_REQUEST, kind="not_found")
    return found


# Answering


def most_days(deployment: Deployment, request: AccessRequest) -> int:
    """The longest duration that an answer can allow: the requested one, within the operator's limit."""
    return min(request.access.lifetime // DAY, deployment.settings.access_requests.longest_days)


async def allow(actor: Actor, request_id: str, answer: AccessAnswer) -> AccessRequest:
    """Turn the request, or a part of it, into a permission with an end. Raises ChangeRefused and TransitionRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    async with deployment.transaction(holds_admins=True) as transaction:
        request = await _hold(actor, transaction, request_id)
        access, most = request.access, most_days(deployment, request)
        if not 1 <= answer.days <= most:
            said = f"Allow it for 1 to {most} days: for the requested time or less."
            raise ChangeRefused("request_days", said, field="days", most=str(most))
        asker = await users.get_user(transaction, access.user_id)
        if asker is None or asker.disabled_at is not None:
            raise ChangeRefused("asker_gone", "The person who asked was disabled or deleted.", kind="conflict")
        scopes = await _given_scopes(deployment, transaction, request, answer, now=now)
        ends_at = now + answer.days * DAY
        made = await _carry_out(transaction, request, scopes, ends_at=ends_at, now=now)
        before = await stored.allow(
            transaction,
            request,
            by="" if actor.user is None else actor.user.id,
            scopes=scopes,
            expires_at=ends_at,
            answer=_words(answer.words),
            made_permission=made,
            now=now,
        )
        if before is not None and access.kind is Kind.COMPANY:
            await access_ends.take_company_back(transaction, before, now=now)
        known = await describe(deployment, request, reader=transaction)
        about = {**access_ends.facts_of(request), **known.names, "scopes": sorted(scopes), "ends_at": ends_at}
        about |= {} if before is None else {"replaces": before.id}
        await audit.append(transaction, _event(actor, request, "permission.allowed", about), now=now)
        return await _again(transaction, request)


async def confirm(actor: Actor, request_id: str) -> AccessRequest:
    """Record that the person wants the access that their agent requested. Raises ChangeRefused and
    TransitionRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    async with deployment.transaction() as transaction:
        request = await stored.hold(transaction, request_id)
        if request is None or actor.agent is not None or not _is_asker(actor, request):
            raise ChangeRefused("no_request", _NO_REQUEST, kind="not_found")
        await stored.confirm(transaction, request, now=now)
        known = await describe(deployment, request, reader=transaction)
        about = {**access_ends.facts_of(request), **known.names}
        await audit.append(transaction, _event(actor, request, "permission.confirmed", about), now=now)
        return await _again(transaction, request)


async def deny(actor: Actor, request_id: str, *, words: str = "") -> AccessRequest:
    """Refuse the request. Raises ChangeRefused and TransitionRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    async with deployment.transaction(holds_admins=True) as transaction:
        request = await _hold(actor, transaction, request_id)
        by = "" if actor.user is None else actor.user.id
        await stored.deny(transaction, request, by=by, answer=_words(words), now=now)
        known = await describe(deployment, request, reader=transaction)
        about = {**access_ends.facts_of(request), **known.names}
        await audit.append(transaction, _event(actor, request, "permission.denied", about), now=now)
        return await _again(transaction, request)


async def end(actor: Actor, request_id: str) -> AccessRequest:
    """Withdraw a request, or end the access it gave, for its person or an approver. Raises ChangeRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    async with deployment.transaction() as transaction:
        request = await _hold_for_either(actor, transaction, request_id)
        by = "" if actor.user is None else actor.user.name
        via = "" if actor.agent is None else actor.agent.name or actor.agent.id
        reason = "by_person" if _is_asker(actor, request) else "by_approver"
        if not await access_ends.end(transaction, request, reason=reason, by=by, via=via, now=now):
            raise ChangeRefused("access_over", "This request is already over.", kind="conflict")
        return await _again(transaction, request)


async def narrow(actor: Actor, request_id: str, *, scopes: frozenset[str], days: int) -> AccessRequest:
    """Reduce what was allowed, for at most `days` more. Allowed for the same people as `end`."""
    deployment, now = actor.deployment, actor.deployment.now()
    async with deployment.transaction() as transaction:
        request = await _hold_for_either(actor, transaction, request_id)
        ends_at = min(request.expires_at, now + max(1, days) * DAY)
        if request.access.kind is not Kind.GROUP and not scopes:
            raise ChangeRefused("request_scopes", "Leave at least one permission, or end it.", field="scopes")
        if request.access.kind is Kind.ACCOUNT:
            await _narrow_made(transaction, request, scopes, ends_at=ends_at, now=now)
        await stored.narrow(transaction, request, scopes=scopes, expires_at=ends_at, now=now)
        if request.access.kind is Kind.GROUP:
            await _join(transaction, request, ends_at=ends_at, now=now)
        if request.access.kind is Kind.COMPANY:
            await access_ends.take_company_back(transaction, request, now=now)
        known = await describe(deployment, request, reader=transaction)
        about = {**access_ends.facts_of(request), **known.names, "scopes": sorted(scopes), "ends_at": ends_at}
        await audit.append(transaction, _event(actor, request, "permission.narrowed", about), now=now)
        return await _again(transaction, request)


async def _narrow_made(
    transaction: Transaction, request: AccessRequest, scopes: frozenset[str], *, ends_at: int, now: int
) -> None:
    access = request.access
    which = {"user_id": access.user_id, "client_id": access.client_id, "connection_id": access.target}
    held = await delegations.get(transaction, **which)
    if held is not None and held.is_live(now) and _is_made_by(request, held):
        await delegations.allow(transaction, **which, scopes=held.scopes & scopes, now=now, expires_at=ends_at)


async def _hold(actor: Actor, transaction: Transaction, request_id: str) -> AccessRequest:
    """The request, locked until the transaction ends, for someone who may answer it. Raises ChangeRefused."""
    if actor.user is not None:  # serializes with changes that end this person's rights or the account
        await users.hold_admins(transaction)
        await users.hold_user(transaction, actor.user.id)
    request = await stored.hold(transaction, request_id)
    if request is not None and await may_answer(actor.deployment, actor.user, request.access, reader=transaction):
        return request
    if request is not None and _is_asker(actor, request):
        raise ChangeRefused("not_approver", "Someone else must answer this request.", kind="forbidden")
    raise ChangeRefused("no_request", _NO_REQUEST, kind="not_found")


async def _hold_for_either(actor: Actor, transaction: Transaction, request_id: str) -> AccessRequest:
    """The request, for the person who made it and those who may answer it. Raises ChangeRefused."""
    request = await stored.hold(transaction, request_id)
    if request is None or not (
        _is_asker(actor, request) or await may_answer(actor.deployment, actor.user, request.access, reader=transaction)
    ):
        raise ChangeRefused("no_request", _NO_REQUEST, kind="not_found")
    return request


def _is_asker(actor: Actor, request: AccessRequest) -> bool:
    return actor.user is not None and request.access.user_id == actor.user.id


async def _given_scopes(
    deployment: Deployment, transaction: Transaction, request: AccessRequest, answer: AccessAnswer, *, now: int
) -> frozenset[str]:
    """The scopes that the answer gives, checked again since things may have changed meanwhile. Raises ChangeRefused."""
    access = request.access
    if access.kind is Kind.GROUP:
        group = await groups.get_group(transaction, access.group_id)
        if group is None or gives_role(deployment, group.name):
            raise ChangeRefused("no_such_access", "This access no longer exists.", kind="conflict")
        return _NOTHING
    if access.kind is Kind.COMPANY:
        trusted = deployment.settings.enterprise.get(access.target)
        rules = answer.scopes or _NOTHING
        if trusted is None or not rules or not rules <= set(trusted.allow):
            raise ChangeRefused("request_rules", "Choose rules of this company to apply.", field="rules")
        return rules
    scopes = access.scopes if answer.scopes is None else answer.scopes
    if not scopes or not scopes <= access.scopes:
        said = "Allow at least one of the requested permissions, and no others."
        raise ChangeRefused("request_scopes", said, field="scopes")
    if await shared_connections.usable(transaction, access.target, user_id=access.user_id, now=now) is None:
        raise ChangeRefused("no_such_access", "This access no longer exists.", kind="conflict")
    return scopes


async def _carry_out(
    transaction: Transaction, request: AccessRequest, scopes: frozenset[str], *, ends_at: int, now: int
) -> bool:
    """Apply the approval, except to the request's own row; returns whether this gave the agent the account.

    A person's own request for an agent counts as their permission; an agent that filed the request has the account
    already.
    """
    access = request.access
    if access.kind is Kind.GROUP:
        await _join(transaction, request, ends_at=ends_at, now=now)
    if access.kind is not Kind.ACCOUNT or access.filed_by != "person":
        return False
    which = {"user_id": access.user_id, "client_id": access.client_id, "connection_id": access.target}
    held = await delegations.get(transaction, **which)
    before = await stored.find_allowed(transaction, access)
    if held is not None and held.is_live(now) and not _is_made_by(before, held):
        return False
    await delegations.allow(transaction, **which, scopes=scopes, now=now, expires_at=ends_at)
    return True


def _is_made_by(request: AccessRequest | None, held: Delegation) -> bool:
    """Whether the agent has the account only through this request, so that both end together."""
    return request is not None and request.made_permission and held.expires_at == request.expires_at


async def _join(transaction: Transaction, request: AccessRequest, *, ends_at: int, now: int) -> None:
    access = request.access
    await groups.hold_group(transaction, access.group_id)
    await groups.add_member(
        transaction, access.group_id, access.user_id, source=MEMBERSHIP, now=now, expires_at=ends_at
    )


async def _again(reader: Reader, request: AccessRequest) -> AccessRequest:
    return await stored.get(reader, request.id) or request


def _event(actor: Actor, request: AccessRequest, kind: str, about: dict[str, object]) -> Event:
    event = actor.event(kind, user_id=request.access.user_id, client_id=request.access.client_id or None, **about)
    return replace(event, connection_id=request.access.target if request.access.kind is Kind.ACCOUNT else None)


def _words(words: str) -> str:
    return " ".join(visible(words).split())[:MOST_REASON]


# What it is about


async def describe(deployment: Deployment, request: AccessRequest, *, reader: Reader | None = None) -> DescribedRequest:
    """The request with the names of the objects that it concerns, if they still exist."""
    database, access = reader or deployment.database, request.access
    group = await groups.get_group(database, access.group_id) if access.group_id else None
    account = None
    if access.kind is Kind.ACCOUNT:
        account = await connections.get_connection(database, access.target, user_id=access.group_id)
    decided = await users.get_user(database, request.decided_by) if request.decided_by else None
    return DescribedRequest(
        request,
        await users.get_user(database, access.user_id),
        await clients.get_client(database, access.client_id) if access.client_id else None,
        provider="" if account is None else account.provider,
        account="" if account is None else account.label,
        group="" if group is None else group.name,
        company=access.target if access.kind is Kind.COMPANY else "",
        decided_by="" if decided is None else decided.name,
    )


# Managers of groups


async def set_manager(actor: Actor, group: Group, person: User, *, is_manager: bool) -> bool:
    """Make the person a manager of the group, or no longer. False if nothing changed. Raises ChangeRefused."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        if is_manager:
            await hold_person(transaction, person.id)  # before the group, as a sign-in does
        await groups.hold_group(transaction, group.id)
        if not await stored.set_manager(transaction, group.id, person.id, is_manager=is_manager, now=now):
            return False
        event = actor.event("group.manager_changed", user_id=person.id, group=group.name, manages=is_manager)
        await audit.append(transaction, event, now=now)
    return True

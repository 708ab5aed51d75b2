"""The pages on which people request access that only others can give, and on which those others answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from starlette.responses import Response

from server.administration import access_requests
from server.administration.access_requests import DAY, MOST_REASON, AccessAnswer, AccessInput, DescribedRequest
from server.administration.actor import Actor, ChangeRefused
from server.errors import status_of
from server.http import pages
from server.http.page_texts import section, text
from server.issuer_settings import AllowedAgents
from server.portal import texts
from server.portal.administration.room import AdminVisit
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit, sign_in_path
from server.sign_in import step_up
from server.sign_in.approvers import may_answer
from vault import clients, connections, shared_connections
from vault.approvals import access_requests as stored
from vault.approvals.access_requests import AccessRequest, Kind
from vault.records import Connection, parse_scope
from vault.refusals import TransitionRefused
from vault.shared_connections import SharedConnection

PAGE: Final = "/access-requests"
_USUAL_DAYS: Final = 7
_OPEN_FIRST: Final = ("pending", "allowed", "denied", "ended")


@dataclass(frozen=True, slots=True)
class RequestForm:
    """What the form of a new request is about. `offers`: permissions with their descriptions."""

    asking: AccessInput
    title: str
    agents: tuple[tuple[str, str], ...] = ()
    offers: tuple[tuple[str, str], ...] = ()


async def show_all(visit: OwnVisit) -> Response:
    """Show the requests that the person may answer, their own requests, and what they can request."""
    deployment, now = visit.deployment, visit.deployment.now()
    own = await stored.list_of_person(deployment.database, visit.user.id)
    context: dict[str, object] = {
        "waiting": [await row(visit, one) for one in visit.needs.requests],
        "own": [await row(visit, one) for one in sorted(own, key=lambda one: _OPEN_FIRST.index(one.status(now)))],
        "offers": await _offers(visit),
    }
    return visit.page("access_requests.html", context)


async def _offers(visit: OwnVisit) -> list[tuple[str, str]]:
    """What can be requested: descriptions and the addresses of the form."""
    deployment = visit.deployment
    if not deployment.settings.access_requests.longest_days:
        return []
    found: list[tuple[str, str]] = []
    for one in await access_requests.shared_accounts(deployment, visit.user):
        if access_requests.beyond_rule(deployment, one):
            words = text("access_requests.more_of", account=_account_title(visit, one.connection), group=one.group.name)
            found.append((words, form_path(account=one.connection.id)))
    joinable = await access_requests.askable_groups(deployment, visit.user)
    found += [(text("access_requests.accounts_of", group=one.name), form_path(group=one.name)) for one in joinable]
    return found


def form_path(**about: str) -> str:
    """The address of the form for `account`, `group`, or `company`, with `agent` and `scopes`."""
    return f"{PAGE}/new?{urlencode({name: value for name, value in about.items() if value})}"


def _account_title(visit: OwnVisit, connection: Connection) -> str:
    known = visit.deployment.catalog.get(connection.provider)
    return f"{connection.provider if known is None else known.title} ({connection.label})"


async def allowed_rows(visit: OwnVisit, *, client_id: str) -> list[dict[str, object]]:
    """The access that requests have given the person's agent and that is still valid."""
    own = await stored.list_of_person(visit.deployment.database, visit.user.id)
    now = visit.deployment.now()
    return [await row(visit, one) for one in own if one.access.client_id == client_id and one.is_allowed(now)]


@dataclass(frozen=True, slots=True)
class WayToAsk:
    """Where the person can request an account that others have to allow, and why they have to."""

    why: str
    path: str


async def ways_to_ask(
    visit: OwnVisit, *, provider: str, scopes: frozenset[str], client_id: str
) -> tuple[WayToAsk, ...]:
    """For a link that requests these scopes at a provider: accounts of the person's groups and of groups they can
    join."""
    deployment = visit.deployment
    policy = deployment.vault.policies.get(provider)
    if policy is None or not deployment.settings.access_requests.longest_days:
        return ()
    found: list[WayToAsk] = []
    for one in await access_requests.shared_accounts(deployment, visit.user):
        rest = access_requests.beyond_rule(deployment, one)
        if one.connection.provider == provider and scopes & rest and scopes <= rest | one.rule.scopes:
            why = text("access_requests.beyond", account=_account_title(visit, one.connection), group=one.group.name)
            wanted = " ".join(sorted(scopes - policy.always_granted))
            path = form_path(account=one.connection.id, agent=client_id, scopes=wanted)
            found.append(WayToAsk(why, path))
    for group in await access_requests.askable_groups(deployment, visit.user):
        shared = await shared_connections.of_group(deployment.database, group)
        if any(one.connection.provider == provider for one in shared):
            why = text("access_requests.not_member", group=group.name)
            found.append(WayToAsk(why, form_path(group=group.name)))
    return tuple(found)


async def show_new(visit: OwnVisit) -> Response:
    """The form of a request."""
    query = visit.visit.query
    asking = AccessInput(
        account=query("account"),
        group=query("group"),
        company=query("company"),
        client_id=query("agent"),
        scopes=parse_scope(query("scopes")),
    )
    return await _form(visit, asking)


async def _form(visit: OwnVisit, asking: AccessInput, *, error: str = "") -> Response:
    longest = visit.deployment.settings.access_requests.longest_days
    if not longest:
        raise PageRefused("requests_off", kind="forbidden")
    place = await _place(visit, asking)
    context: dict[str, object] = {
        "asking": asking,
        "place": place,
        "days": asking.days or min(_USUAL_DAYS, longest),
        "longest": longest,
        "most_reason": MOST_REASON,
        "error": error,
    }
    return visit.page("access_request_new.html", context, status=status_of("invalid_request") if error else 200)


async def _place(visit: OwnVisit, asking: AccessInput) -> RequestForm:
    deployment = visit.deployment
    if asking.account:
        shared = await access_requests.shared_account(deployment, visit.user, asking.account)
        if shared is None:
            raise await _no_account(visit, asking.account)
        own = await clients.list_own(deployment.database, visit.user.id, now=deployment.now())
        agents = tuple(sorted(((one.id, one.name or one.id) for one in own), key=lambda one: one[1].casefold()))
        title = text(
            "access_requests.more_of", account=_account_title(visit, shared.connection), group=shared.group.name
        )
        return RequestForm(asking, title, agents, _scope_offers(visit, shared, asking.scopes))
    if asking.company:
        trusted = deployment.settings.enterprise.get(asking.company)
        client = await clients.get_client(deployment.database, asking.client_id)
        if trusted is not None and client is not None and client.removed_at is None:
            named = trusted.title_for(asking.company)
            return RequestForm(asking, text("access_requests.let_in", agent=client.name or client.id, company=named))
    for group in await access_requests.askable_groups(deployment, visit.user):
        if group.name == asking.group:
            return RequestForm(asking, text("access_requests.accounts_of", group=group.name))
    raise PageRefused("no_such_access", kind="not_found")


async def _no_account(visit: OwnVisit, connection_id: str) -> PageRefused:
    own = await connections.get_connection(visit.deployment.database, connection_id, user_id=visit.user.id)
    return PageRefused("no_such_access", kind="not_found") if own is None else PageRefused("own_account")


def _scope_offers(visit: OwnVisit, shared: SharedConnection, wanted: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """The requested scopes that the rule doesn't include, plus those it includes that the agent also needs."""
    beyond = access_requests.beyond_rule(visit.deployment, shared)
    provider = visit.deployment.catalog.get(shared.connection.provider)
    return tuple((one, texts.scope_title(provider, one)) for one in sorted(beyond | (wanted & shared.rule.scopes)))


async def ask(visit: OwnVisit) -> Response:
    """File the request."""
    form = visit.form
    asking = AccessInput(
        account=form.one("account"),
        group=form.one("group"),
        company=form.one("company"),
        client_id=form.one("agent"),
        scopes=form.many("scopes"),
        reason=form.one("reason")[: 2 * MOST_REASON],
        days=_number(form.one("days")),
    )
    try:
        request, _ = await access_requests.ask(visit.deployment, visit.user, asking)
    except ChangeRefused as refused:
        if refused.field:
            words = text(f"refused.{refused.reason}", **refused.values)
            return await _form(visit, asking, error=words)
        raise PageRefused.of_change(refused) from refused
    return pages.go(_path(request))


def _path(request: AccessRequest) -> str:
    return f"{PAGE}/{request.id}"


def _number(sent: str) -> int:
    return int(sent) if sent.isascii() and sent.isdigit() and len(sent) <= 4 else 0


async def show(visit: OwnVisit) -> Response:
    """Show one request to the person who made it and those who may answer: its details and its result."""
    return await _one(visit, await _visible(visit))


async def _visible(visit: OwnVisit) -> AccessRequest:
    wanted = str(visit.visit.request.path_params["request"])
    try:
        return await access_requests.visible_to(visit.deployment, visit.user, wanted)
    except ChangeRefused as refused:
        raise PageRefused.of_change(refused) from refused


async def _one(visit: OwnVisit, request: AccessRequest, *, error: str = "") -> Response:
    deployment, access = visit.deployment, request.access
    trusted = deployment.settings.enterprise.get(access.target) if access.kind is Kind.COMPANY else None
    left = max(1, -(-(request.expires_at - deployment.now()) // DAY))
    context: dict[str, object] = {
        "one": await row(visit, request),
        "before": await _before(visit, request),
        "path": _path(request),
        "is_own": access.user_id == visit.user.id,
        "may_answer": await may_answer(deployment, visit.user, access, reader=deployment.database),
        "rules": () if trusted is None else [(name, _gives(rule)) for name, rule in sorted(trusted.allow.items())],
        "most": access_requests.most_days(deployment, request),
        "left": left,
        "most_reason": MOST_REASON,
        "error": error,
    }
    return visit.page("access_request.html", context, status=status_of("invalid_request") if error else 200)


async def _before(visit: OwnVisit, request: AccessRequest) -> dict[str, object] | None:
    """The access that approving this request would replace."""
    found = await stored.find_allowed(visit.deployment.database, request.access)
    return None if found is None or not found.is_allowed(visit.deployment.now()) else await row(visit, found)


def _gives(rule: AllowedAgents) -> str:
    """The access to accounts that a rule gives, in the operator's notation."""
    accounts = [f"{provider}: {' '.join(words)}" for provider, words in sorted(rule.accounts.items())]
    return "; ".join([*accounts, *rule.tools])


async def change(visit: OwnVisit) -> Response:
    """Answer the request, or narrow or end the access that it gave."""
    request, form = await _visible(visit), visit.form
    actor, decision = Actor(visit.deployment, visit.user, "administration"), form.one("decision")
    if decision == "allow" and (again := await _prove_again(visit, request)) is not None:
        return again
    chosen = form.many("scopes") | form.many("rules")
    days, words = _number(form.one("days")), form.one("words")[: 2 * MOST_REASON]
    try:
        match decision:
            case "allow":
                await access_requests.allow(actor, request.id, AccessAnswer(days, chosen, words))
            case "confirm":
                await access_requests.confirm(actor, request.id)
            case "deny":
                await access_requests.deny(actor, request.id, words=words)
            case "narrow":
                await access_requests.narrow(actor, request.id, scopes=chosen, days=days)
            case "end":
                await access_requests.end(actor, request.id)
            case _:
                raise PageRefused("no_decision")
    except ChangeRefused as refused:
        if refused.field:
            return await _one(visit, request, error=text(f"refused.{refused.reason}", **refused.values))
        raise PageRefused.of_change(refused) from refused
    except TransitionRefused as refused:
        raise PageRefused("access_over", kind="conflict") from refused
    return pages.go(_path(request))


async def _prove_again(visit: OwnVisit, request: AccessRequest) -> Response | None:
    """Check that a person who gives others access has signed in recently, as for changes in the administration."""
    back = _path(request)
    await step_up.check_passkey(visit.deployment, visit.session, "administration", back=back)
    if AdminVisit(visit).is_recent:
        return None
    return pages.go(sign_in_path(back, is_again=True))


async def row(visit: OwnVisit, request: AccessRequest) -> dict[str, object]:
    """A request for a template."""
    known, access = await access_requests.describe(visit.deployment, request), request.access
    provider = visit.deployment.catalog.get(known.provider)
    status = request.status(visit.deployment.now())
    return {
        "id": request.id,
        "path": _path(request),
        "who": "" if known.person is None else known.person.name,
        "title": _title(visit, known),
        "provider": known.provider,
        "provider_title": known.provider if provider is None else provider.title,
        "kind": access.kind.value,
        "by_agent": access.filed_by == "agent",
        "is_confirmed": request.confirmed_at is not None,
        "scopes": [
            (scope, texts.scope_title(provider, scope) if access.kind is Kind.ACCOUNT else scope)
            for scope in sorted(access.scopes)
        ],
        "reason": access.reason,
        "days": access.lifetime // DAY,
        "status": status,
        "status_words": section("access_status")[status],
        "ends_at": request.expires_at,
        "decided_by": known.decided_by,
        "answer": request.answer,
        "ended": section("access_ended").get(request.ended_reason or "", "") if status == "ended" else "",
    }


def _title(visit: OwnVisit, known: DescribedRequest) -> str:
    access = known.request.access
    agent = access.client_id if known.client is None else known.client.name or known.client.id
    if access.kind is Kind.GROUP:
        return text("access_requests.accounts_of", group=known.group)
    if access.kind is Kind.COMPANY:
        trusted = visit.deployment.settings.enterprise.get(access.target)
        named = access.target if trusted is None else trusted.title_for(access.target)
        return text("access_requests.let_in", agent=agent, company=named)
    provider = visit.deployment.catalog.get(known.provider)
    title = known.provider if provider is None else provider.title
    return text("access_requests.use_more", agent=agent, account=f"{title} ({known.account})", group=known.group)

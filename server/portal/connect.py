"""The connect pages: an agent's request, the redirect to the provider and back, and the result.

`server.connecting.links` and `server.connecting.provider_authorization` own links, their owner and the callback's
checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from starlette.responses import Response

from providers.definitions.catalog import Provider
from server.connecting import app_returns, credentials, provider_authorization
from server.connecting.app_returns import AppReturn
from server.connecting.links import (
    ConnectRefused,
    ConnectRequest,
    allow,
    consume_link,
    covering_connections,
    known_provider,
    load_link,
)
from server.connecting.provider_authorization import Callback, ConnectResult, ConsentRequest
from server.connecting.provider_errors import no_refresh_token
from server.errors import status_of
from server.http import pages
from server.http.page_texts import text
from server.http.translations import translate_filled
from server.portal import texts
from server.portal.access import access
from server.portal.access.access import Level
from server.portal.approvals import access_requests
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit, Visit
from vault import clients, connections, delegations, shared_connections
from vault.connections import names_account
from vault.records import Client, Connection, Event

NEW_ACCOUNT: Final = "new"
_QUERY_LIMIT: Final = 4096


async def _agent(visit: OwnVisit, client_id: str | None) -> Client | None:
    return None if client_id is None else await clients.get_client(visit.deployment.database, client_id)


async def show(visit: OwnVisit) -> Response:
    """Show who requests what, and let the person choose the account and how much to allow."""
    handle = str(visit.visit.request.path_params["handle"])
    return await _question(visit, handle, await load_link(visit.deployment, handle, user=visit.user))


async def _question(
    visit: OwnVisit, handle: str, request: ConnectRequest, *, error: str = "", status: int = 200
) -> Response:
    deployment = visit.deployment
    provider = known_provider(deployment, request.provider)
    own = await connections.find(deployment.database, visit.user.id, provider=provider.name)
    covering = await covering_connections(deployment, request)
    known = (*own, *(one for one in covering if one.user_id != visit.user.id))
    ready = {connection.id for connection in covering}
    client = await _agent(visit, request.client_id)
    upstream = deployment.vault.upstreams[provider.name]
    row = None if client is None else _row(visit, client, provider, request)
    context: dict[str, object] = {
        "handle": handle,
        "client": client,
        "services": await _services(visit, request),
        "unverified": client is not None and texts.is_unverified(client),
        "kind": "" if client is None else texts.client_kind(client),
        "provider": provider,
        "request": request,
        "scopes": scope_words(provider, request.scopes),
        "accounts": [(connection, connection.id in ready, _account_note(connection, ready)) for connection in known],
        "preselected": _preselect(request.account, known, ready),
        "new_account": NEW_ACCOUNT,
        "is_configured": upstream.is_configured,
        "row": row,
        # No writing permission is preselected.
        "preselected_level": Level.READ.value if row is not None and row.reads == row.all_scopes else "",
        "days": access.DAYS,
        "error": error,
        "in_testing": provider.registration.is_testing,
        "ways_to_ask": await access_requests.ways_to_ask(
            visit, provider=provider.name, scopes=request.scopes, client_id=request.client_id or ""
        ),
    }
    return visit.page("connect.html", context, status=status, form_targets=provider_targets([provider]))


async def _services(visit: OwnVisit, request: ConnectRequest) -> str:
    """The names of the application's own services, which get what it gets."""
    found = [await _agent(visit, one) for one in (() if request.back is None else request.back.services)]
    return ", ".join(one.name for one in found if one is not None)


def _row(visit: OwnVisit, client: Client, provider: Provider, request: ConnectRequest) -> access.AccessRow | None:
    return access.asked_row(visit.deployment, visit.user, client, provider=provider, scopes=request.scopes)


def _account_note(connection: Connection, ready: set[str]) -> str:
    if connection.id in ready:
        return text("connect.ready")
    return text("connect.needs_consent")


def _preselect(account: str, known: tuple[Connection, ...], ready: set[str]) -> str:
    """The requested account, or another one at the provider; if none was named, one that is ready."""
    if account:
        named = [one.id for one in known if names_account(account, id=one.id, account=one.account, label=one.label)]
        return named[0] if len(named) == 1 else NEW_ACCOUNT
    candidates = [connection.id for connection in known if connection.id in ready] or [one.id for one in known]
    return candidates[0] if candidates else NEW_ACCOUNT


def scope_words(provider: Provider, scopes: frozenset[str]) -> list[tuple[str, str]]:
    """Scopes in plain words, without those that only identify the account."""
    return [(scope, texts.scope_title(provider, scope)) for scope in sorted(scopes - provider.always_granted)]


def provider_targets(providers: Iterable[Provider]) -> list[str]:
    """Where a form for one of these providers may lead. One without an OAuth page is not visited."""
    visited = [one for one in providers if one.audience is None and one.credential is None]
    return sorted({pages.form_target(one.hosts.authorize_url) for one in visited})


async def go_to_provider(visit: OwnVisit, trip: ConsentRequest) -> Response:
    """Go to the provider's consent; if the consent was given on our page, to its result."""
    deployment = visit.deployment
    provider = known_provider(deployment, trip.provider)
    if provider.credential is not None:
        return pages.go(await credentials.start(deployment, trip, user=visit.user, session=visit.session))
    known_there = trip.scopes - provider.own_scopes
    if provider.is_remote:  # what it asks of everyone, and what a step-up adds
        known_there |= provider.scope.default
        for held in await connections.find(deployment.database, visit.user.id, provider=provider.name):
            known_there |= held.scopes & provider.all_scopes  # which a new consent replaces
    trip = replace(trip, scopes=known_there or provider.scope.default)
    if provider.audience is not None:
        connected = await provider_authorization.consent_here(deployment, trip, user=visit.user, session=visit.session)
        return await _finish_trip(visit, connected, trip.back)
    if not trip.is_by_hand and (
        connected := await provider_authorization.by_company(deployment, trip, user=visit.user)
    ):
        return pages.go(_done_path(connected.connection, client_id=trip.client_id, not_granted=connected.not_granted))
    target = await provider_authorization.start(deployment, trip, user=visit.user, session=visit.session)
    return pages.leave(visit.visit.request, target)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the person allows: some of the requested scopes, with questions about `ask`, until `ends_at`."""

    scopes: frozenset[str] = frozenset()
    ask: frozenset[str] = frozenset()
    ends_at: int | None = None


async def _read_terms(visit: OwnVisit, request: ConnectRequest) -> Terms | None:
    """What the form allows, at most the request; None if the person hasn't chosen anything yet."""
    provider, now = known_provider(visit.deployment, request.provider), visit.deployment.now()
    client = await _agent(visit, request.client_id)
    row = None if client is None else _row(visit, client, provider, request)
    if row is None:
        return Terms(request.scopes)
    setting = access.read_setting(row, visit.form, now=now)
    if setting is None:
        return None
    if not setting.scopes:
        return Terms()
    is_whole = setting.scopes == row.all_scopes
    scopes = request.scopes if is_whole else setting.scopes | (request.scopes & provider.always_granted)
    return Terms(scopes, row.ask_entries(setting), access.end_of(setting, row))


async def decide(visit: OwnVisit) -> Response:
    """Approve (let the agent use an existing account, or go to the provider) or refuse (use up the link)."""
    deployment = visit.deployment
    handle = str(visit.visit.request.path_params["handle"])
    request = await load_link(deployment, handle, user=visit.user)
    decision = visit.form.one("decision")
    if decision not in {"allow", "deny"}:
        raise PageRefused("no_decision")
    terms = await _read_terms(visit, request) if decision == "allow" else Terms()
    if terms is None:
        status = status_of("invalid_request")
        return await _question(visit, handle, request, error=text("connect.choose"), status=status)
    if decision == "allow" and not terms.scopes:  # the choice Off
        decision = "deny"
    request = replace(request, scopes=terms.scopes)
    covering = await covering_connections(deployment, request)
    named = next((one for one in covering if one.id == visit.form.one("account")), None)
    chosen = named or await chosen_account(visit, request.provider)
    is_ready = named is not None
    if decision == "allow" and not is_ready:  # before the link is used up
        provider = known_provider(deployment, request.provider)
        await provider_authorization.check_may_connect(deployment, visit.session, provider, back=f"/connect/{handle}")
    if chosen is not None and is_ready and decision == "allow":
        await allow(deployment, request, connection=chosen, ask=terms.ask, ends_at=terms.ends_at, link=handle)
        return await finish(visit, chosen, request.back, client_id=request.client_id, is_allowed=True)
    if decision == "deny":
        event = Event(
            kind="connect.declined",
            outcome="refused",
            user_id=visit.user.id,
            client_id=request.client_id,
            details={"provider": request.provider},
        )
        await consume_link(deployment, handle, event=event)
        if request.back is not None:
            return pages.leave(visit.visit.request, request.back.address(error="access_denied"))
        return visit.page(
            "message.html", {"title": text("connect.declined_title"), "message": text("connect.declined")}
        )
    trip = ConsentRequest(
        provider=request.provider,
        scopes=asked_scopes(request.scopes, chosen),
        client_id=request.client_id,
        delegated=request.scopes,
        ask=terms.ask,
        ends_at=terms.ends_at,
        back=request.back,
        replaces=None if chosen is None else chosen.id,
        login_hint=login_hint(chosen) or _named_address(request.account),
        link=handle,
    )
    return await go_to_provider(visit, trip)


def _named_address(account: str) -> str | None:
    """The requested account, if it can be offered at the provider."""
    return account if "@" in account and account.isprintable() else None


def login_hint(connection: Connection | None) -> str | None:
    """The account to offer at the provider, if its name is an address."""
    return connection.label if connection is not None and "@" in connection.label else None


def asked_scopes(wanted: frozenset[str], connection: Connection | None) -> frozenset[str]:
    """The scopes to request from the provider, including the existing ones, since its new answer replaces them."""
    return wanted if connection is None else wanted | connection.scopes


async def chosen_account(visit: OwnVisit, provider: str) -> Connection | None:
    """The person's account that the form names; None for another one at the provider."""
    wanted = visit.form.one("account") or NEW_ACCOUNT
    if wanted == NEW_ACCOUNT:
        return None
    found = await connections.get_connection(visit.deployment.database, wanted, user_id=visit.user.id)
    if found is None or found.provider != provider:
        raise PageRefused("account_gone")
    return found


async def callback(visit: Visit) -> Response:
    """The provider sends the person back: this is the redirect URI to register there. Only for the session that
    started, once.
    """
    provider = str(visit.request.path_params["provider"])
    if visit.session is None or visit.user is None:
        raise ConnectRefused(
            text("refused.callback_signed_out"),
            kind="forbidden",
        )
    for name in ("state", "code", "error", "error_description", "iss"):
        if len(visit.query(name)) > _QUERY_LIMIT:
            raise ConnectRefused(text("refused.callback_long"))
    answer = Callback(
        state=visit.query("state"),
        code=visit.query("code"),
        error=visit.query("error"),
        error_description=visit.query("error_description"),
        issuer=visit.query("iss") or None,
    )
    own = OwnVisit(visit, visit.session, visit.user)
    try:
        connected = await provider_authorization.finish_callback(
            visit.deployment, provider, answer, user=visit.user, session=visit.session
        )
    except ConnectRefused as refusal:
        back = await provider_authorization.return_of(visit.deployment, answer.state, user=visit.user)
        if back is None:
            raise
        return pages.leave(visit.request, back.address(error="access_denied", error_description=refusal.description))
    back = await provider_authorization.return_of(visit.deployment, answer.state, user=visit.user)
    return await _finish_trip(own, connected, back)


async def _finish_trip(visit: OwnVisit, connected: ConnectResult, back: AppReturn | None) -> Response:
    return await finish(
        visit,
        connected.connection,
        back,
        client_id=connected.client_id,
        is_allowed=bool(connected.delegated),
        not_granted=connected.not_granted,
    )


async def finish(
    visit: OwnVisit,
    connection: Connection,
    back: AppReturn | None,
    *,
    client_id: str | None,
    is_allowed: bool,
    not_granted: frozenset[str] = frozenset(),
) -> Response:
    """To the application that waits for the account, else to our page about it.

    `is_allowed`: the person let this client use the account.
    """
    if back is None:
        return pages.go(_done_path(connection, client_id=client_id, not_granted=not_granted))
    target = await app_returns.issue_code(
        visit.deployment, back, connection=connection, client_id=client_id, is_allowed=is_allowed
    )
    return pages.leave(visit.visit.request, target)


def _done_path(connection: Connection, *, client_id: str | None, not_granted: frozenset[str]) -> str:
    query = [("agent", client_id)] if client_id else []
    query += [("without", scope) for scope in sorted(not_granted)]
    return f"/connect/done/{connection.id}" + (f"?{urlencode(query)}" if query else "")


async def show_done(visit: OwnVisit) -> Response:
    """Show what is connected and what the agent may use, from current data instead of the address."""
    deployment = visit.deployment
    wanted = str(visit.visit.request.path_params["connection"])
    connection = await shared_connections.usable(
        deployment.database, wanted, user_id=visit.user.id, now=deployment.now()
    )
    if connection is None:
        raise PageRefused("no_connection", kind="not_found")
    provider = known_provider(deployment, connection.provider)
    client = await _agent(visit, visit.visit.query("agent") or None)
    allowed = frozenset[str]()
    if client is not None:
        held = await delegations.get(
            deployment.database, user_id=visit.user.id, client_id=client.id, connection_id=connection.id
        )
        allowed = held.scopes if held is not None and held.is_live(deployment.now()) else allowed
    rows = () if client is None else await access.rows_of_agent(deployment, visit.user, client)
    named = frozenset(visit.visit.request.query_params.getlist("without"))
    context: dict[str, object] = {
        "provider": provider,
        "connection": connection,
        "client": client if allowed else None,
        "agent_path": "" if client is None else access.agent_path(client.id),
        "rows": [row for row in rows if row.connection.id == connection.id],
        "days": access.DAYS,
        "scopes": scope_words(provider, connection.scopes),
        "allowed": scope_words(provider, allowed),
        "without": scope_words(provider, (named & provider.scopes.keys()) - connection.scopes),
        "no_refresh": ""
        if connection.has_refresh_token or provider.audience is not None or provider.credential is not None
        else translate_filled(no_refresh_token(provider.name, title=provider.title)),
    }
    return visit.page("connected.html", context)

"""The person's connections: what is connected and in what state; connect, reconnect, disconnect.

`server.connecting.provider_authorization` handles the redirect to a provider, `vault.revocations` ends the grant there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from providers.definitions.catalog import Provider
from server.connecting.provider_authorization import ConsentRequest
from server.errors import status_of
from server.http import pages
from server.http.page_texts import CATALOGUE, text
from server.portal import texts
from server.portal.connect import (
    NEW_ACCOUNT,
    asked_scopes,
    chosen_account,
    go_to_provider,
    is_in_testing,
    login_hint,
    provider_targets,
    scope_words,
)
from server.portal.first_run import provider_facts
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from vault import connections, revocations
from vault.records import Connection
from vault.scopes import expand

PAGE_SIZE: Final = 50  # connections
_REVOKE_WAIT: Final = 8.0  # seconds that a person waits for the provider; the attempt continues and is repeated anyway
_SHOWN_FOR: Final = 7 * 86400  # how long an ended grant stays on the page


async def show(visit: OwnVisit) -> Response:
    """Everything that is connected, and what was recently disconnected."""
    deployment, now = visit.deployment, visit.deployment.now()
    owned = await connections.list_connections(deployment.database, visit.user.id)
    ended = await revocations.list_revocations(deployment.database, visit.user.id, since=now - _SHOWN_FOR)
    configured = [provider for provider in deployment.catalog if _is_configured(visit, provider)]
    part = pages.part(owned, visit.visit.query("page"), size=PAGE_SIZE)
    context: dict[str, object] = {
        "connections": [_row(visit, connection, now=now) for connection in part.items],
        "part": part,
        "ended": [
            {
                "title": _title(visit, one.provider),
                "label": one.label,
                "outcome": one.outcome,
                "badge": CATALOGUE["ended_badge"].get(one.outcome, one.outcome),
                "text": CATALOGUE["ended"].get(one.outcome, one.outcome),
                "pages": _removal_pages(visit, one.provider) if one.outcome in revocations.LEFT_OPEN else {},
                "next_at": one.next_at,
            }
            for one in ended
        ],
        "providers": configured,
        "setup": [] if configured else provider_facts(deployment),
    }
    return visit.page("connections.html", context, form_targets=provider_targets(configured))


def _is_configured(visit: OwnVisit, provider: Provider) -> bool:
    return visit.deployment.vault.upstreams[provider.name].is_configured


def _title(visit: OwnVisit, provider_name: str) -> str:
    provider = visit.deployment.catalog.get(provider_name)
    return provider_name if provider is None else provider.title


def _removal_pages(visit: OwnVisit, provider_name: str) -> Mapping[str, str]:
    """Where the person removes the app, by the kind of account."""
    provider = visit.deployment.catalog.get(provider_name)
    return {} if provider is None else provider.revoke.pages


def _row(visit: OwnVisit, connection: Connection, *, now: int) -> dict[str, object]:
    provider = visit.deployment.catalog.get(connection.provider)
    status = connection.status(now)
    return {
        "id": connection.id,
        "title": _title(visit, connection.provider),
        "label": connection.label,
        "status": status,
        "status_words": texts.status(status),
        "hint": texts.status_hint(status),
        "scopes": [] if provider is None else scope_words(provider, connection.scopes),
        "created_at": connection.created_at,
        "refreshed_at": connection.refreshed_at,
        "access_expires_at": connection.access_expires_at,
        "ends_at": connection.ends_at,
        "ends_unless_used": connection.ends_unless_used,
        "renews": connection.has_refresh_token,
        "can_reconnect": provider is not None and _is_configured(visit, provider),
    }


async def choose(visit: OwnVisit) -> Response:
    """Choose scopes of a provider to connect with, and an account; what ordinary use needs is preselected."""
    provider, ticked = _wanted_provider(visit, visit.visit.query("provider"))
    return await _choice_page(visit, provider, ticked=ticked, error="", status=200)


async def _choice_page(
    visit: OwnVisit, provider: Provider, *, ticked: frozenset[str], error: str, status: int
) -> Response:
    included = expand(ticked, provider.covers)
    used = included.union(*(spec.scopes for spec in visit.deployment.tools if spec.provider == provider.name))
    choices = [
        (scope, facts.title, scope in included)
        for scope, facts in provider.scopes.items()
        if scope not in provider.always_granted
    ]
    first = [choice for choice in choices if choice[0] in used] or choices
    known = await connections.find(visit.deployment.database, visit.user.id, provider=provider.name)
    context: dict[str, object] = {
        "provider": provider,
        "choices": first,
        "more": [choice for choice in choices if choice not in first],
        "accounts": [(one, scope_words(provider, one.scopes)) for one in known],
        "preselected": known[0].id if known else NEW_ACCOUNT,
        "new_account": NEW_ACCOUNT,
        "in_testing": is_in_testing(visit.deployment, provider),
        "error": error,
    }
    return visit.page("choose.html", context, status=status, form_targets=provider_targets([provider]))


def _wanted_provider(visit: OwnVisit, name: str) -> tuple[Provider, frozenset[str]]:
    try:
        provider, scopes = visit.deployment.catalog.resolve(name)
    except KeyError as error:
        raise PageRefused("no_provider", kind="not_found") from error
    if not _is_configured(visit, provider):
        raise PageRefused("not_set_up", kind="conflict", provider=provider.title)
    return provider, scopes


async def connect(visit: OwnVisit) -> Response:
    """Go to the provider for the selected scopes; no agent gets any of them yet."""
    provider, _ = _wanted_provider(visit, visit.form.one("provider"))
    scopes = (visit.form.many("scope") & provider.scopes.keys()) - provider.always_granted
    if not scopes:
        return await _choice_page(
            visit,
            provider,
            ticked=frozenset(),
            error=text("choose.nothing_selected"),
            status=status_of("invalid_request"),
        )
    chosen = await chosen_account(visit, provider.name)
    trip = ConsentRequest(provider=provider.name, scopes=asked_scopes(scopes, chosen), login_hint=login_hint(chosen))
    return await go_to_provider(visit, trip)


async def _own(visit: OwnVisit) -> Connection:
    wanted = str(visit.visit.request.path_params["connection"])
    found = await connections.get_connection(visit.deployment.database, wanted, user_id=visit.user.id)
    if found is None or found.state.value == "revoked":
        raise PageRefused("no_connection", kind="not_found")
    return found


async def reconnect(visit: OwnVisit) -> Response:
    """Ask the provider again for what the connection has; agents keep what they may use."""
    connection = await _own(visit)
    provider, _ = _wanted_provider(visit, connection.provider)
    trip = ConsentRequest(provider=provider.name, scopes=connection.scopes, login_hint=login_hint(connection))
    return await go_to_provider(visit, trip)


async def confirm(visit: OwnVisit) -> Response:
    """Ask before disconnecting."""
    connection = await _own(visit)
    provider = visit.deployment.catalog.get(connection.provider)
    context: dict[str, object] = {
        "connection": connection,
        "title": _title(visit, connection.provider),
        "ends_there": provider is not None and provider.can_revoke,
        "pages": _removal_pages(visit, connection.provider),
    }
    return visit.page("disconnect.html", context)


async def disconnect(visit: OwnVisit) -> Response:
    """End the connection here at once, then at the provider; the connections page shows the progress."""
    connection = await _own(visit)
    deployment = visit.deployment
    async with deployment.transaction() as transaction:
        await connections.disconnect(transaction, deployment.keys, connection, now=deployment.now())
    try:
        async with asyncio.timeout(_REVOKE_WAIT):
            await revocations.revoke_upstream(deployment.vault, connection.id)
    except TimeoutError:
        pass  # it is recorded as due and repeated
    return pages.go("/connections")

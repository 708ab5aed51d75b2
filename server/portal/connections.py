"""The person's accounts: a list with the health of each, and a page for each; connect, reconnect, rename, disconnect.

`server.connecting.provider_authorization` handles the redirect to a provider, `vault.upkeep.revocations` ends the grant
there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from providers.definitions.catalog import Provider
from server.connecting.provider_authorization import ConsentRequest, check_may_connect
from server.errors import status_of
from server.http import pages
from server.http.page_texts import section, text
from server.http.translations import translate
from server.portal import texts
from server.portal.access import access, access_changes
from server.portal.activity import recent_rows
from server.portal.agents import own_agents
from server.portal.connect import (
    NEW_ACCOUNT,
    asked_scopes,
    chosen_account,
    go_to_provider,
    login_hint,
    provider_targets,
    scope_words,
)
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from vault import clients, connections, delegations, shared_connections
from vault.audit import audit
from vault.records import DOUBTED, Client, Connection, ConnectionState, Event
from vault.refresh import grant_checks
from vault.scopes import expand
from vault.upkeep import receipts, revocations

PAGE_SIZE: Final = 50  # accounts
ROWS: Final = 25  # agents of one
_NAMED: Final = 3  # agents of one in the list
_AT_ONCE: Final = 10  # agents whose permissions are read together
NICKNAME_LIMIT: Final = 60
_TROUBLE: Final = {"needs_reauth": 0, "expiring": 1, "ambiguous": 2, "waiting": 2}  # first on the page
_FINE: Final = 3
_BAD_ENDS: Final = frozenset(
    {"failed", "given_up", "alive", "left_alive", "unchecked", "delete_there", "delete_late", "entered_unchecked"}
)
_REVOKE_WAIT: Final = 8.0  # seconds that a person waits for the provider; the attempt continues and is retried anyway
_SHOWN_FOR: Final = 7 * 86400  # how long an ended grant stays on the page


async def show(visit: OwnVisit) -> Response:
    """Show all connections, problems first, and recently disconnected ones."""
    deployment, now = visit.deployment, visit.deployment.now()
    database = deployment.database
    owned = visit.needs.owned
    ended = await revocations.list_revocations(database, visit.user.id, since=now - _SHOWN_FOR)
    known = [*deployment.catalog]
    configured = [provider for provider in known if _is_configured(visit, provider)]
    part = pages.part(
        sorted(owned, key=lambda one: _TROUBLE.get(one.status(now), _FINE)), visit.visit.query("page"), size=PAGE_SIZE
    )
    numbers = await delegations.count_agents(database, visit.user.id, now=now)
    agents = await _first_agents(visit, numbers)
    used = await audit.last_uses_of_accounts(database, visit.user.id)
    closed = visit.visit.query("closed")
    known_ends = await receipts.list_of_user(database, visit.user.id, since=now - _SHOWN_FOR)
    context: dict[str, object] = {
        "connections": [
            _row(visit, one, now=now)
            | {"agents": agents[one.id][:_NAMED], "more_agents": numbers[one.id] - _NAMED, "used_at": used.get(one.id)}
            for one in part.items
        ],
        "part": part,
        "shared": [
            {
                "provider": one.connection.provider,
                "title": _title_of(visit, one.connection.provider),
                "label": one.connection.label,
                "group": one.group.name,
            }
            for one in await shared_connections.of_person(database, visit.user.id, now=now)
        ],
        "ended": [end_row(visit, one, known_ends) for one in ended],
        "closed": next((end_row(visit, one, known_ends) for one in ended if one.connection_id == closed), None),
        "providers": configured,
        "others": [] if not configured else [one for one in known if one not in configured],
        "no_provider": not configured,
    }
    return visit.page("connections.html", context, form_targets=provider_targets(configured))


def _title_of(visit: OwnVisit, provider: str) -> str:
    known = visit.deployment.catalog.get(provider)
    return provider if known is None else known.title


def end_row(visit: OwnVisit, one: revocations.Revocation, known: Mapping[str, receipts.Receipt]) -> dict[str, object]:
    """The text about a disconnected account's state at its provider; `known` are the person's receipts."""
    word = _ended_word(one, known.get(one.connection_id))
    provider = visit.deployment.catalog.get(one.provider)
    is_entered = provider is not None and provider.credential is not None
    if is_entered and word == "unchecked":
        word = "entered_unchecked"
    return {
        "is_good": word in ("revoked", "verified"),
        "is_bad": word in _BAD_ENDS,
        "is_entered": is_entered,
        "title": account_title(visit, one.provider),
        "provider": one.provider,
        "label": one.label,
        "outcome": one.outcome,
        "badge": section("ended_badge").get(word, word),
        "text": section("ended").get(word, word),
        "pages": _removal_pages(visit, one.provider) if one.outcome in revocations.LEFT_OPEN else {},
        "next_at": one.next_at,
    }


def _ended_word(one: revocations.Revocation, receipt: receipts.Receipt | None) -> str:
    """The outcome, with the result of the check at the provider."""
    if receipt is None:
        return one.outcome
    match one.outcome, receipt.result:
        case "revoked", receipts.ReceiptResult.VERIFIED_DEAD:
            return "verified"
        case "revoked", _:
            return "unverified"
        case "unsupported", _ if receipt.reason in {receipts.KEPT_ELSEWHERE, receipts.SESSION_LEFT}:
            return receipt.reason
        case "given_up", receipts.ReceiptResult.STILL_ALIVE:
            return "left_alive" if receipt.reason != receipts.NO_REVOCATION else "delete_late"
        case "alive", _ if receipt.reason == receipts.NO_REVOCATION:
            return "delete_there"
        case _:
            return one.outcome


async def _first_agents(visit: OwnVisit, numbers: Mapping[str, int]) -> dict[str, list[Client]]:
    """At least the first agents that may use each account now; `numbers` says how many may.

    Reads the permissions of some agents at a time: those of all would be thousands.
    """
    database, now = visit.deployment.database, visit.deployment.now()
    own = sorted(await clients.list_own(database, visit.user.id, now=now), key=lambda one: one.id)
    found: dict[str, list[Client]] = {connection_id: [] for connection_id in numbers}
    for start in range(0, len(own), _AT_ONCE):
        if all(len(found[one]) >= min(_NAMED, number) for one, number in numbers.items()):
            break
        some = {one.id: one for one in own[start : start + _AT_ONCE]}
        live = await delegations.list_live_of_clients(database, visit.user.id, client_ids=[*some], now=now)
        for one in sorted(live, key=lambda one: one.client_id):
            found.setdefault(one.connection_id, []).append(some[one.client_id])
    return found


async def show_one(visit: OwnVisit) -> Response:
    """One account: its health, which agents may use it, what it can do."""
    return await _account_page(visit, await _own(visit), error="", status=200)


async def _account_page(visit: OwnVisit, connection: Connection, *, error: str, status: int) -> Response:
    deployment, now = visit.deployment, visit.deployment.now()
    used = await audit.last_uses_of_accounts(deployment.database, visit.user.id)
    part = pages.part(await _access_rows(visit, connection), visit.visit.query("page"), size=ROWS)
    context: dict[str, object] = {
        "one": _row(visit, connection, now=now) | {"used_at": used.get(connection.id)},
        "connection": connection,
        "path": f"/connections/{connection.id}",
        "rows": part.items,
        "part": part,
        "days": access.DAYS,
        "saved": await access_changes.last_saved(deployment, visit.user, visit.visit.query("saved")),
        "events": await recent_rows(visit, connection_id=connection.id),
        "error": error,
        "longest": NICKNAME_LIMIT,
    }
    provider = deployment.catalog.get(connection.provider)
    targets = provider_targets([] if provider is None else [provider])
    return visit.page("account.html", context, status=status, form_targets=targets)


async def _access_rows(visit: OwnVisit, connection: Connection) -> tuple[access.AccessRow, ...]:
    deployment = visit.deployment
    held = await delegations.list_for_connection(deployment.database, visit.user.id, connection_id=connection.id)
    agents = [one.client for one in await own_agents(visit)]
    alike = await connections.find(deployment.database, visit.user.id, provider=connection.provider)
    account = next(
        (one for one in access.offered_accounts(deployment, alike) if one.connection.id == connection.id), None
    )
    if account is None:
        return ()
    givers = await access.titles_of_givers(deployment, visit.user)
    rows = access.account_rows(account, agents, delegated=held, givers=givers, now=deployment.now())
    return tuple(sorted(rows, key=lambda row: not row.setting.scopes))


async def change(visit: OwnVisit) -> Response:
    """Store the person's changes to who may use the account."""
    connection = await _own(visit)
    rows = await _access_rows(visit, connection)
    changes = access.changed_rows(rows, visit.form, now=visit.deployment.now())
    return _go_back(connection, await access_changes.save(visit.deployment, visit.user, changes))


async def undo(visit: OwnVisit) -> Response:
    """Undo the last change, within 15 minutes."""
    connection = await _own(visit)
    rows = await _access_rows(visit, connection)
    return _go_back(connection, await access_changes.undo(visit.deployment, visit.user, visit.form.one("saved"), rows))


def _go_back(connection: Connection, handle: str) -> Response:
    return pages.go(f"/connections/{connection.id}" + (f"?saved={handle}" if handle else ""))


async def rename(visit: OwnVisit) -> Response:
    """Set or remove the person's own name for the account."""
    connection = await _own(visit)
    nickname = " ".join(visit.form.one("nickname").split())
    if len(nickname) > NICKNAME_LIMIT or not nickname.isprintable():
        error = text("one_account.name_refused", longest=NICKNAME_LIMIT)
        return await _account_page(visit, connection, error=error, status=status_of("invalid_request"))
    deployment = visit.deployment
    async with deployment.transaction() as transaction:
        await connections.rename(transaction, connection, nickname=nickname)
        event = Event(
            kind="connection.renamed",
            user_id=visit.user.id,
            connection_id=connection.id,
            details={"provider": connection.provider, "account": connection.label, "name": nickname},
        )
        await audit.append(transaction, event, now=deployment.now())
    return _go_back(connection, "")


def _is_configured(visit: OwnVisit, provider: Provider) -> bool:
    """Whether people can connect its accounts."""
    return provider.retired is None and visit.deployment.vault.upstreams[provider.name].is_configured


def account_title(visit: OwnVisit, provider_name: str) -> str:
    """The provider's name as people write it."""
    provider = visit.deployment.catalog.get(provider_name)
    if provider is None:
        return visit.deployment.live.assertions.identities.get(provider_name, provider_name)
    return provider.title


def _by_company(connection: Connection, *, is_identity: bool) -> str:
    """How a company is involved in an account; empty if it isn't."""
    if is_identity:
        return text("connections.identity")
    return "" if connection.renewed_by is None else text("connections.by_company")


def _removal_pages(visit: OwnVisit, provider_name: str) -> Mapping[str, str]:
    """Where the person removes the app, by the kind of account."""
    provider = visit.deployment.catalog.get(provider_name)
    return {} if provider is None else provider.removal_pages


def _row(visit: OwnVisit, connection: Connection, *, now: int) -> dict[str, object]:
    provider = visit.deployment.catalog.get(connection.provider)
    status = connection.status(now)
    is_identity = connection.provider in visit.deployment.live.assertions.identities
    return {
        "is_identity": is_identity,
        "by_company": _by_company(connection, is_identity=is_identity),
        "id": connection.id,
        "provider": connection.provider,
        "nickname": connection.nickname,
        "title": account_title(visit, connection.provider),
        "label": connection.label,
        "status": status,
        "status_words": texts.status(status),
        "hint": _hint(connection, provider, status=status),
        "scopes": [] if provider is None else scope_words(provider, connection.scopes),
        "created_at": connection.created_at,
        "refreshed_at": connection.refreshed_at,
        "access_expires_at": connection.access_expires_at,
        "ends_at": connection.ends_at,
        "ends_unless_used": connection.ends_unless_used,
        "renews": connection.has_refresh_token,
        "is_untried": provider is not None
        and provider.credential is not None
        and provider.credential.kind == "key"
        and provider.identity.source != "endpoint",
        "is_entered": provider is not None and provider.credential is not None,
        "can_reconnect": provider is not None and _is_configured(visit, provider),
    }


def _hint(connection: Connection, provider: Provider | None, *, status: str) -> str:
    if provider is not None and provider.retired is not None and status != ConnectionState.REVOKED.value:
        return f"{translate(provider.retired)} {text('connections.retired')}"
    return texts.status_hint("doubted" if _is_doubted(connection, status) else status)


def _is_doubted(connection: Connection, status: str) -> bool:
    return status == "active" and connection.reason == DOUBTED


async def choose(visit: OwnVisit) -> Response:
    """Choose a provider's scopes and an account to connect; the scopes for ordinary use are preselected."""
    provider, ticked = _wanted_provider(visit, visit.visit.query("provider"))
    await check_may_connect(visit.deployment, visit.session, provider)  # not after all the choices were made
    return await _choice_page(visit, provider, ticked=ticked, error="", status=200)


async def _choice_page(
    visit: OwnVisit, provider: Provider, *, ticked: frozenset[str], error: str, status: int
) -> Response:
    included = expand(ticked, provider.covers)
    used = included.union(*(spec.scopes for spec in visit.deployment.tools if spec.provider == provider.name))
    choices = [
        (scope, texts.scope_title(provider, scope), scope in included)
        for scope in provider.scopes
        if scope not in provider.always_granted | provider.own_scopes
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
        "in_testing": provider.registration.is_testing,
        "error": error,
    }
    return visit.page("choose.html", context, status=status, form_targets=provider_targets([provider]))


def _wanted_provider(visit: OwnVisit, name: str) -> tuple[Provider, frozenset[str]]:
    try:
        provider, scopes = visit.deployment.catalog.resolve(name)
    except KeyError as error:
        raise PageRefused("no_provider", kind="not_found") from error
    if provider.retired is not None:
        raise PageRefused("retired", kind="conflict", provider=provider.title)
    if not _is_configured(visit, provider):
        raise PageRefused("not_set_up", kind="conflict", provider=provider.title)
    return provider, scopes


async def connect(visit: OwnVisit) -> Response:
    """Go to the provider for the selected scopes; no agent gets any of them yet."""
    provider, _ = _wanted_provider(visit, visit.form.one("provider"))
    scopes = (visit.form.many("scope") & provider.scopes.keys()) - provider.always_granted - provider.own_scopes
    if provider.credential is not None:  # it has whatever it has: agents get parts of it
        scopes = provider.all_scopes - provider.own_scopes
    if not scopes:
        return await _choice_page(
            visit,
            provider,
            ticked=frozenset(),
            error=text("choose.nothing_selected"),
            status=status_of("invalid_request"),
        )
    chosen = await chosen_account(visit, provider.name)
    trip = ConsentRequest(
        provider=provider.name,
        scopes=asked_scopes(scopes, chosen),
        replaces=None if chosen is None else chosen.id,
        login_hint=login_hint(chosen),
    )
    return await go_to_provider(visit, trip)


async def _own(visit: OwnVisit) -> Connection:
    wanted = str(visit.visit.request.path_params["connection"])
    found = await connections.get_connection(visit.deployment.database, wanted, user_id=visit.user.id)
    if found is None or found.state.value == "revoked":
        raise PageRefused("no_connection", kind="not_found")
    return found


async def reconnect(visit: OwnVisit) -> Response:
    """Request the connection's scopes again from the provider; agents keep their permissions."""
    connection = await _own(visit)
    provider, _ = _wanted_provider(visit, connection.provider)
    trip = ConsentRequest(
        provider=provider.name,
        scopes=connection.scopes,
        replaces=connection.id,
        login_hint=login_hint(connection),
        is_by_hand=connection.state is ConnectionState.ACTIVE,
    )
    return await go_to_provider(visit, trip)


async def confirm(visit: OwnVisit) -> Response:
    """Ask before disconnecting."""
    connection = await _own(visit)
    provider = visit.deployment.catalog.get(connection.provider)
    context: dict[str, object] = {
        "connection": connection,
        "title": account_title(visit, connection.provider),
        "is_elsewhere": await grant_checks.source_of(visit.deployment.vault, connection.id) != "",
        "ends_there": provider is not None and provider.can_revoke,
        "is_identity": connection.provider in visit.deployment.live.assertions.identities,
        "is_entered": provider is not None and provider.credential is not None,
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
        pass  # it is recorded as due and will be retried
    return pages.go(f"/connections?closed={connection.id}")

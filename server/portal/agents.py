"""The person's agents: what each may use, how to change that, and how to disconnect one at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from server.http import pages
from server.portal import permissions, texts
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from vault import clients, connections, delegations, grants
from vault.audit import audit
from vault.records import Client, Delegation, Event, Grant

_USES: Final = frozenset(
    {"tool.called", "token.exchanged", "token.released", "handle.issued", "token.refreshed", "token.repeated"}
)
PAGE_SIZE: Final = 20  # agents
_MOST_ACCOUNTS: Final = 400  # sets of checkboxes per page: fewer agents if a person has many accounts
_LOOK_BACK: Final = 500  # events in which to look for an agent's last use


async def _own_agents(visit: OwnVisit, permitted: Sequence[Delegation] | None = None) -> dict[str, list[Grant]]:
    """Client id to live grants, for every client with a grant or a delegation of this person."""
    database, now = visit.deployment.database, visit.deployment.now()
    found: dict[str, list[Grant]] = {}
    for grant in await grants.list_grants(database, visit.user.id):
        found.setdefault(grant.client_id, []).append(grant)
    if permitted is None:
        permitted = await delegations.list_for_user(database, visit.user.id)
    for delegation in permitted:
        if delegation.is_live(now):
            found.setdefault(delegation.client_id, [])
    return found


async def show(visit: OwnVisit) -> Response:
    """Agents with the checkboxes of what they may use, as many as fit on a page."""
    database = visit.deployment.database
    permitted = await delegations.list_for_user(database, visit.user.id)
    owned = await connections.list_connections(database, visit.user.id)
    everybody = list((await _own_agents(visit, permitted)).items())
    size = max(1, min(PAGE_SIZE, _MOST_ACCOUNTS // max(1, len(owned))))
    part = pages.part(everybody, visit.visit.query("page"), size=size)
    last_used = await _last_used(visit)
    agents: list[dict[str, object]] = []
    for client_id, live in part.items:
        client = await clients.get_client(database, client_id)
        if client is not None:
            mine = [one for one in permitted if one.client_id == client_id]
            accounts = permissions.choices_of(visit.deployment, owned, mine)
            agents.append(_row(client, live, accounts=accounts, used_at=last_used.get(client_id)))
    context: dict[str, object] = {
        "agents": agents,
        "field": permissions.FIELD,
        "mcp": visit.deployment.url("/mcp"),
        "part": part,
    }
    return visit.page("agents.html", context)


async def _last_used(visit: OwnVisit) -> dict[str, int]:
    """When each agent of the person's recent events was last used."""
    database = visit.deployment.database
    recent = await audit.list_events(database, user_id=visit.user.id, limit=_LOOK_BACK, newest_first=True)
    found: dict[str, int] = {}
    for event in recent:
        if event.client_id is not None and event.kind in _USES:
            found.setdefault(event.client_id, event.at)
    return found


def _row(
    client: Client, live: list[Grant], *, accounts: Sequence[permissions.AccountChoices], used_at: int | None
) -> dict[str, object]:
    scopes = frozenset[str]().union(*(grant.scopes for grant in live))
    return {
        "client": client,
        "path": _path(client.id),
        "kind": texts.client_kind(client),
        "unverified": texts.is_unverified(client),
        "since": min((grant.created_at for grant in live), default=None),
        "used_at": used_at,
        "scopes": [texts.token_scope(scope) for scope in sorted(scopes)],
        "accounts": accounts,
    }


def _path(client_id: str) -> str:
    return f"/agents/{quote(client_id, safe='')}"


async def _agent(visit: OwnVisit) -> Client:
    """The agent in the address, if it is one of this person's."""
    client_id = str(visit.visit.request.path_params["client"])
    client = await clients.get_client(visit.deployment.database, client_id)
    if client is None or client_id not in await _own_agents(visit):
        raise PageRefused("no_agent", kind="not_found")
    return client


async def change(visit: OwnVisit) -> Response:
    """Set what the agent may use to exactly what is selected."""
    client = await _agent(visit)
    accounts = await permissions.account_choices(visit.deployment, visit.user, client_id=client.id)
    if not permissions.is_current(accounts, visit.form.many(permissions.HELD_FIELD)):
        raise PageRefused("permissions_changed", kind="conflict")
    wanted = permissions.chosen_scopes(accounts, visit.form.many(permissions.FIELD))
    await permissions.save(visit.deployment, visit.user, client_id=client.id, accounts=accounts, wanted=wanted)
    deployment, user = visit.deployment, visit.user
    ticked = visit.form.many(permissions.ASK_FIELD)
    await permissions.save_asking(deployment, user, client_id=client.id, accounts=accounts, ticked=ticked)
    meant = visit.form.many(permissions.DEFAULT_FIELD)
    await permissions.save_defaults(deployment, user, client_id=client.id, accounts=accounts, ticked=meant)
    return pages.go("/agents")


async def confirm(visit: OwnVisit) -> Response:
    """Ask before disconnecting an agent."""
    client = await _agent(visit)
    return visit.page("cut_off.html", {"client": client, "path": _path(client.id)})


async def cut_off(visit: OwnVisit) -> Response:
    """End the agent's grants, tokens and permissions in one transaction: its next call fails."""
    client = await _agent(visit)
    deployment, user, now = visit.deployment, visit.user, visit.deployment.now()
    async with deployment.transaction() as transaction:
        ended = await grants.revoke_client_grants(
            transaction, user_id=user.id, client_id=client.id, reason="cut_off", now=now
        )
        taken = await delegations.revoke_for_client(transaction, user_id=user.id, client_id=client.id, now=now)
        details: dict[str, object] = {
            "agent": client.name,
            "grants": len(ended),
            "accounts": taken,
            "reason": "cut_off",
        }
        await audit.append(
            transaction, Event(kind="agent.cut_off", user_id=user.id, client_id=client.id, details=details), now=now
        )
    return pages.go("/agents")

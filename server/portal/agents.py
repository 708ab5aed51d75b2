"""The person's agents: what each may use, changing that, and cutting one off at once."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from server.portal import pages, permissions, words
from server.portal.forms import PageRefused
from server.portal.visits import OwnVisit
from vault import audit, clients, delegations, grants
from vault.records import Client, Event, Grant

_USES: Final = frozenset({"tool.called", "token.exchanged", "token.released", "handle.issued", "token.refreshed"})
_LOOK_BACK: Final = 500  # events in which to find an agent's last use


async def _own_agents(visit: OwnVisit) -> dict[str, list[Grant]]:
    """Client id to live grants, for every client with a grant or a delegation of this person."""
    database, now = visit.deployment.database, visit.deployment.now()
    found: dict[str, list[Grant]] = {}
    for grant in await grants.list_grants(database, visit.user.id):
        found.setdefault(grant.client_id, []).append(grant)
    for delegation in await delegations.list_for_user(database, visit.user.id):
        if delegation.is_live(now):
            found.setdefault(delegation.client_id, [])
    return found


async def show(visit: OwnVisit) -> Response:
    """Every agent with the checkboxes of what it may use."""
    database = visit.deployment.database
    recent = await audit.list_events(database, user_id=visit.user.id, limit=_LOOK_BACK, newest_first=True)
    last_used: dict[str, int] = {}
    for event in recent:
        if event.client_id is not None and event.kind in _USES:
            last_used.setdefault(event.client_id, event.at)
    agents: list[dict[str, object]] = []
    for client_id, live in (await _own_agents(visit)).items():
        client = await clients.get_client(database, client_id)
        if client is not None:
            agents.append(await _shown(visit, client, live, used_at=last_used.get(client_id)))
    context: dict[str, object] = {
        "agents": agents,
        "field": permissions.FIELD,
        "mcp": visit.deployment.url("/mcp"),
    }
    return visit.page("agents.html", context)


async def _shown(visit: OwnVisit, client: Client, live: list[Grant], *, used_at: int | None) -> dict[str, object]:
    scopes = frozenset[str]().union(*(grant.scopes for grant in live))
    return {
        "client": client,
        "path": _path(client.id),
        "kind": words.client_kind(client),
        "unverified": words.is_unverified(client),
        "since": min((grant.created_at for grant in live), default=None),
        "used_at": used_at,
        "scopes": [words.token_scope(scope) for scope in sorted(scopes)],
        "accounts": await permissions.account_choices(visit.deployment, visit.user, client_id=client.id),
    }


def _path(client_id: str) -> str:
    return f"/agents/{quote(client_id, safe='')}"


async def _agent(visit: OwnVisit) -> Client:
    """The agent of the address, if it is one of this person's."""
    client_id = str(visit.visit.request.path_params["client"])
    client = await clients.get_client(visit.deployment.database, client_id)
    if client is None or client_id not in await _own_agents(visit):
        raise PageRefused("There is no such agent", "It may be cut off already. Look at your agents.", status=404)
    return client


async def change(visit: OwnVisit) -> Response:
    """Set what the agent may use to exactly what is ticked."""
    client = await _agent(visit)
    accounts = await permissions.account_choices(visit.deployment, visit.user, client_id=client.id)
    wanted = permissions.chosen(accounts, visit.form.many(permissions.FIELD))
    await permissions.save(visit.deployment, visit.user, client_id=client.id, accounts=accounts, wanted=wanted)
    deployment, user = visit.deployment, visit.user
    ticked = visit.form.many(permissions.ASK_FIELD)
    await permissions.save_asking(deployment, user, client_id=client.id, accounts=accounts, ticked=ticked)
    meant = visit.form.many(permissions.DEFAULT_FIELD)
    await permissions.save_defaults(deployment, user, client_id=client.id, accounts=accounts, ticked=meant)
    return pages.go("/agents")


async def confirm(visit: OwnVisit) -> Response:
    """Ask before cutting an agent off."""
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

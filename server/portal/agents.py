"""The person's agents: a list, and a page for each with its access, activity, sign-ins, and a cut-off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from server.http import pages
from server.portal import texts
from server.portal.access import access, access_changes, tool_sets
from server.portal.activity import recent_rows
from server.portal.approvals import access_requests, standing_approvals
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from vault import clients, delegations, grants
from vault.audit import audit
from vault.records import Client, Connection, Delegation, Grant

PAGE_SIZE: Final = 25  # agents
ROWS: Final = 25  # accounts on an agent's page
_CHIPS: Final = 4  # accounts of one in the list
_SIGN_INS: Final = 10
_DAYS: Final = 14  # of use to draw


@dataclass(frozen=True, slots=True)
class OwnAgent:
    """An agent with its live sign-ins."""

    client: Client
    live: tuple[Grant, ...]
    used_at: int | None

    @property
    def path(self) -> str:
        return access.agent_path(self.client.id)

    @property
    def since(self) -> int | None:
        return min((grant.created_at for grant in self.live), default=None)

    @property
    def kind(self) -> str:
        return texts.client_kind(self.client)

    @property
    def is_unverified(self) -> bool:
        return texts.is_unverified(self.client)


async def own_agents(visit: OwnVisit, *, used: Mapping[str, int] | None = None) -> list[OwnAgent]:
    """Every client with a grant or a live delegation of this person, most recently used first.

    `used` is when each was last used, where the caller has read it already.
    """
    database, now = visit.deployment.database, visit.deployment.now()
    live: dict[str, list[Grant]] = {}
    for grant in await grants.list_grants(database, visit.user.id):
        live.setdefault(grant.client_id, []).append(grant)
    used = await audit.last_uses_of_agents(database, visit.user.id) if used is None else used
    agents = [
        OwnAgent(client, tuple(live.get(client.id, ())), used.get(client.id))
        for client in await clients.list_own(database, visit.user.id, now=now)
    ]
    return sorted(agents, key=lambda one: (-(one.used_at or one.since or 0), one.client.name.casefold()))


async def with_accounts(
    visit: OwnVisit, agents: Sequence[OwnAgent], *, owned: Sequence[Connection], most: int
) -> list[tuple[OwnAgent, tuple[access.AccessRow, ...], int]]:
    """The agents, each with the first `most` of the accounts `owned` that it may use, and how many more there are."""
    database, now = visit.deployment.database, visit.deployment.now()
    live: dict[str, dict[str, Delegation]] = {one.client.id: {} for one in agents}
    for each in await delegations.list_live_of_clients(database, visit.user.id, client_ids=[*live], now=now):
        live[each.client_id][each.connection_id] = each
    accounts = access.offered_accounts(visit.deployment, owned)
    found: list[tuple[OwnAgent, tuple[access.AccessRow, ...], int]] = []
    for one in agents:
        held = live[one.client.id]
        usable = [account for account in accounts if access.is_usable(account, held.get(account.connection.id))]
        rows = access.agent_rows(one.client, usable[:most], delegated=[*held.values()], givers={}, now=now)
        found.append((one, rows, max(0, len(usable) - most)))
    return found


async def show(visit: OwnVisit) -> Response:
    """The agents with what each may use, in short."""
    part = pages.part(await own_agents(visit), visit.visit.query("page"), size=PAGE_SIZE)
    context: dict[str, object] = {
        "agents": await with_accounts(visit, part.items, owned=visit.needs.owned, most=_CHIPS),
        "mcp": visit.deployment.url("/mcp"),
        "part": part,
    }
    return visit.page("agents.html", context)


async def _agent(visit: OwnVisit) -> Client:
    """The agent in the address, if it is one of this person's."""
    client_id = str(visit.visit.request.path_params["client"])
    client = await clients.get_client(visit.deployment.database, client_id)
    held = await delegations.list_for_client(visit.deployment.database, visit.user.id, client_id=client_id)
    now = visit.deployment.now()
    is_own = any(one.is_live(now) for one in held) or any(
        grant.client_id == client_id for grant in await grants.list_grants(visit.deployment.database, visit.user.id)
    )
    if client is None or not is_own:
        raise PageRefused("no_agent", kind="not_found")
    return client


async def show_one(visit: OwnVisit) -> Response:
    """Show one agent: its access, recent activity, and sign-ins."""
    client = await _agent(visit)
    deployment, user = visit.deployment, visit.user
    rows = await access.rows_of_agent(deployment, user, client)
    part = pages.part(sorted(rows, key=_order), visit.visit.query("page"), size=ROWS)
    signed_in = await grants.list_sign_ins(deployment.database, user.id, client_id=client.id, limit=_SIGN_INS)
    used = await audit.last_uses_of_agents(deployment.database, user.id)
    live = [grant for grant in signed_in if grant.is_live]
    scopes = frozenset[str]().union(*(grant.scopes for grant in live))
    context: dict[str, object] = {
        "client": client,
        "agent_name": client.name or client.id,
        "path": access.agent_path(client.id),
        "kind": texts.client_kind(client),
        "unverified": texts.is_unverified(client),
        "is_signed_in": bool(live),
        "daily_uses": await audit.list_daily_uses(
            deployment.database, user.id, client_id=client.id, now=deployment.now(), days=_DAYS
        ),
        "used_at": used.get(client.id),
        "scopes": [texts.token_scope(scope) for scope in sorted(scopes)],
        "rows": part.items,
        "part": part,
        "days": access.DAYS,
        "tool_sets_of": await tool_sets.current_options(deployment, user, client_id=client.id, scopes=scopes),
        "standing": await standing_approvals.rows(visit, client_id=client.id),
        "requested": await access_requests.allowed_rows(visit, client_id=client.id),
        "saved": await access_changes.last_saved(deployment, user, visit.visit.query("saved")),
        "events": await recent_rows(visit, client_id=client.id),
        "sign_ins": [(grant, texts.grant_end(grant)) for grant in signed_in],
    }
    return visit.page("agent.html", context)


def _order(row: access.AccessRow) -> bool:
    return not row.setting.scopes


async def change(visit: OwnVisit) -> Response:
    """Store the person's changes to the agent's access."""
    client = await _agent(visit)
    rows = await access.rows_of_agent(visit.deployment, visit.user, client)
    changes = access.changed_rows(rows, visit.form, now=visit.deployment.now())
    return _go_back(client, await access_changes.save(visit.deployment, visit.user, changes))


async def choose_tools(visit: OwnVisit) -> Response:
    """Store which tool set the person chose for the agent."""
    client = await _agent(visit)
    await tool_sets.save(visit.deployment, visit.user, client_id=client.id, form=visit.form)
    return _go_back(client, "")


async def undo(visit: OwnVisit) -> Response:
    """Undo the last change, within 15 minutes."""
    client_id = str(visit.visit.request.path_params["client"])
    client = await clients.get_client(visit.deployment.database, client_id)
    if client is None:
        raise PageRefused("no_agent", kind="not_found")
    rows = await access.rows_of_agent(visit.deployment, visit.user, client)
    return _go_back(client, await access_changes.undo(visit.deployment, visit.user, visit.form.one("saved"), rows))


def _go_back(client: Client, handle: str) -> Response:
    return pages.go(access.agent_path(client.id) + (f"?saved={handle}" if handle else ""))


async def confirm(visit: OwnVisit) -> Response:
    """Ask before ending an agent's access."""
    client = await _agent(visit)
    return visit.page("cut_off.html", {"client": client, "path": access.agent_path(client.id)})


async def cut_off(visit: OwnVisit) -> Response:
    """End the agent's access, as the person confirmed."""
    await access_changes.end_agent(visit.deployment, visit.user, await _agent(visit))
    return pages.go("/agents")

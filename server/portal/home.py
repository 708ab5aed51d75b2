"""The start page: items that need the person's attention, the map of agents and accounts, and recent events."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from server.portal import texts
from server.portal.access_map import MOST_ACCOUNTS, MOST_AGENTS, draw, most_used
from server.portal.activity import recent_rows
from server.portal.agents import own_agents, with_accounts
from server.portal.approvals import access_requests
from server.portal.approvals.approvals import question
from server.portal.connections import account_title
from server.portal.requests import OwnVisit
from vault.audit import audit

_SHOWN: Final = 5  # events


async def show(visit: OwnVisit) -> Response:
    """Show what needs the person's attention, with an overview of everything."""
    deployment, now = visit.deployment, visit.deployment.now()
    owned = visit.needs.owned
    uses = await audit.list_last_uses(deployment.database, visit.user.id)
    used: dict[str, int] = {}
    for use in uses:
        used[use.client_id] = max(use.at, used.get(use.client_id, 0))
    agents = await own_agents(visit, used=used)
    accounts = most_used(owned, uses)
    shown = await with_accounts(visit, agents[:MOST_AGENTS], owned=accounts, most=MOST_ACCOUNTS)
    needs, signs_in = visit.needs, deployment.settings.sign_in.openid
    context: dict[str, object] = {
        "asked": [await question(visit, one) for one in needs.approvals],
        "requests": [await access_requests.row(visit, one) for one in needs.requests[:_SHOWN]],
        "troubled": [
            (one, account_title(visit, one.provider), texts.status(one.status(now)), texts.status_hint(one.status(now)))
            for one in needs.connections
        ],
        "held": needs.held,
        "imports": needs.imports,
        "ending": [(one, account_title(visit, one.provider)) for one in needs.ending],
        "map": draw(visit, shown, accounts=accounts, uses=uses, all_agents=len(agents), all_accounts=len(owned)),
        "titles": {one.provider: account_title(visit, one.provider) for one in owned},
        "states": {one.id: texts.status(one.status(now)) for one in owned if one.status(now) != "active"},
        "events": await recent_rows(visit, limit=_SHOWN),
        "is_new": not agents or not owned,
        "mcp": deployment.url("/mcp"),
        "signs_in": next((name for name, one in signs_in.items() if one.issuer == visit.user.stopped_by), ""),
    }
    return visit.page("home.html", context)

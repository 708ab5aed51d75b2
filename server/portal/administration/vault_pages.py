"""The vault as a whole: how its processes, database, keys and upkeep do; its settings; what happened to everybody."""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import quote, urlencode

from starlette.responses import Response

from server.administration.effective_settings import effective_settings
from server.administration.overview import find_troubles
from server.deployment import Deployment
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.story import Storyteller, agent_names
from vault import users
from vault.audit import audit
from vault.records import Event
from vault.upkeep import replicas

SHOWN: Final = 50  # events


async def show_overview(visit: AdminVisit) -> Response:
    """How the vault does, as far as this process and the database know."""
    deployment, now = visit.deployment, visit.deployment.now()
    seen = await replicas.list_replicas(deployment.database)
    context: dict[str, object] = {
        "replicas": [(one, now - one.seen_at > replicas.LATE, one.id == deployment.vault.owner) for one in seen],
        "findings": await find_troubles(deployment),
        "unusable": deployment.live.current.unusable,
        "key_source": deployment.settings.keys.source,
    }
    return await visit.page("overview.html", context)


async def show_settings(visit: AdminVisit) -> Response:
    """What is set, or every setting in effect, and where it comes from; none can be changed here."""
    sections = effective_settings(visit.deployment.settings, os.environ)
    only_set = visit.query("show") != "all"
    if only_set:
        sections = [(name, [one for one in rows if one.origin != "default"]) for name, rows in sections]
    context: dict[str, object] = {
        "sections": [(name, rows) for name, rows in sections if rows],
        "only_set": only_set,
    }
    return await visit.page("settings.html", context)


async def show_activity(visit: AdminVisit) -> Response:
    """What happened to everybody, newest first, or to one person; each event in the words that its person reads."""
    before, user_id = visit.query("before"), visit.query("person")[:100]
    start = int(before) if before.isascii() and before.isdigit() and len(before) < 16 else None
    events = await audit.list_events(
        visit.deployment.database, user_id=user_id or None, before=start, limit=SHOWN + 1, newest_first=True
    )
    shown, people = events[:SHOWN], await _people_in(visit.deployment, events[:SHOWN])
    teller = Storyteller(visit.deployment, agents=await agent_names(visit.deployment, shown), accounts={})
    older = {"person": user_id, "before": str(shown[-1].sequence)} if len(events) > SHOWN else {}
    context: dict[str, object] = {
        "rows": [(event, teller.sentence(event), people.get(event.user_id or "")) for event in shown],
        "older": f"{ROOT}/activity?{urlencode(older)}" if older else "",
        "is_first": start is None,
        "person": people.get(user_id, (user_id, ""))[0] if user_id else "",
    }
    return await visit.page("activity.html", context)


async def _people_in(deployment: Deployment, events: tuple[Event, ...]) -> dict[str, tuple[str, str]]:
    """User id to name and page, of those who are still here."""
    found: dict[str, tuple[str, str]] = {}
    for user_id in {event.user_id for event in events if event.user_id is not None}:
        user = await users.get_user(deployment.database, user_id)
        if user is not None:
            found[user_id] = user.name, f"{ROOT}/people/{quote(user_id, safe='')}"
    return found

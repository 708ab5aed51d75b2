"""The vault as a whole: the state of its processes, database, keys, and upkeep, and its settings."""

from __future__ import annotations

import os

from starlette.responses import Response

from server.administration.effective_settings import effective_settings
from server.administration.overview import find_troubles
from server.http.translations import translate_filled
from server.portal.administration.room import AdminVisit
from vault.upkeep import replicas


async def show_overview(visit: AdminVisit) -> Response:
    """The health of the vault, as seen by this process and the database."""
    deployment, now = visit.deployment, visit.deployment.now()
    seen = await replicas.list_replicas(deployment.database)
    context: dict[str, object] = {
        "replicas": [(one, now - one.seen_at > replicas.LATE, one.id == deployment.vault.owner) for one in seen],
        "findings": await find_troubles(deployment),
        "unusable": {name: translate_filled(why) for name, why in deployment.live.current.unusable.items()},
        "key_source": deployment.settings.keys.source,
    }
    return await visit.page("overview.html", context)


async def show_settings(visit: AdminVisit) -> Response:
    """The changed settings, or all settings in effect, and where they come from; none can be changed here."""
    sections = effective_settings(visit.deployment.settings, os.environ)
    only_set = visit.query("show") != "all"
    if only_set:
        sections = [(name, [one for one in rows if one.origin != "default"]) for name, rows in sections]
    context: dict[str, object] = {
        "sections": [(name, rows) for name, rows in sections if rows],
        "only_set": only_set,
    }
    return await visit.page("settings.html", context)

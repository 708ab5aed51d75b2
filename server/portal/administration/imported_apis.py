"""Imported APIs: review the tools of each, and accept or discard them, by the digest of what the page showed."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from providers.tools.imported_api import CHOICES, ImportChoice
from server.administration.actor import ChangeRefused
from server.errors import status_of
from server.http.page_texts import text
from server.http.translations import translate_filled
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.forms import PageRefused
from server.remote import imported_apis
from vault.mcp.imported_apis import ImportedApi, list_apis

PAGE: Final = f"{ROOT}/tools/imports"
_COMMAND: Final = "token-vault tools import openapi FILE_OR_URL --name NAME --review"


async def show(visit: AdminVisit) -> Response:
    """All imported APIs, and which of them wait for a review."""
    known = await list_apis(visit.deployment.database)
    unusable = visit.deployment.live.current.unusable
    context: dict[str, object] = {
        "apis": [(one, path_of(one.name), unusable.get(one.name, "")) for one in known],
        "command": _COMMAND,
    }
    return await visit.page("imported_apis.html", context)


def path_of(name: str) -> str:
    """The page of an API."""
    return f"{PAGE}/{quote(name, safe='')}"


async def show_one(visit: AdminVisit) -> Response:
    """One API: what each tool sends and needs, and the rule that allows it."""
    return await _page(visit, await _api(visit))


async def _page(visit: AdminVisit, api: ImportedApi, *, error: str = "") -> Response:
    context: dict[str, object] = {
        "api": api,
        "path": path_of(api.name),
        "review": await asyncio.to_thread(imported_apis.review_of, api),
        "choices": CHOICES,
        "problem": visit.deployment.live.current.unusable.get(api.name, ""),
        "error": error,
    }
    return await visit.page("imported_api.html", context, status=status_of("invalid_request") if error else 200)


async def accept(visit: AdminVisit) -> Response:
    """Turn on the tools exactly as shown, with the admin's choice for each."""
    api, form = await _api(visit), visit.form
    names = [one.name for one in imported_apis.review_of(api).tools]
    chosen: dict[str, ImportChoice] = {
        name: choice for name in names for choice in CHOICES if form.one(f"tool.{name}") == choice
    }
    try:
        number = await imported_apis.accept(visit.actor, api.name, form.one("digest"), chosen)
    except ChangeRefused as refused:
        if refused.reason != "import_refused":
            raise
        return await _page(visit, api, error=translate_filled(refused.description))
    return await visit.go(path_of(api.name), said=text("admin_imports.accepted", number=number))


async def discard(visit: AdminVisit) -> Response:
    """Discard the waiting import."""
    api = await _api(visit)
    await imported_apis.discard(visit.actor, api.name, visit.form.one("digest"))
    return await visit.go(PAGE, said=text("admin_imports.discarded", api=api.name))


async def remove(visit: AdminVisit) -> Response:
    """Turn an API off and remove it."""
    api = await _api(visit)
    await imported_apis.remove(visit.actor, api.name)
    return await visit.go(PAGE, said=text("admin_imports.removed", api=api.name))


async def _api(visit: AdminVisit) -> ImportedApi:
    """The API in the address."""
    try:
        return await imported_apis.api_named(visit.deployment, visit.param("api")[:64])
    except ChangeRefused as refused:
        raise PageRefused("no_import", kind="not_found") from refused

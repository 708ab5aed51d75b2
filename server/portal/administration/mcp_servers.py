"""MCP servers behind the vault: add one, review its tools, disable, and remove it, as `token-vault mcp` does.

A review is accepted by the digest of what the page showed, so that no one accepts a change that they haven't seen.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from server.administration.actor import ChangeRefused
from server.errors import status_of
from server.http.page_texts import text
from server.http.translations import translate_filled
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.forms import PageRefused
from server.remote import servers
from server.remote.servers import NewServer
from server.remote.tool_reviews import choice_of, review_of
from vault.mcp.servers import McpServer, McpTool, list_servers
from vault.registrations import get_registration
from vault.upkeep import census

PAGE: Final = f"{ROOT}/tools/servers"
SHOWN: Final = 200  # tools of one review
_FIELDS: Final = ("name", "url", "title", "client_id", "issuer", "sign_in", "key_header")
_CHOICES: Final = ("read", "write", "ask", "leave")


@dataclass(frozen=True, slots=True)
class _ServerDraft:
    """The form's values, except the secret."""

    name: str = ""
    url: str = ""
    title: str = ""
    client_id: str = ""
    issuer: str = ""
    sign_in: str = "oauth"
    key_header: str = ""


async def show(visit: AdminVisit) -> Response:
    """All servers, and a form to add one."""
    return await _list_page(visit, _ServerDraft())


async def _list_page(visit: AdminVisit, draft: _ServerDraft, *, error: str = "") -> Response:
    deployment = visit.deployment
    known = await list_servers(deployment.database)
    context: dict[str, object] = {
        "servers": [(one, path_of(one.name), servers.state_of(deployment, one)) for one in known],
        "draft": draft,
        "error": error,
        "path": PAGE,
    }
    return await visit.page("mcp_servers.html", context, status=status_of("invalid_request") if error else 200)


def path_of(name: str) -> str:
    """The page of a server."""
    return f"{PAGE}/{quote(name, safe='')}"


async def add(visit: AdminVisit) -> Response:
    """Add a server. The vault registers itself there, unless the admin entered a client."""
    form = visit.form
    draft = _ServerDraft(*(form.one(name).strip()[:2000] for name in _FIELDS))
    secret = form.one("client_secret").strip() or None
    client = servers.EnteredClient(draft.client_id, secret) if draft.client_id else None
    try:
        key = servers.key_of(draft.sign_in, draft.key_header)
        server = NewServer(draft.name, draft.url, draft.title, client, draft.issuer or None, key)
        await servers.add(visit.actor, server)
    except ChangeRefused as refused:
        if refused.kind != "invalid_request":
            raise
        if refused.field == "key_header":  # it may be a key
            draft = replace(draft, key_header="")
        return await _list_page(visit, draft, error=translate_filled(refused.description))
    return await visit.go(path_of(draft.name), said=text("admin_servers.added", server=draft.name))


async def show_one(visit: AdminVisit) -> Response:
    """One server: its tools as it describes them, those that wait for a review first."""
    deployment, server = visit.deployment, await _server(visit)
    reviewed = await asyncio.to_thread(review_of, server)
    held = [one for one in reviewed if one.state != "accepted"]
    held_client = await get_registration(deployment.database, server.name)
    context: dict[str, object] = {
        "server": server,
        "path": path_of(server.name),
        "state": servers.state_of(deployment, server),
        "held": held[:SHOWN],
        "more": max(0, len(held) - SHOWN),
        "accepted": [one for one in reviewed if one.state == "accepted"][:SHOWN],
        "ends_at": held_client.secret_ends_at if held_client and held_client.is_ending(deployment.now()) else None,
        "connect": servers.connect_url(deployment, server.name),
        "list_tool": f"{server.name.replace('-', '_')}_tools",
    }
    return await visit.page("mcp_server.html", context)


async def accept(visit: AdminVisit) -> Response:
    """Offer agents the tools exactly as shown, with the admin's choice for each."""
    server, form = await _server(visit), visit.form
    chosen = {one.name: choice for one in server.tools if (choice := form.one(f"tool.{one.name}")) in _CHOICES}
    changed = {one.name: chosen[one.name] for one in server.tools if one.name in chosen and _differs(one, chosen)}
    decision = servers.decision_of(form.one("digest"), changed, forgets=form.one("gone") == "yes")
    accepted = await servers.accept(visit.actor, server.name, decision)
    said = text("admin_servers.accepted", number=len(accepted), left=len(decision.leaves))
    return await visit.go(path_of(server.name), said=said)


def _differs(tool: McpTool, chosen: dict[str, str]) -> bool:
    """Whether the choice changes anything; for an accepted tool, only a different choice does."""
    if tool.is_absent:
        return False
    if tool.state == "accepted":
        return chosen[tool.name] not in {choice_of(tool), "leave"}
    return not (tool.is_left and chosen[tool.name] == "leave")


async def disable(visit: AdminVisit) -> Response:
    """Stop offering its tools to agents."""
    return await _set_disabled(visit, is_disabled=True)


async def enable(visit: AdminVisit) -> Response:
    """Offer agents the accepted tools again."""
    return await _set_disabled(visit, is_disabled=False)


async def _set_disabled(visit: AdminVisit, *, is_disabled: bool) -> Response:
    server = await _server(visit)
    await servers.set_disabled(visit.actor, server.name, is_disabled=is_disabled)
    said = text("admin_servers.disabled" if is_disabled else "admin_servers.enabled", server=server.title)
    return await visit.go(path_of(server.name), said=said)


async def confirm(visit: AdminVisit) -> Response:
    """Ask before removing the server, whose accounts must be disconnected first."""
    server = await _server(visit)
    seen = await census.count_at_provider(visit.deployment.database, server.name)
    context: dict[str, object] = {"server": server, "path": path_of(server.name), "accounts": seen.count}
    return await visit.page("remove_mcp_server.html", context)


async def disconnect(visit: AdminVisit) -> Response:
    """Disconnect every account at the server, with a receipt for each."""
    server = await _server(visit)
    ended = await servers.disconnect_all(visit.actor, server.name)
    return await visit.go(f"{path_of(server.name)}/remove", said=text("admin_servers.disconnected", number=ended))


async def remove(visit: AdminVisit) -> Response:
    """Remove the server and its accepted tools."""
    server = await _server(visit)
    await servers.remove(visit.actor, server.name)
    return await visit.go(PAGE, said=text("admin_servers.removed", server=server.title))


async def _server(visit: AdminVisit) -> McpServer:
    """The server in the address."""
    try:
        return await servers.server_named(visit.deployment, visit.param("server")[:64])
    except ChangeRefused as refused:
        raise PageRefused("no_server", kind="not_found") from refused

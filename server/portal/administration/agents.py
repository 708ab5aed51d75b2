"""Everyone's agents: all clients, who uses each, ending one for everyone, and who may register."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from starlette.responses import Response

from server.administration import agents
from server.http.page_texts import text
from server.portal import texts
from server.portal.administration.room import ROOT, AdminVisit
from vault import clients, grants
from vault.records import Client

PAGE: Final = f"{ROOT}/agents"
SHOWN: Final = 50
PEOPLE: Final = 200  # sign-ins among which people are searched for


async def show(visit: AdminVisit) -> Response:
    """Clients, newest first, and who can register new ones."""
    wanted = visit.query("find").strip()[:200]
    found, rest = await clients.find_page(
        visit.deployment.database, named=wanted, before=_place(visit.query("before")), limit=SHOWN
    )
    settings = visit.deployment.settings
    context: dict[str, object] = {
        "agents": [(one, path_of(one), texts.client_kind(one), texts.is_unverified(one)) for one in found],
        "find": wanted,
        "next": "" if rest is None else f"{PAGE}?{urlencode({'find': wanted, 'before': f'{rest[0]}.{rest[1]}'})}",
        "is_first": not visit.query("before"),
        "mode": settings.registration_mode,
        "rules": settings.registration,
    }
    return await visit.page("agents.html", context)


def _place(text: str) -> tuple[int, str] | None:
    """The place in the list from the address."""
    instant, _, client_id = text.partition(".")
    return (int(instant), client_id) if instant.isascii() and instant.isdigit() and len(instant) < 16 else None


def path_of(client: Client) -> str:
    """The page of a client."""
    return f"{PAGE}/{quote(client.id, safe='')}"


async def _client(visit: AdminVisit) -> Client:
    return await agents.agent_with_id(visit.actor, visit.param("client"))


async def show_one(visit: AdminVisit) -> Response:
    """One client: what it says about itself, and who signed it in."""
    client = await _client(visit)
    people = await grants.list_people(visit.deployment.database, client.id, limit=PEOPLE)
    context: dict[str, object] = {
        "client": client,
        "kind": texts.client_kind(client),
        "unverified": texts.is_unverified(client),
        "path": path_of(client),
        "people": [(name, f"{ROOT}/people/{quote(user_id, safe='')}") for user_id, name in people],
        "is_cut": len(people) >= PEOPLE,
    }
    return await visit.page("agent.html", context)


async def confirm(visit: AdminVisit) -> Response:
    """Ask before ending a client for everyone."""
    client = await _client(visit)
    return await visit.page("cut_off.html", {"client": client, "path": path_of(client)})


async def cut_off(visit: AdminVisit) -> Response:
    """End the client: everyone's grants, tokens, codes, and permissions for it, from the next call on."""
    client = await _client(visit)
    await agents.remove(visit.actor, client)
    return await visit.go(PAGE, said=text("admin_agents.done", agent=client.name or client.id))

"""What happened: the person's own events, newest first, optionally of one agent, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlencode

from starlette.responses import Response

from server.portal import texts
from server.portal.requests import OwnVisit
from vault import clients, connections
from vault.audit import audit
from vault.records import Event

PAGE_SIZE: Final = 50
_SHORT: Final = 8  # events on another page
_LOOK_BACK: Final = 300  # events among which those are looked for
_BATCH: Final = 200
_MOST_BATCHES: Final = 10  # batches per page in which to look for a rare agent's events


async def show(visit: OwnVisit) -> Response:
    """One page of events."""
    agent = visit.visit.query("agent")
    before = visit.visit.query("before")
    start = int(before) if before.isascii() and before.isdigit() and len(before) < 16 else None
    events, rest = await _read(visit, agent=agent, before=start)
    names = await _agent_names(visit)
    owned = await connections.list_connections(visit.deployment.database, visit.user.id, include_ended=True)
    labels = {connection.id: connection.label for connection in owned}
    context: dict[str, object] = {
        "events": [_row(event, names=names, labels=labels) for event in events],
        "agents": sorted(names.items(), key=lambda item: item[1].casefold()),
        "agent": agent if agent in names else "",
        "older": f"/activity?{urlencode({'agent': agent, 'before': rest})}" if rest is not None else "",
        "is_first": start is None,
    }
    return visit.page("activity.html", context)


async def recent_rows(
    visit: OwnVisit, *, client_id: str = "", connection_id: str = "", limit: int = _SHORT
) -> list[dict[str, object]]:
    """The last events of one agent or account among the newest, as rows of a table; of all without either."""
    database = visit.deployment.database
    batch = await audit.list_events(database, user_id=visit.user.id, limit=_LOOK_BACK, newest_first=True)
    found = [
        event
        for event in batch
        if (not client_id or event.client_id == client_id)
        and (not connection_id or event.connection_id == connection_id)
    ][:limit]
    owned = await connections.list_connections(database, visit.user.id, include_ended=True)
    labels = {connection.id: connection.label for connection in owned}
    names = await _names_in(visit, found)
    return [_row(event, names=names, labels=labels) for event in found]


async def _names_in(visit: OwnVisit, events: Sequence[Event]) -> dict[str, str]:
    names: dict[str, str] = {}
    for client_id in {event.client_id for event in events if event.client_id is not None}:
        client = await clients.get_client(visit.deployment.database, client_id)
        names[client_id] = client_id if client is None else client.name
    return names


async def _read(visit: OwnVisit, *, agent: str, before: int | None) -> tuple[list[Event], int | None]:
    """Events of the page, and the sequence before which the next page starts; None when there is none."""
    found: list[Event] = []
    for _ in range(_MOST_BATCHES):
        batch = await audit.list_events(
            visit.deployment.database, user_id=visit.user.id, before=before, limit=_BATCH, newest_first=True
        )
        for event in batch:
            if not agent or event.client_id == agent:
                if len(found) == PAGE_SIZE:
                    return found, found[-1].sequence
                found.append(event)
        if len(batch) < _BATCH:
            return found, None
        before = batch[-1].sequence
    return found, before


async def _agent_names(visit: OwnVisit) -> dict[str, str]:
    """The agents in the person's recent events by name; a removed one keeps its id."""
    database = visit.deployment.database
    return await _names_in(
        visit, await audit.list_events(database, user_id=visit.user.id, limit=1000, newest_first=True)
    )


def _row(event: Event, *, names: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, object]:
    account = "" if event.connection_id is None else labels.get(event.connection_id, "")
    return {
        "at": event.at,
        "words": texts.event(event),
        "kind": event.kind,
        "outcome": event.outcome,
        "tool": str(event.details.get("tool", "")),
        "agent": "" if event.client_id is None else names.get(event.client_id, event.client_id),
        "account": account,
        "details": texts.details(event, beside=account),
    }

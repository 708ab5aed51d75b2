"""What happened, as a story: the person's own events, newest first, filtered by the address, live, and as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.responses import Response, StreamingResponse

from server.http import pages
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from server.portal.story import StoryRow, Storyteller, agent_names
from vault import clients, connections
from vault.audit import audit, search
from vault.audit.search import OUTCOMES, EventFilter
from vault.records import Connection, ConnectionState, Event

PAGE_SIZE: Final = 50
EXPORT_BATCH: Final = 500  # events per read of an export
_NEW: Final = 100  # events that one look for new ones brings
_SHORT: Final = 8  # events on another page
_LOOK_BACK: Final = 300  # events among which those are looked for
_FIELD_LIMIT: Final = 200  # characters of a filter
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for a formula (OWASP, CSV injection)
_COLUMNS: Final = ("time", "event", "outcome", "agent", "agent_id", "account", "connection_id", "details")


@dataclass(frozen=True, slots=True)
class Wish:
    """The filters of an address: their fields as the form has them, and what they mean."""

    fields: dict[str, str]
    filter: EventFilter

    def query(self, **more: str) -> str:
        """The address of the page with these filters and `more`."""
        return urlencode({name: value for name, value in (self.fields | more).items() if value})


def read_wish(query: Callable[[str], str]) -> Wish:
    """The filters in the address; a value that means nothing counts as absent."""
    names = ("agent", "account", "tool", "outcome", "from", "to", "zone")
    fields = {name: query(name)[:_FIELD_LIMIT] for name in names}
    zone = _zone(fields["zone"])
    since, until = _midnight(fields["from"], zone), _midnight(fields["to"], zone, later=1)
    fields["from"] = fields["from"] if since is not None else ""
    fields["to"] = fields["to"] if until is not None else ""
    fields["outcome"] = fields["outcome"] if fields["outcome"] in OUTCOMES else ""
    fields["tool"] = fields["tool"].strip()
    fields["zone"] = fields["zone"] if fields["from"] or fields["to"] else ""
    wanted = EventFilter(fields["agent"], fields["account"], fields["tool"], fields["outcome"], since, until)
    return Wish(fields, wanted)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def _midnight(day: str, zone: tzinfo, *, later: int = 0) -> int | None:
    """When an ISO date begins in a zone, or the day `later` days after it; None for anything else."""
    try:
        begins = datetime.combine(date.fromisoformat(day) + timedelta(days=later), datetime.min.time(), zone)
        return int(begins.timestamp())
    except (ValueError, OverflowError):
        return None


def _number(value: str) -> int | None:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None


async def show(visit: OwnVisit) -> Response:
    """One page of the story."""
    wish, before = read_wish(visit.visit.query), _number(visit.visit.query("before"))
    database, user_id = visit.deployment.database, visit.user.id
    found = await search.search(database, user_id, wish.filter, limit=PAGE_SIZE, before=before)
    owned = await connections.list_connections(database, user_id, include_ended=True)
    own = await clients.list_own(database, user_id, now=visit.deployment.now())
    names = await agent_names(visit.deployment, found.events) | {one.id: one.name or one.id for one in own}
    teller = Storyteller(visit.deployment, agents=names, accounts={one.id: one for one in owned})
    providers = {one.provider for one in owned}
    context: dict[str, object] = {
        "rows": teller.rows(found.events),
        "agents": sorted(names.items(), key=lambda item: item[1].casefold()),
        "accounts": [
            one for one in owned if one.state is not ConnectionState.REVOKED or one.id == wish.filter.connection_id
        ],
        "titles": {one: spec.title for one in providers if (spec := visit.deployment.catalog.get(one)) is not None},
        "tools": sorted(one.name for one in visit.deployment.tools if one.provider in providers),
        "outcomes": OUTCOMES,
        "fields": wish.fields,
        "is_filtered": any(value for name, value in wish.fields.items() if name != "zone"),
        "older": "" if found.before is None else f"/activity?{wish.query(before=str(found.before))}",
        "newest": f"/activity?{wish.query()}".rstrip("?"),
        "exports": [(kind, f"/activity/export?{wish.query(format=kind)}") for kind in ("csv", "jsonl")],
        "is_first": before is None,
        "is_cut": found.before is not None and len(found.events) < PAGE_SIZE,
        "live": _live(wish, found.events) if before is None else "",
    }
    return visit.page("activity.html", context)


def _live(wish: Wish, events: Sequence[Event], *, after: int = 0) -> str:
    """Where the script asks for what happened since."""
    newest = max((event.sequence for event in events), default=after)
    return f"/activity/new?{wish.query(after=str(newest))}"


async def show_new(visit: OwnVisit) -> Response:
    """The events since `after`, as rows for the page that is open; the next address to ask is among them."""
    wish, after = read_wish(visit.visit.query), _number(visit.visit.query("after")) or 0
    found = await search.search(visit.deployment.database, visit.user.id, wish.filter, limit=_NEW, after=after)
    rows = await _tell(visit, found.events)
    live = _live(wish, found.events, after=after)
    return visit.page("activity_new.html", {"rows": rows, "live": live, "number": len(found.events)})


async def _tell(visit: OwnVisit, events: Sequence[Event]) -> list[StoryRow]:
    owned = await connections.list_connections(visit.deployment.database, visit.user.id, include_ended=True)
    names = await agent_names(visit.deployment, events)
    return Storyteller(visit.deployment, agents=names, accounts={one.id: one for one in owned}).rows(events)


async def recent_rows(
    visit: OwnVisit, *, client_id: str = "", connection_id: str = "", limit: int = _SHORT
) -> list[StoryRow]:
    """The last events of one agent or account, or of all, as rows."""
    wanted = EventFilter(client_id=client_id, connection_id=connection_id)
    found = await search.search(visit.deployment.database, visit.user.id, wanted, limit=limit)
    return await _tell(visit, found.events)


# Export


async def export(visit: OwnVisit) -> Response:
    """All events that the filters find, newest first, as CSV or as lines of JSON; written while it is read."""
    wish, kind = read_wish(visit.visit.query), visit.visit.query("format")
    if kind not in _WRITERS:
        raise PageRefused("export_format")
    media_type, write = _WRITERS[kind]
    day = datetime.fromtimestamp(visit.deployment.now(), UTC).strftime("%Y-%m-%d")
    response = pages.secure(StreamingResponse(_write_export(visit, wish, write), media_type=media_type))
    response.headers["content-disposition"] = f'attachment; filename="activity-{day}.{kind}"'
    return response


async def _write_export(
    visit: OwnVisit, wish: Wish, write: Callable[[Sequence[list[str]]], str]
) -> AsyncGenerator[str]:
    owned = await connections.list_connections(visit.deployment.database, visit.user.id, include_ended=True)
    accounts = {one.id: one for one in owned}
    names: dict[str, str] = {}
    before: int | None = None
    if write is _csv:
        yield write([list(_COLUMNS)])
    while True:
        found = await search.search(
            visit.deployment.database, visit.user.id, wish.filter, limit=EXPORT_BATCH, before=before
        )
        names |= await agent_names(visit.deployment, [one for one in found.events if one.client_id not in names])
        if found.events:
            yield write([_cells(event, names=names, accounts=accounts) for event in found.events])
        before = found.before
        if before is None:
            return


def _cells(event: Event, *, names: dict[str, str], accounts: dict[str, Connection]) -> list[str]:
    account = accounts.get(event.connection_id or "")
    return [
        datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        event.kind,
        event.outcome,
        names.get(event.client_id or "", ""),
        event.client_id or "",
        "" if account is None else account.label,
        event.connection_id or "",
        audit.format_details(event.details),
    ]


def _csv(rows: Sequence[list[str]]) -> str:
    """RFC 4180. A cell that a spreadsheet would run as a formula gets an apostrophe in front."""
    written = io.StringIO()
    csv.writer(written).writerows([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in row] for row in rows)
    return written.getvalue()


def _json_lines(rows: Sequence[list[str]]) -> str:
    lines: list[str] = []
    for row in rows:
        named: dict[str, object] = {name: cell or None for name, cell in zip(_COLUMNS, row, strict=True)}
        named["details"] = json.loads(row[-1])
        lines.append(json.dumps(named, ensure_ascii=False) + "\n")
    return "".join(lines)


_WRITERS: Final = {"csv": ("text/csv; charset=utf-8", _csv), "jsonl": ("application/jsonl", _json_lines)}

"""The activity page: newest events first, filtered by the address, live, and as a file.

Shows the person's own events; `server.portal.administration.activity` shows administrators everyone's.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.responses import Response, StreamingResponse

from server.deployment import Deployment
from server.http import pages
from server.http.csv_files import csv_lines
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from server.portal.story import StoryRow, Storyteller, agent_names, people_of
from vault import clients, connections
from vault.audit import audit, search
from vault.audit.search import OUTCOMES, EventFilter, FoundEvents
from vault.records import Connection, ConnectionState, Event

PAGE_SIZE: Final = 50
EXPORT_BATCH: Final = 500  # events per read of an export
_NEW: Final = 100  # events returned by one check for new ones
_SHORT: Final = 8  # events on another page
_LOOK_BACK: Final = 300  # events that are searched for one page
_FIELD_LIMIT: Final = 200  # characters of a filter
_COLUMNS: Final = ("time", "event", "outcome", "agent", "agent_id", "account", "connection_id", "details")
_OF_PEOPLE: Final = ("person", "person_id")


@dataclass(frozen=True, slots=True)
class ActivityFilters:
    """The filters of an address: their fields as the form has them, and what they mean."""

    fields: dict[str, str]
    filter: EventFilter

    def query(self, **more: str) -> str:
        """The address of the page with these filters and `more`."""
        return urlencode({name: value for name, value in (self.fields | more).items() if value})


def read_filters(query: Callable[[str], str]) -> ActivityFilters:
    """The filters in the address; an invalid value counts as absent."""
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
    return ActivityFilters(fields, wanted)


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


def place_in(value: str) -> int | None:
    """A place in the activity, from an address."""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None


@dataclass(frozen=True, slots=True)
class Feed:
    """The events of one person, or of everyone (`user_id` None), and the page at `path` that shows them.

    `accounts`: by ID. `names_people`: the page is for an administrator, so each row names the person.
    """

    deployment: Deployment
    path: str
    user_id: str | None
    accounts: Mapping[str, Connection] = field(default_factory=dict[str, Connection])
    names_people: bool = False

    async def find(
        self, filters: ActivityFilters, *, limit: int, before: int | None = None, after: int = 0
    ) -> FoundEvents:
        """The events that the filters find."""
        reader = self.deployment.database
        return await search.search(reader, self.user_id, filters.filter, limit=limit, before=before, after=after)

    async def tell(self, events: Sequence[Event]) -> list[StoryRow]:
        """Their rows."""
        names = await agent_names(self.deployment, events)
        people = await people_of(self.deployment, events) if self.names_people else None
        return Storyteller(self.deployment, agents=names, accounts=self.accounts, people=people).rows(events)

    def live(self, filters: ActivityFilters, events: Sequence[Event], *, after: int = 0) -> str:
        """Where the script asks for what happened since."""
        newest = max((event.sequence for event in events), default=after)
        return f"{self.path}/new?{filters.query(after=str(newest))}"

    def page(self, filters: ActivityFilters, found: FoundEvents, *, before: int | None) -> dict[str, object]:
        """What every such page shows around its rows."""
        return {
            "path": self.path,
            "outcomes": OUTCOMES,
            "fields": filters.fields,
            "is_filtered": any(value for name, value in filters.fields.items() if name != "zone"),
            "older": "" if found.before is None else f"{self.path}?{filters.query(before=str(found.before))}",
            "newest": f"{self.path}?{filters.query()}".rstrip("?"),
            "exports": [(kind, f"{self.path}/export?{filters.query(format=kind)}") for kind in _WRITERS],
            "is_first": before is None,
            "is_cut": found.before is not None and len(found.events) < PAGE_SIZE,
            "live": self.live(filters, found.events) if before is None else "",
        }


async def own_feed(visit: OwnVisit) -> Feed:
    """The person's own events."""
    owned = await connections.list_connections(visit.deployment.database, visit.user.id, include_ended=True)
    return Feed(visit.deployment, "/activity", visit.user.id, {one.id: one for one in owned})


async def show(visit: OwnVisit) -> Response:
    """One page of events."""
    filters, before = read_filters(visit.visit.query), place_in(visit.visit.query("before"))
    deployment, feed = visit.deployment, await own_feed(visit)
    found = await feed.find(filters, limit=PAGE_SIZE, before=before)
    own = await clients.list_own(deployment.database, visit.user.id, now=deployment.now())
    names = await agent_names(deployment, found.events) | {one.id: one.name or one.id for one in own}
    owned = feed.accounts.values()
    providers = {one.provider for one in owned}
    context: dict[str, object] = feed.page(filters, found, before=before) | {
        "rows": Storyteller(deployment, agents=names, accounts=feed.accounts).rows(found.events),
        "agents": sorted(names.items(), key=lambda item: item[1].casefold()),
        "accounts": [
            one for one in owned if one.state is not ConnectionState.REVOKED or one.id == filters.filter.connection_id
        ],
        "titles": {one: spec.title for one in providers if (spec := deployment.catalog.get(one)) is not None},
        "tools": sorted(one.name for one in deployment.tools if one.provider in providers),
    }
    return visit.page("activity.html", context)


async def show_new(visit: OwnVisit) -> Response:
    """The events since `after`, as rows for the open page, with the next address to request."""
    return visit.page("activity_new.html", await news(await own_feed(visit), read_filters(visit.visit.query), visit))


async def news(feed: Feed, filters: ActivityFilters, visit: OwnVisit) -> dict[str, object]:
    """What happened since the request's `after`."""
    after = place_in(visit.visit.query("after")) or 0
    found = await feed.find(filters, limit=_NEW, after=after)
    rows, live = await feed.tell(found.events), feed.live(filters, found.events, after=after)
    return {"rows": rows, "live": live, "number": len(found.events)}


async def recent_rows(
    visit: OwnVisit, *, client_id: str = "", connection_id: str = "", limit: int = _SHORT
) -> list[StoryRow]:
    """The last events of one agent or account, or of all, as rows."""
    reader, user_id = visit.deployment.database, visit.user.id
    wanted = EventFilter(client_id=client_id, connection_id=connection_id)
    events = (await search.search(reader, user_id, wanted, limit=limit)).events
    accounts = {one.id: one for one in visit.needs.owned}
    for ended in {event.connection_id for event in events if event.connection_id is not None} - accounts.keys():
        account = await connections.get_connection(reader, ended, user_id=user_id)
        accounts |= {} if account is None else {ended: account}
    return await Feed(visit.deployment, "/activity", user_id, accounts).tell(events)


# Export


async def export(visit: OwnVisit) -> Response:
    """All events that match the filters, newest first, as CSV or JSON lines; streamed."""
    return export_of(await own_feed(visit), read_filters(visit.visit.query), kind=visit.visit.query("format"))


def export_of(feed: Feed, filters: ActivityFilters, *, kind: str) -> Response:
    """The file with what these filters find. Raises PageRefused for an unknown kind."""
    if kind not in _WRITERS:
        raise PageRefused("export_format")
    media_type, write = _WRITERS[kind]
    day = datetime.fromtimestamp(feed.deployment.now(), UTC).strftime("%Y-%m-%d")
    response = pages.secure(StreamingResponse(_write_export(feed, filters, write), media_type=media_type))
    response.headers["content-disposition"] = f'attachment; filename="activity-{day}.{kind}"'
    return response


async def _write_export(feed: Feed, filters: ActivityFilters, write: _Write) -> AsyncGenerator[str]:
    columns = (*_COLUMNS, *_OF_PEOPLE) if feed.names_people else _COLUMNS
    names: dict[str, str] = {}
    before: int | None = None
    if write is _csv:
        yield write(columns, [list(columns)])
    while True:
        found = await feed.find(filters, limit=EXPORT_BATCH, before=before)
        names |= await agent_names(feed.deployment, [one for one in found.events if one.client_id not in names])
        people = await people_of(feed.deployment, found.events) if feed.names_people else {}
        if found.events:
            yield write(
                columns,
                [
                    _cells(event, names=names, accounts=feed.accounts)
                    + ([people.get(event.user_id or "", ("", ""))[0], event.user_id or ""] if feed.names_people else [])
                    for event in found.events
                ],
            )
        before = found.before
        if before is None:
            return


def _cells(event: Event, *, names: Mapping[str, str], accounts: Mapping[str, Connection]) -> list[str]:
    account = accounts.get(event.connection_id or "")
    return [
        datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        event.kind,
        event.outcome,
        names.get(event.client_id or "", ""),
        event.client_id or "",
        str(event.details.get("account", "")) if account is None else account.label,
        event.connection_id or "",
        audit.format_details(event.details),
    ]


def _csv(_columns: Sequence[str], rows: Sequence[list[str]]) -> str:
    return csv_lines(rows)


def _json_lines(columns: Sequence[str], rows: Sequence[list[str]]) -> str:
    lines: list[str] = []
    for row in rows:
        named: dict[str, object] = {name: cell or None for name, cell in zip(columns, row, strict=True)}
        named["details"] = json.loads(row[columns.index("details")])
        lines.append(json.dumps(named, ensure_ascii=False) + "\n")
    return "".join(lines)


_Write = Callable[[Sequence[str], Sequence[list[str]]], str]
_WRITERS: Final[Mapping[str, tuple[str, _Write]]] = {
    "csv": ("text/csv; charset=utf-8", _csv),
    "jsonl": ("application/jsonl", _json_lines),
}

"""Everyone's activity in the Admin API: filtered, in pages or as a file, and with proofs of its events.

Agents, accounts, kinds, and outcomes are searched for in a limited number of events at a time; the cursor marks where
to continue.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from pydantic import Field
from starlette.responses import Response, StreamingResponse

from server.api.models import EventRecord, EventsFilter, EventsPage, EventsQuery, ExportQuery
from server.api.operations import (
    AdminCall,
    ApiOutput,
    Instant,
    instant,
    instant_of,
    operation,
    read_cursor,
    write_cursor,
)
from server.api.problems import ApiRefused, FieldProblem
from server.deployment import Deployment
from server.http.answers import SECRET, TEXT, WholeAnswer
from server.http.csv_files import csv_lines
from vault.audit import audit
from vault.records import Event

EXAMINED: Final = 5000  # events that one request reads at most
_BATCH: Final = 500
_COLUMNS: Final = ("sequence", "at", "kind", "outcome", "person_id", "client_id", "connection_id", "details")


@dataclass(frozen=True, slots=True)
class _Filter:
    """The filters, with instants as numbers; `until` is exclusive."""

    filter: EventsFilter
    since: int
    until: int

    def finds(self, event: Event) -> bool:
        wanted = self.filter
        return (
            self.since <= event.at < self.until
            and (not wanted.agent or event.client_id == wanted.agent)
            and (not wanted.connection or event.connection_id == wanted.connection)
            and (not wanted.kind or event.kind == wanted.kind)
            and (not wanted.outcome or event.outcome == wanted.outcome)
        )


@operation("GET", "/activity", scope="admin:read")
async def list_events(call: AdminCall, query: EventsQuery) -> EventsPage:
    """List what people and agents did, newest first."""
    place = read_cursor(query.cursor, int)
    wanted, before = _read_filter(query), None if place is None else int(place[0])
    found, rest = await _read(call.deployment, wanted, before=before, limit=query.limit)
    cursor = None if rest is None else write_cursor(rest)
    return EventsPage(items=[event_record(one) for one in found], next_cursor=cursor)


@operation("GET", "/activity/export", scope="admin:read", media_types=["application/jsonl", "text/csv"])
async def export_events(call: AdminCall, query: ExportQuery) -> Response:
    """Export the activity as JSON lines or CSV, newest first. It is streamed."""
    wanted = _read_filter(query)
    media_type = "text/csv; charset=utf-8" if query.format == "csv" else "application/jsonl"
    day = datetime.fromtimestamp(call.deployment.now(), UTC).strftime("%Y-%m-%d")
    headers = {name.decode(): value.decode() for name, value in SECRET}
    headers["content-disposition"] = f'attachment; filename="activity-{day}.{query.format}"'
    lines = _write(call.deployment, wanted, is_csv=query.format == "csv")
    return StreamingResponse(lines, media_type=media_type, headers=headers)


class LogKeyRecord(ApiOutput):
    """A public key of the log over the activity."""

    key: str = Field(description="Verifier key (C2SP signed-note): NAME+ID+KEY")
    origin: str = Field(description="The log's name, the first line of its checkpoints")
    signs: bool = Field(description="Whether it signs now")
    active_at: Instant
    retired_at: Instant | None


class LogKeys(ApiOutput):
    """The public keys of the log over the activity."""

    items: list[LogKeyRecord]


@operation(
    "GET",
    "/activity/{sequence}/proof",
    scope="admin:read",
    refusals=["conflict", "gone"],
    media_types=["text/plain"],
)
async def get_event_proof(call: AdminCall) -> Response:
    """Get the proof (C2SP tlog-proof) that an event is in the signed activity.

    Anyone can check it with a key of the log from another source. It is in the newest signed checkpoint; this request
    signs none, so a new event must wait for the next checkpoint (409 with Retry-After).
    """
    from server.checkpoints.event_proofs import prove_event  # imported here: few need it

    proof = await prove_event(call.deployment, int(call.param("sequence")))
    name = f'attachment; filename="{proof.sequence}.tlog-proof"'.encode()
    return WholeAnswer(HTTPStatus.OK, [TEXT, *SECRET, (b"content-disposition", name)], proof.text.encode())


@operation("GET", "/activity/checkpoint", scope="admin:read", refusals=["not_found"], media_types=["text/plain"])
async def get_checkpoint(call: AdminCall) -> Response:
    """Get the newest signed checkpoint of the activity (C2SP tlog-checkpoint).

    Keep it elsewhere: `token-vault activity verify --checkpoint` then finds events that were changed or removed.
    """
    from server.checkpoints.event_proofs import newest_checkpoint  # imported here: few need it

    issued = await newest_checkpoint(call.deployment)
    return WholeAnswer(HTTPStatus.OK, [TEXT, *SECRET], str(issued.note).encode())


@operation("GET", "/activity/keys", scope="admin:read")
async def list_activity_keys(call: AdminCall) -> LogKeys:
    """List the public keys of the log over the activity.

    Whoever checks proofs must get a key from someone they trust, beforehand: a vault that forges its activity also
    forges this list.
    """
    from server.checkpoints.event_proofs import list_keys  # imported here: few need it

    return LogKeys(
        items=[
            LogKeyRecord(
                key=str(one.key.verifier),
                origin=one.origin,
                signs=one.signs,
                active_at=instant_of(one.key.active_at),
                retired_at=instant(one.key.retired_at),
            )
            for one in await list_keys(call.deployment)
        ]
    )


def event_record(event: Event) -> EventRecord:
    """An event as JSON."""
    return EventRecord(
        sequence=event.sequence,
        at=instant_of(event.at),
        kind=event.kind,
        outcome=event.outcome,
        person_id=event.user_id,
        client_id=event.client_id,
        connection_id=event.connection_id,
        details=dict(event.details),
    )


def _read_filter(query: EventsFilter) -> _Filter:
    since, until = _instant(query.since, "since"), _instant(query.until, "until")
    return _Filter(query, since or 0, 2**62 if until is None else until)


def _instant(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        problem = FieldProblem(pointer=name, message="use a date such as 2026-11-30, or 2026-11-30T18:00:00Z")
        raise ApiRefused("invalid_request", "The query has a wrong value.", errors=[problem]) from error


async def _read(
    deployment: Deployment, wanted: _Filter, *, before: int | None, limit: int
) -> tuple[list[Event], int | None]:
    """At most `limit` matching events, and where to search for older ones; None at the end."""
    found: list[Event] = []
    for _ in range(EXAMINED // _BATCH):
        some = await audit.list_events(
            deployment.database,
            user_id=wanted.filter.person or None,
            before=before,
            limit=_BATCH,
            newest_first=True,
        )
        for event in some:
            if wanted.finds(event):
                if len(found) == limit:
                    return found, found[-1].sequence
                found.append(event)
        if len(some) < _BATCH or some[-1].at < wanted.since:
            return found, None
        before = some[-1].sequence
    return found, before


async def _write(deployment: Deployment, wanted: _Filter, *, is_csv: bool) -> AsyncGenerator[str]:
    before: int | None = None
    if is_csv:
        yield csv_lines([_COLUMNS])
    while True:
        found, before = await _read(deployment, wanted, before=before, limit=_BATCH)
        if is_csv:
            yield csv_lines(_cells(event) for event in found)
        else:
            yield "".join(event_record(event).model_dump_json() + "\n" for event in found)
        if before is None:
            return


def _cells(event: Event) -> list[str]:
    facts = event_record(event)
    cells = [str(getattr(facts, name) if getattr(facts, name) is not None else "") for name in _COLUMNS[:-1]]
    return [*cells, audit.format_details(event.details)]


OPERATIONS = (list_events, export_events, get_event_proof, get_checkpoint, list_activity_keys)

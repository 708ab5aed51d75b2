"""What each Calendar v3 method of the Google face does, and its scopes, any one of which is enough.

The accepted scopes are those of Google's discovery document, without partial views (free/busy, public, app-created).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.google.caller import CALENDAR, GoogleCaller, GoogleRefused, Method, parse_moment
from providers.simulator.state.calendars import Calendar, SimulatedEvent, new_event_id, zone

_READ_EVENTS = frozenset(
    CALENDAR + suffix
    for suffix in ("", ".readonly", ".events", ".events.readonly", ".events.owned", ".events.owned.readonly")
)
_WRITE_EVENTS = frozenset(CALENDAR + suffix for suffix in ("", ".events", ".events.owned"))
_READ_LIST = frozenset(CALENDAR + suffix for suffix in ("", ".readonly", ".calendarlist", ".calendarlist.readonly"))
_READ_CALENDAR = frozenset(CALENDAR + suffix for suffix in ("", ".readonly", ".calendars", ".calendars.readonly"))
_FREE_BUSY = frozenset(CALENDAR + suffix for suffix in ("", ".readonly", ".freebusy", ".events.freebusy"))
_HORIZON = timedelta(weeks=8)  # how far a weekly event is expanded without timeMax
_FREE_TEXT = (
    "description",
    "location",
    "attendees",
    "reminders",
    "recurrence",
    "visibility",
    "transparency",
    "colorId",
)


def _list_entry(caller: GoogleCaller, calendar: Calendar) -> dict[str, JsonValue]:
    return {
        "kind": "calendar#calendarListEntry",
        "etag": '"1"',
        "id": calendar.id,
        "summary": calendar.summary,
        "timeZone": calendar.time_zone,
        "accessRole": calendar.roles[caller.person.email],
        "selected": True,
        **({"primary": True} if calendar.id == caller.person.email else {}),
    }


def _get_list_entry(caller: GoogleCaller) -> Response:
    return JSONResponse(_list_entry(caller, caller.calendar()))


def _calendar_list(caller: GoogleCaller) -> Response:
    items: list[JsonValue] = [
        _list_entry(caller, calendar) for calendar in caller.calendars.for_account(caller.person.email)
    ]
    page, following = caller.page(items, default=100, largest=250)
    return JSONResponse({"kind": "calendar#calendarList", "items": page, **_next(following)})


def _get_calendar(caller: GoogleCaller) -> Response:
    calendar = caller.calendar()
    return JSONResponse(
        {
            "kind": "calendar#calendar",
            "etag": '"1"',
            "id": calendar.id,
            "summary": calendar.summary,
            "timeZone": calendar.time_zone,
        }
    )


def _list_events(caller: GoogleCaller) -> Response:
    calendar = caller.calendar()
    begin, end = caller.moment("timeMin"), caller.moment("timeMax")
    single, order = caller.flag("singleEvents"), caller.query.get("orderBy")
    if begin is not None and end is not None and end <= begin:
        raise GoogleRefused(400, "timeRangeEmpty", "The specified time range is empty.")
    if order not in {None, "startTime", "updated"} or (order == "startTime" and not single):
        raise GoogleRefused(400, "badRequest", "The requested ordering is not available for the particular query.")
    if "syncToken" in caller.query:
        raise GoogleRefused(410, "fullSyncRequired", "Sync token is no longer valid, a full sync is required.")
    words = caller.query.get("q", "").lower()
    found = [
        (event, start)
        for event, start in _occurrences(calendar, single=single, now=caller.now, end=end)
        if (caller.flag("showDeleted") or event.status != "cancelled")
        and (begin is None or start + (event.end - event.start) > begin)
        and (end is None or start < end)
        and words in f"{event.summary} {event.extra.get('description', '')} {event.extra.get('location', '')}".lower()
    ]
    found.sort(key=lambda pair: pair[0].updated if order == "updated" else pair[1])
    items: list[JsonValue] = [event_body(calendar, event, start=start, single=single) for event, start in found]
    page, following = caller.page(items, default=250, largest=2500)
    tail = {"nextSyncToken": f"sync-{int(caller.now)}"} if following is None else _next(following)
    return JSONResponse(
        {
            "kind": "calendar#events",
            "etag": '"1"',
            "summary": calendar.summary,
            "timeZone": calendar.time_zone,
            "accessRole": calendar.roles[caller.person.email],
            "updated": datetime.fromtimestamp(caller.now, UTC).isoformat().replace("+00:00", "Z"),
            "items": page,
            **tail,
        }
    )


def _get_event(caller: GoogleCaller) -> Response:
    calendar = caller.calendar()
    event = _event(caller, calendar)
    return JSONResponse(event_body(calendar, event, start=event.start, single=False))


def _insert_event(caller: GoogleCaller) -> Response:
    calendar, body = caller.calendar(writes=True), caller.body
    start, end, zone_name, all_day = _times(body, calendar)
    wanted = body.get("id")
    identifier = wanted if isinstance(wanted, str) and wanted else new_event_id()
    if identifier in calendar.events:
        raise GoogleRefused(409, "duplicate", "The requested identifier already exists.")
    stamp = datetime.fromtimestamp(caller.now, UTC)
    summary = body.get("summary")
    event = SimulatedEvent(
        identifier,
        summary if isinstance(summary, str) else "",
        start,
        end,
        zone_name,
        caller.person.email,
        all_day=all_day,
        created=stamp,
        updated=stamp,
        extra={name: body[name] for name in _FREE_TEXT if name in body},
    )
    calendar.events[identifier] = event
    answer = event_body(calendar, event, start=start, single=False)
    caller.write(
        "events",
        caller.now,
        calendar=calendar.id,
        event_id=identifier,
        summary=event.summary,
        start=start.isoformat(),
        end=end.isoformat(),
        account=caller.person.name,
        token_family=caller.token.family.label,
        body=dict(body),
    )
    return JSONResponse(answer)


def _patch_event(caller: GoogleCaller) -> Response:
    calendar, body = caller.calendar(writes=True), caller.body
    event = _event(caller, calendar)
    if "start" in body or "end" in body:
        event.start, event.end, event.time_zone, event.all_day = _times(body, calendar)
    summary = body.get("summary")
    event.summary = summary if isinstance(summary, str) else event.summary
    event.extra.update({name: body[name] for name in _FREE_TEXT if name in body})
    event.sequence += 1
    event.updated = datetime.fromtimestamp(caller.now, UTC)
    return JSONResponse(event_body(calendar, event, start=event.start, single=False))


def _delete_event(caller: GoogleCaller) -> Response:
    calendar = caller.calendar(writes=True)
    event = _event(caller, calendar)
    if event.status == "cancelled":
        raise GoogleRefused(410, "deleted", "Resource has been deleted")
    event.status = "cancelled"
    return Response(status_code=204)


def _free_busy(caller: GoogleCaller) -> Response:
    begin, end = (_body_moment(caller, name) for name in ("timeMin", "timeMax"))
    wanted = caller.body.get("items")
    busy: dict[str, JsonValue] = {}
    for item in wanted if isinstance(wanted, list) else []:
        identifier = str(item.get("id")) if isinstance(item, dict) else ""
        calendar = caller.calendars.find(caller.person.email, identifier)
        if calendar is None:
            busy[identifier] = {"errors": [{"domain": "global", "reason": "notFound"}], "busy": []}
            continue
        busy[identifier] = {
            "busy": [
                {"start": start.isoformat(), "end": (start + (event.end - event.start)).isoformat()}
                for event, start in _occurrences(calendar, single=True, now=caller.now, end=end)
                if event.status != "cancelled" and start < end and start + (event.end - event.start) > begin
            ]
        }
    return JSONResponse(
        {"kind": "calendar#freeBusy", "timeMin": begin.isoformat(), "timeMax": end.isoformat(), "calendars": busy}
    )


def event_body(calendar: Calendar, event: SimulatedEvent, *, start: datetime, single: bool) -> dict[str, JsonValue]:
    """An event, or one occurrence of it, as Google shows it."""
    end = start + (event.end - event.start)
    instance = single and event.weekly
    identifier = f"{event.id}_{start.astimezone(UTC):%Y%m%dT%H%M%SZ}" if instance else event.id
    body: dict[str, JsonValue] = {
        "kind": "calendar#event",
        "etag": f'"{hashlib.sha256(f"{event.id}{event.sequence}{event.status}".encode()).hexdigest()[:16]}"',
        "id": identifier,
        "status": event.status,
        "htmlLink": f"https://calendar.example.com/event?eid={identifier}",
        "created": event.created.isoformat().replace("+00:00", "Z"),
        "updated": event.updated.isoformat().replace("+00:00", "Z"),
        "creator": {"email": event.creator},
        "organizer": {"email": calendar.id},
        "start": _time(event, start),
        "end": _time(event, end),
        "iCalUID": f"{event.id}@google.com",
        "sequence": event.sequence,
        "eventType": "default",
        **event.extra,
    }
    if event.summary:
        body["summary"] = event.summary
    if instance:
        body.update(recurringEventId=event.id, originalStartTime=_time(event, start))
    elif event.weekly:
        body["recurrence"] = ["RRULE:FREQ=WEEKLY"]
    return body


def _time(event: SimulatedEvent, moment: datetime) -> dict[str, JsonValue]:
    if event.all_day:
        return {"date": moment.date().isoformat()}
    return {"dateTime": moment.isoformat(), "timeZone": event.time_zone}


def _occurrences(
    calendar: Calendar, *, single: bool, now: float, end: datetime | None
) -> list[tuple[SimulatedEvent, datetime]]:
    last = end or datetime.fromtimestamp(now, UTC) + _HORIZON
    found: list[tuple[SimulatedEvent, datetime]] = []
    for event in calendar.events.values():
        found.append((event, event.start))
        following = event.start + timedelta(weeks=1)
        while single and event.weekly and following < last:
            found.append((event, following))
            following += timedelta(weeks=1)
    return found


def _event(caller: GoogleCaller, calendar: Calendar) -> SimulatedEvent:
    event = calendar.events.get(caller.path["event"].partition("_")[0])
    if event is None:
        raise GoogleRefused(404, "notFound", "Not Found")
    return event


def _times(body: object, calendar: Calendar) -> tuple[datetime, datetime, str, bool]:
    start, start_zone, all_day = _boundary(body, "start", calendar)
    end, _, end_all_day = _boundary(body, "end", calendar)
    if all_day != end_all_day:
        raise GoogleRefused(400, "invalid", "Start and end times must either both be date or both be dateTime.")
    if end < start or (all_day and end == start):
        raise GoogleRefused(400, "timeRangeEmpty", "The specified time range is empty.")
    return start, end, start_zone, all_day


def _boundary(body: object, name: str, calendar: Calendar) -> tuple[datetime, str, bool]:
    """One end of an event: `date`, or `dateTime` that names its offset or comes with a `timeZone`."""
    given = body.get(name) if isinstance(body, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(given, dict):
        raise GoogleRefused(400, "required", f"Missing {name} time.")
    day, text, zone_name = given.get("date"), given.get("dateTime"), given.get("timeZone")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    place = zone(zone_name) if isinstance(zone_name, str) else None
    if zone_name is not None and place is None:
        raise GoogleRefused(400, "invalid", f"Invalid time zone definition for {name} time.")
    if isinstance(day, str) and text is None:
        try:
            return datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC), calendar.time_zone, True
        except ValueError:
            raise GoogleRefused(400, "invalid", f"Invalid value for: {name}.date") from None
    moment = parse_moment(text) if isinstance(text, str) else None
    if moment is None:
        raise GoogleRefused(400, "required", f"Missing {name} time.")
    if moment.tzinfo is None:
        if place is None:
            raise GoogleRefused(400, "required", f"Missing time zone definition for {name} time.")
        moment = moment.replace(tzinfo=place)
    return moment, zone_name if isinstance(zone_name, str) else calendar.time_zone, False


def _body_moment(caller: GoogleCaller, name: str) -> datetime:
    value = caller.body.get(name)
    moment = parse_moment(value) if isinstance(value, str) else None
    if moment is None or moment.tzinfo is None:
        raise GoogleRefused(400, "required", f"Missing {name}.")
    return moment


def _next(token: str | None) -> dict[str, JsonValue]:
    return {} if token is None else {"nextPageToken": token}


CALENDAR_LIST = Method("CalendarList.List", _READ_LIST, _calendar_list)
GET_LIST_ENTRY = Method("CalendarList.Get", _READ_LIST, _get_list_entry)
GET_CALENDAR = Method("Calendars.Get", _READ_CALENDAR, _get_calendar)
LIST_EVENTS = Method("Events.List", _READ_EVENTS, _list_events)
GET_EVENT = Method("Events.Get", _READ_EVENTS, _get_event)
INSERT_EVENT = Method("Events.Insert", _WRITE_EVENTS, _insert_event)
PATCH_EVENT = Method("Events.Patch", _WRITE_EVENTS, _patch_event)
DELETE_EVENT = Method("Events.Delete", _WRITE_EVENTS, _delete_event)
FREE_BUSY = Method("Freebusy.Query", _FREE_BUSY, _free_busy)

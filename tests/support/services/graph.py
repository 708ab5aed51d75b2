"""Microsoft Graph (learn.microsoft.com/graph/api): mail, calendar, files of the signed-in person."""

from __future__ import annotations

from pydantic import JsonValue
from starlette.responses import Response

from tests.support.services.desk import Record, ServiceCall, page, reply, text

MESSAGE = "AAMkAGI2TG93AAA="
_MAIL: tuple[Record, ...] = (
    {"id": MESSAGE, "subject": "Budget", "from": "bob@example.com", "content": "The numbers are in."},
    {"id": "AAMkAGI2TG94AAA=", "subject": "Lunch", "from": "carol@example.com", "content": "Thursday?"},
)
_EVENTS: tuple[Record, ...] = (
    {"id": "AAMkEV1=", "subject": "Planning", "start": "2026-12-01T09:00:00", "end": "2026-12-01T10:00:00"},
)
FOLDER = "01FOLDER1"
_FILES: tuple[Record, ...] = (
    {"id": "01FILE1", "name": "report.docx", "size": 20480},
    {"id": "01FILE2", "name": "plan.xlsx", "size": 8192},
    {"id": FOLDER, "name": "Archive", "size": 4096, "folder": {"childCount": 1}},
)
_ARCHIVED: tuple[Record, ...] = ({"id": "01FILE3", "name": "minutes.txt", "size": 4096},)


def answer(visit: ServiceCall) -> Response:
    """One operation under /v1.0."""
    parts = visit.parts[1:] if visit.parts[:1] == ("v1.0",) else visit.parts
    match visit.call.method, parts:
        case "GET", ["me", "messages"]:
            words = visit.call.query.get("$search", "").strip('"').lower().split()
            mail = visit.records("graph.mail", seed=_MAIL)
            found = [one for one in mail if all(word in text(one, "subject").lower() for word in words)]
            return _list(visit, [_message(visit, one) for one in found])
        case "GET", ["me", "messages", wanted]:
            found = [one for one in visit.records("graph.mail", seed=_MAIL) if one["id"] == wanted]
            return reply(_message(visit, found[0])) if found else _not_found()
        case "POST", ["me", "messages"]:
            made: Record = {"id": "AAMkDRAFT=", "subject": text(dict(visit.body), "subject"), "from": "", "content": ""}
            visit.records("graph.mail", seed=_MAIL).append(made)
            return reply({**_message(visit, made), "isDraft": True}, status=201)
        case "POST", ["me", "sendMail"]:
            if not text(dict(visit.body), "message", "toRecipients", 0, "emailAddress", "address"):
                return _refusal("ErrorInvalidRecipients", "At least one recipient isn't valid.")
            visit.note("graph", text(dict(visit.body), "message", "subject"))
            return Response(status_code=202)
        case "GET", ["me", "calendarView"]:
            if "startDateTime" not in visit.call.query:
                return _refusal("ErrorInvalidParameter", "startDateTime is missing.")
            return _list(visit, [_event(one) for one in visit.records("graph.events", seed=_EVENTS)])
        case "POST", ["me", "events"]:
            event: Record = {
                "id": "AAMkEV2=",
                "subject": text(dict(visit.body), "subject"),
                "start": text(dict(visit.body), "start", "dateTime"),
                "end": text(dict(visit.body), "end", "dateTime"),
            }
            visit.records("graph.events", seed=_EVENTS).append(event)
            visit.note("graph", text(event, "subject"))
            return reply(_event(event), status=201)
        case "GET", ["me", "drive", "root", "children"]:
            return _list(visit, [_file(visit, one) for one in visit.records("graph.files", seed=_FILES)])
        case "GET", ["me", "drive", "items", item, "children"] if item == FOLDER:
            return _list(visit, [_file(visit, one) for one in visit.records("graph.archive", seed=_ARCHIVED)])
        case _:
            return _not_found()


def _list(visit: ServiceCall, records: list[Record]) -> Response:
    top, skip = visit.call.query.get("$top", "10"), visit.call.query.get("$skip")
    shown, _ = page(records, size=int(top) if top.isdecimal() else 10, begin=skip)
    return reply({"@odata.context": "https://graph.microsoft.com/v1.0/$metadata", "value": shown})


def _message(visit: ServiceCall, one: Record) -> Record:
    return {
        "id": one["id"],
        "subject": one["subject"],
        "from": {"emailAddress": {"address": one["from"], "name": str(one["from"]).partition("@")[0]}},
        "receivedDateTime": visit.now(),
        "bodyPreview": one["content"],
        "body": {"contentType": "text", "content": one["content"]},
        "webLink": f"https://outlook.office365.com/owa/?ItemID={one['id']}",
    }


def _event(one: Record) -> Record:
    return {
        "id": one["id"],
        "subject": one["subject"],
        "start": {"dateTime": one["start"], "timeZone": "UTC"},
        "end": {"dateTime": one["end"], "timeZone": "UTC"},
        "webLink": f"https://outlook.office365.com/calendar/item/{one['id']}",
    }


def _file(visit: ServiceCall, one: Record) -> Record:
    link = f"https://example-my.sharepoint.com/{one['name']}"
    shown: Record = {**one, "webUrl": link, "lastModifiedDateTime": visit.now()}
    return shown if "folder" in one else {**shown, "file": {}}


def _not_found() -> Response:
    return _refusal("ErrorItemNotFound", "The specified object was not found in the store.", status=404)


def _refusal(code: str, message: str, *, status: int = 400) -> Response:
    error: JsonValue = {"code": code, "message": message}
    return reply({"error": error}, status=status)

"""What each Gmail v1 method of the Google face does, and its scopes, any one of which is enough.

The accepted scopes are those of Google's discovery document. `users/me` is the only user.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import timedelta
from email.message import EmailMessage, MIMEPart

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.google.caller import GoogleCaller, GoogleRefused, Method, partial_answer
from providers.simulator.google.oauth import API, MAIL
from providers.simulator.state.mailboxes import Mail, receivers_of

METADATA = f"{API}gmail.metadata"
_READ = frozenset({MAIL, f"{API}gmail.modify", f"{API}gmail.readonly", METADATA})
_COMPOSE = frozenset({MAIL, f"{API}gmail.modify", f"{API}gmail.compose"})
_SEND = _COMPOSE | {f"{API}gmail.send"}
_FULL = _READ - {METADATA}


def _list(caller: GoogleCaller) -> Response:
    query = caller.query.get("q", "")
    if query and not caller.token.scopes & _FULL:
        raise GoogleRefused(403, "forbidden", "Metadata scope does not support 'q' parameter")
    found = [mail for mail in caller.mailboxes.of(caller.person.email) if _fits(mail, query, now=caller.now)]
    items: list[JsonValue] = [{"id": mail.id, "threadId": mail.thread_id} for mail in found]
    page, following = caller.page(items, default=100, largest=500)
    answer: dict[str, JsonValue] = {"resultSizeEstimate": len(items)}
    if page:
        answer["messages"] = page
    if following is not None:
        answer["nextPageToken"] = following
    return JSONResponse(answer)


def _fits(mail: Mail, query: str, *, now: float) -> bool:
    for word in re.findall(r'[^\s"]+:"[^"]*"|"[^"]*"|\S+', query):
        operator, colon, value = word.partition(":")
        if colon and operator in _OPERATORS:
            if not _OPERATORS[operator](mail, value.strip('"').lower(), now):
                return False
        elif word.strip('"').lower() not in f"{mail.header('Subject')} {mail.text}".lower():
            return False
    return "in:drafts" in query or mail.draft is None


def _is_newer(mail: Mail, value: str, now: float) -> bool:
    units = {"d": timedelta(days=1), "m": timedelta(days=30), "y": timedelta(days=365)}
    count, unit = value[:-1], units.get(value[-1:])
    return unit is None or not count.isdigit() or mail.at >= now - int(count) * unit.total_seconds()


_OPERATORS: dict[str, Callable[[Mail, str, float], bool]] = {
    "from": lambda mail, value, _: value in mail.header("From").lower(),
    "to": lambda mail, value, _: value in mail.header("To").lower(),
    "subject": lambda mail, value, _: value in mail.header("Subject").lower(),
    "is": lambda mail, value, _: ("UNREAD" in mail.labels) is (value == "unread"),
    "in": lambda mail, value, _: value.upper().rstrip("S") in mail.labels or value == "anywhere",
    "newer_than": _is_newer,
}


def _get(caller: GoogleCaller) -> Response:
    mail = caller.mailboxes.find(caller.person.email, caller.path["message"])
    if mail is None:
        raise GoogleRefused(404, "notFound", "Requested entity was not found.")
    form = caller.query.get("format", "full")
    if form not in {"full", "metadata", "minimal"}:
        raise GoogleRefused(400, "invalidArgument", f"Invalid value at 'format': {form}")
    if form == "full" and not caller.token.scopes & _FULL:
        raise GoogleRefused(403, "forbidden", "Metadata scope doesn't allow format FULL")
    body: dict[str, JsonValue] = {
        "id": mail.id,
        "threadId": mail.thread_id,
        "labelIds": list[JsonValue](mail.labels),
        "snippet": " ".join(re.sub(r"<[^>]+>", " ", mail.text).split())[:100],
        "historyId": "1000",
        "internalDate": str(int(mail.at * 1000)),
        "sizeEstimate": len(mail.message.as_bytes()),
    }
    if form != "minimal":
        body["payload"] = _part(mail.message, "", with_content=form == "full")
    return JSONResponse(partial_answer(body, caller.query.get("fields")))


def _part(message: MIMEPart, identifier: str, *, with_content: bool) -> dict[str, JsonValue]:
    """A part and its nested parts, as Gmail shows them: text inline, files by reference."""
    made: dict[str, JsonValue] = {
        "mimeType": message.get_content_type(),
        "headers": [{"name": name, "value": str(value)} for name, value in message.items()],
    }
    if not with_content:
        return made
    made |= {"partId": identifier, "filename": message.get_filename() or ""}
    if message.is_multipart():
        made["body"] = {"size": 0}
        parts: list[JsonValue] = []
        for number, one in enumerate(message.iter_parts()):
            parts.append(_part(one, f"{identifier}.{number}".lstrip("."), with_content=True))
        made["parts"] = parts
        return made
    content = message.get_payload(decode=True)
    data = content if isinstance(content, bytes) else b""
    body: dict[str, JsonValue] = {"size": len(data)}
    if message.get_filename():
        body["attachmentId"] = f"ANGjdJ{identifier}"
    else:
        body["data"] = base64.urlsafe_b64encode(data).decode()
    made["body"] = body
    return made


def _raw(caller: GoogleCaller, message: JsonValue) -> tuple[bytes, str | None]:
    """The message that was sent along, and its thread. Raises GoogleRefused."""
    raw = message.get("raw") if isinstance(message, dict) else None
    thread = message.get("threadId") if isinstance(message, dict) else None
    if not isinstance(raw, str):
        raise GoogleRefused(
            400,
            "invalidArgument",
            "'raw' RFC822 payload message string or uploading message via /upload/* URL required",
        )
    try:
        content = base64.b64decode(raw.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise GoogleRefused(400, "invalidArgument", "Invalid value for ByteString") from None
    if isinstance(thread, str) and all(mail.thread_id != thread for mail in caller.mailboxes.of(caller.person.email)):
        raise GoogleRefused(404, "notFound", "Requested entity was not found.")
    return content, thread if isinstance(thread, str) else None


def _draft(caller: GoogleCaller) -> Response:
    content, thread = _raw(caller, caller.body.get("message"))
    mail = caller.mailboxes.keep_draft(caller.person.email, content, thread=thread, now=caller.now)
    _note(caller, "draft", mail.message)
    return JSONResponse({"id": mail.draft, "message": _short(mail)})


def _send(caller: GoogleCaller) -> Response:
    content, thread = _raw(caller, dict(caller.body))
    mail = caller.mailboxes.send(caller.person.email, content, thread=thread, now=caller.now)
    if not receivers_of(mail.message):
        raise GoogleRefused(400, "invalidArgument", "Recipient address required")
    _note(caller, "mail", mail.message)
    return JSONResponse(_short(mail))


def _short(mail: Mail) -> dict[str, JsonValue]:
    return {"id": mail.id, "threadId": mail.thread_id, "labelIds": list[JsonValue](mail.labels)}


def _note(caller: GoogleCaller, kind: str, message: EmailMessage) -> None:
    caller.write(
        "posts",
        caller.now,
        face="google",
        kind=kind,
        user=caller.person.name,
        to=str(message.get("To", "")),
        text=str(message.get("Subject", "")),
    )


_SERVICE = "caribou.api.proto.MailboxService"
LIST_MESSAGES = Method("Messages.List", _READ, _list, "gmail", f"{_SERVICE}.ListMessages")
GET_MESSAGE = Method("Messages.Get", _READ, _get, "gmail", f"{_SERVICE}.GetMessage")
CREATE_DRAFT = Method("Drafts.Create", _COMPOSE, _draft, "gmail", f"{_SERVICE}.CreateDraft")
SEND_MESSAGE = Method("Messages.Send", _SEND, _send, "gmail", f"{_SERVICE}.SendMessage")

"""One call of a Google API method: error bodies in Google's shape, paging, parts of answers, times."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.accounts import Person
from providers.simulator.state.books import Entry
from providers.simulator.state.calendars import Calendar, Calendars, Role
from providers.simulator.state.drives import Drives
from providers.simulator.state.mailboxes import Mailboxes
from providers.simulator.state.tokens import AccessToken

CALENDAR = "https://www.googleapis.com/auth/calendar"
_HOSTS = {
    "calendar": "calendar-json.googleapis.com",
    "gmail": "gmail.googleapis.com",
    "drive": "drive.googleapis.com",
}
_TITLES = {"calendar": "Google Calendar API", "gmail": "Gmail API", "drive": "Google Drive API"}
_STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}


class GoogleRefused(Exception):
    """An error answer."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        required: frozenset[str] | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.message = message
        self.required = required  # scopes, for ACCESS_TOKEN_SCOPE_INSUFFICIENT
        self.location = location  # the parameter that is wrong

    def answer(self, method: Method) -> Response:
        """The JSON that Google's API front end sends."""
        first: dict[str, JsonValue] = {"message": self.message, "domain": "global", "reason": self.reason}
        error: dict[str, JsonValue] = {"code": self.status, "message": self.message, "errors": [first]}
        headers: dict[str, str] = {}
        if self.status in _STATUS:
            error["status"] = _STATUS[self.status]
        if self.location is not None:
            first.update(location=self.location, locationType="parameter")
        if self.status == 401:
            first.update(location="Authorization", locationType="header")
            headers["www-authenticate"] = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
        if self.required is not None:
            scopes = " ".join(sorted(self.required))
            headers["www-authenticate"] = (
                f'Bearer realm="https://accounts.google.com/", error="insufficient_scope", scope="{scopes}"'
            )
            error["details"] = [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
                    "domain": "googleapis.com",
                    "metadata": {"service": _HOSTS[method.api], "method": method.rpc or f"calendar.v3.{method.name}"},
                }
            ]
        return JSONResponse({"error": error}, status_code=self.status, headers=headers)


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its name in the discovery document, its scopes (one suffices), its function, and its API."""

    name: str
    scopes: frozenset[str]
    run: Callable[[GoogleCaller], Response]
    api: str = "calendar"
    rpc: str = ""  # its name in error answers, if different

    @property
    def fault_name(self) -> str:
        """`events.insert` for `Events.Insert`, as scripted faults name it."""
        return ".".join(part[0].lower() + part[1:] for part in self.name.split("."))

    @property
    def not_enabled(self) -> str:
        """The error if the client's project hasn't enabled this API."""
        return (
            f"{_TITLES[self.api]} has not been used in project 100000000001 before or it is disabled. Enable it by "
            f"visiting https://console.developers.google.com/apis/api/{_HOSTS[self.api]}/overview?project=100000000001 "
            "then retry."
        )


@dataclass(frozen=True, slots=True)
class GoogleCaller:
    """Who calls, with which authority, and what was sent."""

    person: Person
    token: AccessToken
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, JsonValue]
    calendars: Calendars
    mailboxes: Mailboxes
    drives: Drives
    now: float
    page_size: int
    write: Callable[..., Entry]

    def calendar(self, *, writes: bool = False) -> Calendar:
        """The calendar of the path. Raises GoogleRefused when it is not there, or not for this token or person."""
        calendar = self.calendars.find(self.person.email, self.path["calendar"])
        if calendar is None:
            raise GoogleRefused(404, "notFound", "Not Found")
        role: Role = calendar.roles[self.person.email]
        if writes and role == "reader":
            raise GoogleRefused(403, "requiredAccessLevel", "You need to have writer access to this calendar.")
        if role != "owner" and all(".owned" in scope for scope in self.token.scopes if scope.startswith(CALENDAR)):
            raise GoogleRefused(404, "notFound", "Not Found")
        return calendar

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean query parameter."""
        value = self.query.get(name)
        if value is None:
            return default
        if value.lower() not in {"true", "false"}:
            raise GoogleRefused(400, "invalidParameter", f"Invalid boolean value: '{name}'.")
        return value.lower() == "true"

    def moment(self, name: str) -> datetime | None:
        """An RFC 3339 query parameter; the offset is mandatory."""
        value = self.query.get(name)
        if value is None:
            return None
        moment = parse_moment(value)
        if moment is None or moment.tzinfo is None:
            raise GoogleRefused(400, "badRequest", "Bad Request")
        return moment

    def page(
        self, items: list[JsonValue], *, default: int, largest: int, parameter: str = "maxResults"
    ) -> tuple[list[JsonValue], str | None]:
        """One page and the next page's token; pages may be shorter than asked for. Raises GoogleRefused."""
        wanted = self.query.get(parameter, str(default))
        if not wanted.isdigit() or int(wanted) < 1:
            raise GoogleRefused(400, "invalidParameter", f"Invalid value for: {parameter}.")
        begin = _offset(self.query.get("pageToken"), self.path)
        end = begin + min(int(wanted), largest, self.page_size)
        following = _token(end, self.path) if end < len(items) else None
        return items[begin:end], following


def partial_answer(body: dict[str, JsonValue], fields: str | None) -> dict[str, JsonValue]:
    """The requested part of an answer: `id,files(id,name),payload/headers`. Raises GoogleRefused."""
    if fields is None or fields == "*":
        return body
    made: dict[str, JsonValue] = {}
    for part in re.findall(r"(?:[^,()]|\([^()]*\))+", fields):
        found = re.fullmatch(r"([A-Za-z]+)(?:\(([^()]*)\)|/(.+))?", part.strip())
        if found is None:
            raise GoogleRefused(400, "invalidParameter", f"Invalid field selection {part}", location="fields")
        name, below = found[1], found[2] or found[3]
        if name in body:
            made[name] = _below(body[name], below)
    return made


def _below(value: JsonValue, fields: str | None) -> JsonValue:
    if isinstance(value, list):
        return [_below(one, fields) for one in value]
    return partial_answer(value, fields) if isinstance(value, dict) else value


def parse_moment(value: str) -> datetime | None:
    """An RFC 3339 date-time, with or without offset."""
    try:
        return datetime.fromisoformat(value) if "T" in value else None
    except ValueError:
        return None


def _token(offset: int, path: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(f"{offset}:{path.get('calendar', '')}".encode()).decode().rstrip("=")


def _offset(token: str | None, path: Mapping[str, str]) -> int:
    """A page token is valid only for the list that issued it."""
    if token is None:
        return 0
    try:
        number, _, calendar = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise GoogleRefused(400, "invalid", "Invalid page token value.") from None
    if not number.isdigit() or calendar != path.get("calendar", ""):
        raise GoogleRefused(400, "invalid", "Invalid page token value.")
    return int(number)

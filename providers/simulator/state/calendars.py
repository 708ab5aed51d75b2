"""The sandbox's Google calendars, with events around 'now'. Keeps what is created; independent of tokens and HTTP."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import JsonValue

from providers.simulator.accounts import PEOPLE

Role = Literal["owner", "writer", "reader"]
TEAM_CALENDAR = "team-sandbox@group.calendar.example.com"
_HOLIDAYS = "holidays@group.calendar.example.com"


@dataclass(slots=True)
class SimulatedEvent:
    """An event; `weekly` events are masters that repeat forever."""

    id: str
    summary: str
    start: datetime
    end: datetime
    time_zone: str
    creator: str
    all_day: bool = False
    weekly: bool = False
    status: str = "confirmed"
    sequence: int = 0
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    extra: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])  # description, location, attendees ...


@dataclass(slots=True)
class Calendar:
    id: str
    summary: str
    time_zone: str
    roles: dict[str, Role]
    events: dict[str, SimulatedEvent] = field(default_factory=dict[str, SimulatedEvent])


def zone(name: str) -> ZoneInfo | None:
    """The time zone, or None when there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


class Calendars:
    """All calendars and who may see them."""

    def __init__(self, *, now: float) -> None:
        self._calendars: dict[str, Calendar] = {}
        for person in PEOPLE.values():
            self._add(Calendar(person.email, person.email, person.time_zone, {person.email: "owner"}))
        self._add(
            Calendar(
                TEAM_CALENDAR,
                "Team",
                "Europe/Amsterdam",
                {"alice@example.com": "owner", "bob@example.com": "reader", "carol@example.com": "writer"},
            )
        )
        self._add(Calendar(_HOLIDAYS, "Holidays", "UTC", {person.email: "reader" for person in PEOPLE.values()}))
        self._seed(now)

    def for_account(self, email: str) -> list[Calendar]:
        """The person's calendar list, primary first."""
        return [calendar for calendar in self._calendars.values() if email in calendar.roles]

    def find(self, email: str, identifier: str) -> Calendar | None:
        """A calendar that this person can see; `primary` is their own."""
        calendar = self._calendars.get(email if identifier == "primary" else identifier)
        return calendar if calendar is not None and email in calendar.roles else None

    def _add(self, calendar: Calendar) -> None:
        self._calendars[calendar.id] = calendar

    def _seed(self, now: float) -> None:
        today = datetime.fromtimestamp(now, UTC)
        plan: tuple[tuple[str, int, int, int, str], ...] = (
            ("alice@example.com", 1, 9, 30, "Design review"),
            ("alice@example.com", 1, 11, 60, "1:1 with Bob"),
            ("alice@example.com", 2, 14, 45, "Interview: backend engineer"),
            ("alice@example.com", 3, 10, 90, "Quarterly planning"),
            ("alice@example.com", 3, 16, 30, "Dentist"),
            ("alice@example.com", 4, 13, 60, "Lunch with Carol"),
            ("alice@example.com", 5, 9, 30, "Budget check"),
            ("alice@example.com", -2, 9, 30, "Retrospective"),
            ("bob@example.com", 1, 11, 60, "1:1 with Alice"),
            ("bob@example.com", 2, 15, 30, "On-call handover"),
            ("carol@example.com", 4, 13, 60, "Lunch with Alice"),
            (TEAM_CALENDAR, 2, 10, 60, "Demo day"),
            (TEAM_CALENDAR, 6, 15, 120, "Release 5.0"),
        )
        for calendar_id, days, hour, minutes, summary in plan:
            calendar = self._calendars[calendar_id]
            begin = _local(today + timedelta(days=days), hour, calendar.time_zone)
            self._put(calendar, summary, begin, begin + timedelta(minutes=minutes))
        team = self._calendars[TEAM_CALENDAR]
        standup = _local(today - timedelta(days=6), 9, team.time_zone)
        self._put(team, "Weekly stand-up", standup, standup + timedelta(minutes=15)).weekly = True
        start = _midnight((today + timedelta(days=10)).date())
        self._put(self._calendars[_HOLIDAYS], "Sandbox Day", start, start + timedelta(days=1)).all_day = True

    def put(self, email: str, summary: str, *, now: float) -> SimulatedEvent:
        """One more event in this account's own calendar, an hour long, tomorrow at this time."""
        start = datetime.fromtimestamp(now + 86400, UTC).replace(microsecond=0)
        return self._put(self._calendars[email], summary, start, start + timedelta(hours=1))

    def _put(self, calendar: Calendar, summary: str, start: datetime, end: datetime) -> SimulatedEvent:
        creator = next(email for email, role in calendar.roles.items() if role in {"owner", "reader"})
        event = SimulatedEvent(new_event_id(), summary, start, end, calendar.time_zone, creator)
        calendar.events[event.id] = event
        return event


def new_event_id() -> str:
    """An id in Google's alphabet (base32hex, lowercase)."""
    return base64.b32hexencode(secrets.token_bytes(20))[:26].decode().lower()


def _local(day: datetime, hour: int, time_zone: str) -> datetime:
    place = zone(time_zone) or UTC
    local = day.astimezone(place)
    return local.replace(hour=hour, minute=0, second=0, microsecond=0)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)

"""Google Calendar's free time: the gaps between busy times of several calendars, optionally within working hours.
Google reports when calendars are busy; this module computes the gaps, in UTC, so that an hour is an hour on days when
the clocks change. A working day begins and ends by the clock of the caller's time zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from providers.api.api import UpstreamAPI, UpstreamRefused
from providers.api.text import as_id
from providers.outbound.json_values import at, is_object, objects_at, text_at
from providers.tools.arguments import Moment, ZoneName, parse_moment
from providers.tools.presentation import Presentation
from providers.tools.spec import ToolInput, ToolOutput
from providers.tools.tool import tool

FREE_BUSY: Final = "https://www.googleapis.com/auth/calendar.freebusy"
_LONGEST: Final = timedelta(days=62)
Span = tuple[datetime, datetime]
CalendarId = Annotated[str, Field(min_length=1, max_length=254, pattern=r"^[A-Za-z0-9][A-Za-z0-9._%+#@-]*$")]
_Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)]


class FreeInput(ToolInput):
    """Arguments of calendar_free."""

    time_min: Annotated[Moment, Field(description="Begin of the search, RFC 3339 with offset")]
    time_max: Annotated[
        Moment, Field(description="End of the search, RFC 3339 with offset; at most 62 days after the start")
    ]
    minutes: Annotated[int, Field(default=30, ge=5, le=1440, description="Minimum length of the free time")]
    calendars: Annotated[
        tuple[CalendarId, ...],
        Field(
            default=("primary",),
            min_length=1,
            max_length=20,
            description="IDs of the calendars that must all be free: `primary`, or addresses of people and calendars",
        ),
    ]
    time_zone: Annotated[
        ZoneName,
        Field(
            default=None,
            description="IANA name such as Europe/Berlin, for the working hours and the times in the answer",
        ),
    ]
    work_from: Annotated[
        _Clock | None, Field(default=None, description="Only after this time of day, such as 09:00; requires time_zone")
    ]
    work_until: Annotated[
        _Clock | None,
        Field(default=None, description="Only before this time of day, such as 17:30; requires time_zone"),
    ]
    weekdays_only: Annotated[bool, Field(default=False, description="Skip Saturdays and Sundays; requires time_zone")]
    limit: Annotated[int, Field(default=20, ge=1, le=100, description="Maximum number of free times, earliest first")]

    @field_validator("time_zone")
    @classmethod
    def _exists(cls, name: str | None) -> str | None:
        if name is not None:
            _zone(name)
        return name

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        begin, end = self.span
        if end <= begin:
            raise ValueError("time_max must be after time_min")
        if end - begin > _LONGEST:
            raise ValueError("time_max must be within 62 days of time_min")
        by_the_clock = self.weekdays_only or self.work_from is not None or self.work_until is not None
        if by_the_clock and self.time_zone is None:
            raise ValueError("working hours and weekdays need time_zone, such as Europe/Berlin")
        if self.work_from is not None and self.work_until is not None and self.work_from >= self.work_until:
            raise ValueError("work_until must be later in the day than work_from")
        return self

    @property
    def span(self) -> Span:
        """Begin and end of the search, UTC."""
        return parse_moment(self.time_min).astimezone(UTC), parse_moment(self.time_max).astimezone(UTC)

    @property
    def place(self) -> tzinfo:
        """Where times are read and written."""
        return _zone(self.time_zone) if self.time_zone is not None else parse_moment(self.time_min).tzinfo or UTC


class FreeTime(ToolOutput):
    """From, to (RFC 3339) and how long that is."""

    start: str
    end: str
    minutes: int


class FreeOutput(ToolOutput):
    """Free times, earliest first. `unreadable`: calendars that couldn't be read and aren't considered."""

    free: list[FreeTime]
    unreadable: list[str]
    more: bool

    def __str__(self) -> str:
        lines = [f"{one.start} to {one.end} ({one.minutes} minutes)" for one in self.free]
        head = f"{len(lines)} free times." if lines else "No free time of that length."
        left_out = (
            [f"Not included, because they can't be read: {', '.join(self.unreadable)}."] if self.unreadable else []
        )
        more = ["There are more: raise the limit or search a shorter period."] if self.more else []
        return "\n".join([head, *lines, *left_out, *more])


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("no such time zone; use an IANA name such as Europe/Berlin") from error


@tool(
    "google",
    title="Find free time",
    scopes={FREE_BUSY},
    effect="read",
    presentation=Presentation(done="{agent} looked for free time in the calendar of {account}"),
)
async def calendar_free(api: UpstreamAPI, arguments: FreeInput) -> FreeOutput:
    """Find times of a minimum length when all given Google calendars are free, optionally within working hours. It sees
    when calendars are busy, not with what.
    """
    begin, end = arguments.span
    answer = await api.send(
        "POST",
        "calendar",
        "/freeBusy",
        body={
            "timeMin": begin.isoformat(),
            "timeMax": end.isoformat(),
            "items": [{"id": identifier} for identifier in dict.fromkeys(arguments.calendars)],
        },
        is_write=False,
    )
    busy, unreadable = _busy(answer, arguments.calendars)
    if len(unreadable) == len(set(arguments.calendars)):
        raise UpstreamRefused("notFound", f"Google: can't read any of these calendars: {unreadable}.")
    found = list(_free_times(begin, end, busy=busy, wanted=arguments))
    return FreeOutput(free=found[: arguments.limit], unreadable=unreadable, more=len(found) > arguments.limit)


def _free_times(begin: datetime, end: datetime, *, busy: Sequence[Span], wanted: FreeInput) -> Iterator[FreeTime]:
    least = timedelta(minutes=wanted.minutes)
    for start, stop in gaps(windows(begin, end, wanted=wanted), busy):
        if stop - start >= least:
            yield FreeTime(
                start=start.astimezone(wanted.place).isoformat(),
                end=stop.astimezone(wanted.place).isoformat(),
                minutes=int((stop - start).total_seconds() // 60),
            )


def _busy(answer: Mapping[str, object], calendars: Iterable[str]) -> tuple[list[Span], list[str]]:
    """The busy times of the calendars that Google could read, and the other calendars."""
    spans: list[Span] = []
    unreadable: list[str] = []
    known = at(answer, "calendars")
    for identifier in dict.fromkeys(calendars):
        calendar = known.get(identifier) if is_object(known) else None
        if calendar is None or objects_at(calendar, "errors"):
            unreadable.append(as_id(identifier, limit=254))
            continue
        for one in objects_at(calendar, "busy"):
            start, stop = text_at(one, "start"), text_at(one, "end")
            if start is None or stop is None:
                raise UpstreamRefused(
                    "unreadable", "Google returned a busy time without a start or end, so the result is unknown."
                )
            spans.append((_moment(start), _moment(stop)))
    return spans, unreadable


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise UpstreamRefused("unreadable", "Google returned a busy time that can't be read.") from error


def windows(begin: datetime, end: datetime, *, wanted: FreeInput) -> Iterator[Span]:
    """The times between begin and end (UTC) to consider: one for each working day, or the whole period."""
    if not wanted.weekdays_only and wanted.work_from is None and wanted.work_until is None:
        yield begin, end
        return
    place = wanted.place
    day, last = begin.astimezone(place).date(), end.astimezone(place).date()
    while day <= last:
        opens = _at(day, wanted.work_from or "00:00", place)
        following = day + timedelta(days=1)
        closes = _at(following, "00:00", place) if wanted.work_until is None else _at(day, wanted.work_until, place)
        if not (wanted.weekdays_only and day.weekday() >= 5) and max(opens, begin) < min(closes, end):
            yield max(opens, begin), min(closes, end)
        day = following


def _at(day: date, clock: str, place: tzinfo) -> datetime:
    return datetime.combine(day, time.fromisoformat(clock), place).astimezone(UTC)


def gaps(open_times: Iterable[Span], busy: Iterable[Span]) -> Iterator[Span]:
    """The open times minus the busy ones; adjacent open times are merged, so that midnight cuts nothing."""
    taken = sorted(busy)
    for begin, end in _join(open_times):
        free_from = begin
        for start, stop in taken:
            if start >= end:
                break
            if start > free_from:
                yield free_from, start
            free_from = max(free_from, stop)
        if free_from < end:
            yield free_from, end


def _join(spans: Iterable[Span]) -> Iterator[Span]:
    held: Span | None = None
    for begin, end in spans:
        if held is not None and held[1] == begin:
            held = held[0], end
            continue
        if held is not None:
            yield held
        held = begin, end
    if held is not None:
        yield held

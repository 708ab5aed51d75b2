"""Google's free time: the gaps between busy times, across clock changes and working hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from providers.api.api import UpstreamRefused
from providers.tools.google_free_time import FreeInput, gaps, windows
from tests.support.doubles.scripted_server import Reply, json_reply
from tests.support.tool_bench import TOOLS, Bench


def busy(*spans: tuple[str, str]) -> Reply:
    return json_reply({"calendars": {"primary": {"busy": [{"start": start, "end": end} for start, end in spans]}}})


async def test_what_busy_times_leave_is_free_if_it_is_long_enough(bench: Bench) -> None:
    bench.server.answer = lambda _: busy(
        ("2026-12-01T09:00:00Z", "2026-12-01T10:00:00Z"),
        ("2026-12-01T09:30:00Z", "2026-12-01T11:00:00Z"),  # overlaps the first one
        ("2026-12-01T11:20:00Z", "2026-12-01T12:00:00Z"),  # 20 minutes before it
    )
    output = await bench.run(
        "calendar_free", time_min="2026-12-01T08:00:00Z", time_max="2026-12-01T13:00:00Z", minutes=30
    )
    (sent,) = bench.server.arrivals
    assert (sent.path, sent.json["items"]) == ("/calendar/freeBusy", [{"id": "primary"}])
    assert [(one["start"], one["end"], one["minutes"]) for one in output.model_dump()["free"]] == [
        ("2026-12-01T08:00:00+00:00", "2026-12-01T09:00:00+00:00", 60),
        ("2026-12-01T12:00:00+00:00", "2026-12-01T13:00:00+00:00", 60),
    ]


@pytest.mark.parametrize(
    ("day", "hours", "offsets"),
    [
        ("2026-03-29", 23, ("+01:00", "+02:00")),  # daylight saving time begins that night
        ("2026-10-25", 25, ("+02:00", "+01:00")),  # and ends
        ("2026-12-01", 24, ("+01:00", "+01:00")),
    ],
)
async def test_a_day_is_as_long_as_it_is_where_the_clocks_change(
    bench: Bench, day: str, hours: int, offsets: tuple[str, str]
) -> None:
    bench.server.answer = lambda _: busy()
    following = (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()
    output = await bench.run(
        "calendar_free",
        time_min=f"{day}T00:00:00{offsets[0]}",
        time_max=f"{following}T00:00:00{offsets[1]}",
        time_zone="Europe/Berlin",
    )
    (free,) = output.model_dump()["free"]
    assert free == {
        "start": f"{day}T00:00:00{offsets[0]}",
        "end": f"{following}T00:00:00{offsets[1]}",
        "minutes": hours * 60,
    }


async def test_working_hours_follow_the_clock_on_both_sides_of_a_change(bench: Bench) -> None:
    bench.server.answer = lambda _: busy(("2026-03-30T07:00:00Z", "2026-03-30T08:00:00Z"))
    output = await bench.run(
        "calendar_free",
        time_min="2026-03-27T00:00:00Z",  # a Friday; daylight saving time begins on Sunday
        time_max="2026-03-31T00:00:00Z",
        time_zone="Europe/Berlin",
        work_from="09:00",
        work_until="17:00",
        weekdays_only=True,
    )
    assert [(one["start"], one["minutes"]) for one in output.model_dump()["free"]] == [
        ("2026-03-27T09:00:00+01:00", 480),
        ("2026-03-30T10:00:00+02:00", 420),  # busy from nine to ten, local time
    ]


async def test_midnight_alone_cuts_no_free_time(bench: Bench) -> None:
    bench.server.answer = lambda _: busy()
    output = await bench.run(
        "calendar_free",
        time_min="2026-12-01T20:00:00Z",
        time_max="2026-12-02T04:00:00Z",
        time_zone="UTC",
        weekdays_only=True,
    )
    (free,) = output.model_dump()["free"]
    assert free["minutes"] == 480


async def test_a_calendar_that_cannot_be_looked_into_is_named_and_none_at_all_is_refused(bench: Bench) -> None:
    unseen = {"errors": [{"domain": "global", "reason": "notFound"}], "busy": []}
    wanted = {"time_min": "2026-12-01T08:00:00Z", "time_max": "2026-12-01T09:00:00Z"}
    bench.server.answer = lambda _: json_reply({"calendars": {"primary": {"busy": []}, "x@example.com": unseen}})
    output = await bench.run("calendar_free", calendars=["primary", "x@example.com"], **wanted)
    assert output.model_dump()["unreadable"] == ["x@example.com"]
    assert "x@example.com" in str(output)
    with pytest.raises(UpstreamRefused, match="any of these"):
        await bench.run("calendar_free", calendars=["x@example.com"], **wanted)


@pytest.mark.parametrize("broken", [{"start": "yesterday", "end": "x"}, {"start": "2026-12-01T08:00:00Z"}])
async def test_a_busy_time_that_cannot_be_read_makes_nothing_free(bench: Bench, broken: dict[str, str]) -> None:
    bench.server.answer = lambda _: json_reply({"calendars": {"primary": {"busy": [broken]}}})
    with pytest.raises(UpstreamRefused):
        await bench.run("calendar_free", time_min="2026-12-01T08:00:00Z", time_max="2026-12-01T09:00:00Z")


@pytest.mark.parametrize(
    "more",
    [
        {"time_max": "2026-12-01T07:00:00Z"},
        {"time_max": "2027-12-01T07:00:00Z"},
        {"work_from": "09:00"},
        {"weekdays_only": True},
        {"time_zone": "Europe/Nowhere"},
        {"time_zone": "UTC", "work_from": "17:00", "work_until": "09:00"},
        {"calendars": []},
    ],
)
def test_a_search_for_free_time_that_makes_no_sense_is_refused(more: dict[str, object]) -> None:
    good = {"time_min": "2026-12-01T08:00:00Z", "time_max": "2026-12-01T09:00:00Z"}
    TOOLS["calendar_free"].input.model_validate(good)
    with pytest.raises(ValidationError):
        TOOLS["calendar_free"].input.model_validate({**good, **more})


MOMENTS = st.integers(0, 400).map(lambda minute: datetime(2026, 10, 24, tzinfo=UTC) + timedelta(minutes=15 * minute))
SPANS = st.tuples(MOMENTS, MOMENTS).filter(lambda span: span[0] < span[1])


@given(st.lists(SPANS, max_size=12), SPANS)
def test_every_minute_of_the_search_is_either_free_or_busy(
    taken: list[tuple[datetime, datetime]], whole: tuple[datetime, datetime]
) -> None:
    wanted = FreeInput.model_validate(
        {"time_min": whole[0].isoformat(), "time_max": whole[1].isoformat(), "time_zone": "Europe/Berlin"}
    )
    free = list(gaps(windows(*whole, wanted=wanted), taken))
    moment = whole[0]
    while moment < whole[1]:
        is_busy = any(start <= moment < end for start, end in taken)
        assert is_busy != any(start <= moment < end for start, end in free)
        moment += timedelta(minutes=15)

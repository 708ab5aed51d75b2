"""When a notice is sent: immediately or once a day, never in the person's quiet hours. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import tzdata as tzdata  # where `zoneinfo` finds the zones on a system that has none

from vault.notices.channels import NoticeSettings


def zone_of(name: str) -> tzinfo:
    """The time zone with an IANA name; UTC if this system doesn't know it."""
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def due_at(settings: NoticeSettings, how: str, now: int) -> int:
    """The instant to send at, for `at_once` or `daily`."""
    zone = zone_of(settings.zone)
    at = _next(settings.digest_at, now, zone, is_once=True) if how == "daily" else now
    if settings.quiet is None:
        return at
    begins, ends = settings.quiet
    local = datetime.fromtimestamp(at, zone)
    minute = local.hour * 60 + local.minute
    is_quiet = begins <= minute < ends if begins <= ends else minute >= begins or minute < ends
    return _next(ends, at, zone) if is_quiet else at


def _next(minute: int, now: int, zone: tzinfo, *, is_once: bool = False) -> int:
    """The next instant at which clocks in the zone show this minute of the day; now if they show it now.

    `is_once`: once per day. When clocks are set back they show some minutes twice, of which the first counts. A minute
    that they skip when they are set forward counts as if they hadn't been.
    """
    local = datetime.fromtimestamp(now, zone)
    day = local.replace(hour=minute // 60, minute=minute % 60, second=0, microsecond=0, fold=0)
    first, again, tomorrow = (int(one.timestamp()) for one in (day, day.replace(fold=1), day + timedelta(days=1)))
    found = (first, tomorrow) if is_once else (first, max(first, again), tomorrow)
    return max(now, min(one for one in found if one >= now - now % 60))

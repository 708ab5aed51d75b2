"""`make moments`: run the suite with each test beginning at the same moment, such as a second before midnight.

    MOMENT=2026-12-31T23:59:59 pytest -p tests.moments.plugin

libfaketime changes the time that this process reads, and every process that inherits its environment. The machine's
clock and the times of files stay as they are, and timers run as usual. `tests/journeys/test_first_hour.py` fails,
because it starts programs with an environment of their own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers.simulator.state.clock import Clock
from tests.support.memory import short_folder

DIFFERENCE = "REAL_TIME_MINUS_MONOTONIC"  # for the processes of xdist, which read a changed time from the start
JUST_AFTER = 0.02  # seconds


class Moments:
    """Goes to the moment, again and again."""

    def __init__(self, moment: str) -> None:
        self._moment = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
        self._difference = float(os.environ.setdefault(DIFFERENCE, str(time.time() - time.monotonic())))
        self._file = Path(short_folder(), f"moment-{os.getpid()}")

    def begin(self) -> None:
        """Go there. From then on, time passes as usual."""
        ahead = self._moment + JUST_AFTER - self._difference - time.monotonic()
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+.4f}\n", encoding="utf-8")
        new.replace(self._file)
        os.environ["FAKETIME_TIMESTAMP_FILE"] = str(self._file)
        if abs(time.time() - self._moment) > 10:
            raise pytest.UsageError("make moments needs libfaketime: apt-get install faketime")

    def end(self) -> None:
        """Leave no file behind."""
        self._file.unlink()


MOMENTS = Moments(os.environ["MOMENT"])


def pytest_configure() -> None:
    """Go to the moment before anything reads the time."""
    MOMENTS.begin()
    Clock.now = lambda self: time.time() + self._offset  # normally, it ignores that the machine's clock is set back


def pytest_unconfigure() -> None:
    """Leave no file behind."""
    MOMENTS.end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin each test at the moment."""
    MOMENTS.begin()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Begin again after the setup of what several tests share, which may take long."""
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            MOMENTS.begin()

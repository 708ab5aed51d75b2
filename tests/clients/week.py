"""A week of all clients against a vault in this process, whose clock moves; only critical moments for other servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import httpx2

from tests.clients.habits import HABITS, Habit
from tests.clients.installation import Installation, Server, SignIn

DAY = 86400
MORNING, EVENING = 8 * 3600, 20 * 3600
EVERY = 1800  # seconds between two checks by a working client


@dataclass
class Clicks:
    """The clicks that the person had to make."""

    allowed: int = 0
    again: int = 0  # one click restores what the agent had before
    silent: int = 0


async def play(
    server: Server,
    http: httpx2.AsyncClient,
    *,
    sign_in: SignIn,
    now: Callable[[], int],
    go_to: Callable[[int], None],
    days: int,
    habits: tuple[Habit, ...] = HABITS,
) -> list[Installation]:
    """Every client works from morning to evening of each day; `go_to` moves the clock to a second of the run."""
    playing = [Installation(habit, server, http, sign_in, now) for habit in habits]
    for day in range(days):
        go_to(day * DAY + MORNING - 60)
        for one in playing:
            one.start()
        for at, looks in groupby(_looks(playing), key=lambda look: look[0]):
            go_to(day * DAY + at)
            last = at >= EVENING - 2 * EVERY
            await asyncio.gather(*(one.work(process, crash=last and one.habit.crashes) for _, one, process in looks))
    return playing


def _looks(playing: list[Installation]) -> list[tuple[int, Installation, int]]:
    looks = [
        (at + after, one, process)
        for at in range(MORNING, EVENING, EVERY)
        for one in playing
        for process, after in enumerate(one.habit.processes)
    ]
    return sorted(looks, key=lambda look: look[0])


async def play_now(
    server: Server, http: httpx2.AsyncClient, *, sign_in: SignIn, now: Callable[[], int], rounds: int
) -> list[Installation]:
    """Play the moments that need no clock: every process refreshes at once, one after another, and after a crash."""
    playing = [Installation(habit, server, http, sign_in, now) for habit in HABITS if not habit.signs_in_by_itself]
    for one in playing:
        await one.work(0)
        one.start()
        for _ in range(rounds):
            await asyncio.gather(*(one.work(process, forced=True) for process in range(len(one.memory))))
        await one.work(0, crash=True, forced=True)
        one.start()
        await one.work(0, forced=True)
    return playing

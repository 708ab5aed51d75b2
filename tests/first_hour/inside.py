"""Journeys inside separate namespaces (`tests.support.private`): prints how each step ended, as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.first_hour.guide import Guide
from tests.first_hour.internet import internet, settle
from tests.first_hour.journey import Journey, JourneyStop, Slips
from tests.first_hour.mistakes import MISTAKES
from tests.first_hour.terminal import Terminal, empty_environment

WAYS = ("machine", "proxy")


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def play(name: str, folder: Path, *, guide: Guide, home: Path, cwd: Path, path: str) -> None:
    """Play a journey, with a mistake if one is given; prints `stopped` or `done` at the end."""
    say(play=name)
    way, slips = (name, Slips()) if name in WAYS else (MISTAKES[name].way, MISTAKES[name].slips())
    slips.first_window = {key: value.replace("/HOME", str(home)) for key, value in slips.first_window.items()}
    stopped: JourneyStop | None = None
    try:
        async with AsyncExitStack() as stack:
            there = await stack.enter_async_context(internet(folder))
            # what docs/operate/tls-proxy.md says about a private authority
            more = {"SSL_CERT_FILE": str(there.authority.authority), **slips.first_window}
            window = Terminal(folder, empty_environment(home, path=path, more=more), cwd)
            journey = Journey(guide, there, home, window, stack, slips, _step)
            await (journey.on_this_machine() if way == "machine" else journey.behind_a_proxy())
    except* JourneyStop as group:  # raised inside a client's task group, or directly
        (stopped,) = _leaves(group)
    if stopped is not None:
        say(stopped=stopped.where, shown=stopped.shown)
        return
    books = there.simulator.books()
    lists = [call for call in books["api_calls"] if call["method"] == "Events.List" and call["outcome"] == "ok"]
    say(done=journey.done, posts=[post["text"] for post in books["posts"]], lists=len(lists))


def _step(name: str, seconds: float) -> None:
    say(step=name, seconds=round(seconds, 2))


def _leaves(group: BaseExceptionGroup[JourneyStop]) -> list[JourneyStop]:
    found: list[JourneyStop] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found


async def _all(names: Sequence[str], given: argparse.Namespace) -> None:
    for number, name in enumerate(names):
        folder = given.folder / str(number)
        folder.mkdir()
        home = given.home or folder / "home"
        home.mkdir(exist_ok=True)
        await play(name, folder, guide=Guide(given.guide), home=home, cwd=given.cwd or home, path=given.path)


def main() -> None:
    """Parse the command line and play."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("play", nargs="+", choices=[*WAYS, *sorted(MISTAKES)])
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder")
    parser.add_argument("--guide", type=Path, required=True, help="the checkout whose docs/ are followed")
    parser.add_argument("--home", type=Path, default=None, help="of the person; default: a fresh one for each journey")
    parser.add_argument("--cwd", type=Path, default=None, help="of the terminal")
    parser.add_argument("--path", default=os.environ.get("PATH", ""), help="PATH of the terminal")
    given = parser.parse_args()
    settle(given.folder)
    asyncio.run(_all(given.play, given))


if __name__ == "__main__":
    main()

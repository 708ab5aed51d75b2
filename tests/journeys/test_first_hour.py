"""The guides, followed word by word in front of stand-ins for Slack and Google; and three mistakes.

`make first-hour` clones and installs, then plays the same journeys and all mistakes (`FIRST_HOUR=all`): each takes some
seconds to start processes. What `providers setup` refuses immediately is in
tests/cli/providers/test_provider_setup.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.first_hour.inside import WAYS
from tests.first_hour.mistakes import MISTAKES
from tests.support.private import private_mounts
from tests.support.processes import ROOT

pytestmark = pytest.mark.timeout(300)  # all journeys of a kind are played before its first test
FIRST = (
    "the redirect at Slack without its path",
    "the Calendar API not enabled",
    "a proxy that changes Host",
)
NAMES = list(MISTAKES) if os.environ.get("FIRST_HOUR") == "all" else list(FIRST)
Played = dict[str, dict[str, object]]


async def _play(folder: Path, names: list[str]) -> Played:
    """Play the journeys; return how each ended, by name."""
    process = await asyncio.create_subprocess_exec(
        *private_mounts(network=True),
        *(sys.executable, "-m", "tests.first_hour.inside", *names),
        *("--folder", str(folder), "--guide", str(ROOT)),
        *("--path", f"{Path(sys.executable).parent}:/usr/bin:/bin"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    async with asyncio.timeout(280):
        out, err = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}\n{err.decode()}"
    ended: Played = {}
    name = ""
    for line in out.splitlines():
        said = json.loads(line)
        name = said.get("play", name)
        if "done" in said or "stopped" in said:
            ended[name] = said
    return ended


@pytest.fixture(scope="module")
async def clean(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return await _play(tmp_path_factory.mktemp("clean"), list(WAYS))


@pytest.fixture(scope="module")
async def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return await _play(tmp_path_factory.mktemp("mistaken"), NAMES)


@pytest.mark.parametrize("way", WAYS)
async def test_the_guide_leads_to_a_posted_message_and_a_listed_calendar(clean: Played, way: str) -> None:
    """A user who makes no mistakes never gets stuck: the twin of every mistake below."""
    ended = clean[way]
    assert ended["done"] == ["slack_post", "calendar_list"], ended
    assert ended["posts"] == ["My first message"]
    assert ended["lists"]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
async def test_the_first_message_after_a_mistake_names_the_fix(clean: Played, mistaken: Played, name: str) -> None:
    mistake = MISTAKES[name]
    assert "done" in clean[mistake.way]
    ended = mistaken[name]
    assert ended.get("stopped") == mistake.stops, ended
    for words in mistake.fix:
        assert words in str(ended["shown"])

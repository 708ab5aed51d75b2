"""Two days of every client, in which nobody gets an unwanted sign-in prompt; `make clients` plays a week."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2
import pytest

from tests.clients.habits import HABITS
from tests.clients.installation import Server
from tests.clients.local import play_here
from tests.clients.week import play_now
from tests.support.harness import PASSWORD
from tests.support.rooms.oauth_world import GENEROUS, query_of, vault_with

ORDINARY = tuple(habit for habit in HABITS if not habit.signs_in_by_itself)


@pytest.mark.long
async def test_no_client_falls_out(tmp_path: Path) -> None:
    playing, clicks = await play_here(tmp_path / "data", days=2)
    figures = {one.habit.name: one.figures for one in playing}
    assert {name: found.unwanted for name, found in figures.items()} == dict.fromkeys(figures, 0)
    assert [failure for found in figures.values() for failure in found.failures] == []
    assert figures["Codex"].repeats > figures["Codex"].refreshes // 2
    assert figures["mcp-remote"].crashes > 0
    assert clicks.again > 0, "who registers anew is recognized"
    assert figures["mcp-use"].by_itself == 1, "it never refreshes, and signs in once a day"
    assert figures["mcporter"].by_itself == 2, "it never refreshes, which the vault sees at its second registration"


@pytest.mark.long
async def test_the_kit_notices_a_server_whose_tokens_count_once(tmp_path: Path) -> None:
    playing, _ = await play_here(tmp_path / "data", days=1, habits=ORDINARY, tokens={"refresh_grace": 0})
    fallen = {one.habit.name for one in playing if one.figures.unwanted}
    assert {"Claude Code", "Codex", "mcp-remote"} <= fallen
    assert "Gemini CLI" not in fallen, "one process that loses nothing"


@pytest.mark.parametrize(
    ("tokens", "most"), [({}, 2), ({"access_lifetime": 86400}, 1), ({"access_lifetime_alone": 3600}, 24)]
)
async def test_an_operator_decides_how_often_who_never_refreshes_signs_in(
    tmp_path: Path, tokens: dict[str, int], most: int
) -> None:
    habits = tuple(habit for habit in HABITS if habit.registers_each_expiry)
    playing, clicks = await play_here(tmp_path / "data", days=2, habits=habits, tokens=tokens)
    (one,) = playing
    assert one.figures.unwanted == 0
    assert 0 < one.figures.by_itself <= most
    assert clicks.again == one.figures.by_itself, "one click each, with what it had"


async def test_the_moments_play_against_any_server_by_its_metadata_alone(tmp_path: Path) -> None:
    async with (
        vault_with(tmp_path / "data", **GENEROUS) as (vault, _),
        vault.person() as alice,
        httpx2.AsyncClient(timeout=60) as http,
    ):
        await alice.sign_in("alice", PASSWORD)

        async def sign_in(url: str) -> dict[str, str]:
            page = await alice.open(url.removeprefix(vault.url))
            if page.status_code == 200:
                page = await alice.submit(page, form="/consent", button=("decision", "allow"))
            return query_of(page.headers["location"])

        server = await Server.discover(http, f"{vault.url}/mcp")
        playing = await play_now(server, http, sign_in=sign_in, now=lambda: int(time.time()), rounds=2)
    assert [one.figures.unwanted for one in playing] == [0] * len(ORDINARY)
    assert all(one.figures.crashes == 1 for one in playing)

"""A vault in this process as the server under test: its clock, and a person who clicks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from tests.clients.habits import HABITS, Habit
from tests.clients.installation import Installation, Server
from tests.clients.week import Clicks, play
from tests.support.harness import PASSWORD
from tests.support.rooms.oauth_world import GENEROUS, query_of, vault_with


async def play_here(
    data: Path, *, days: int, habits: tuple[Habit, ...] = HABITS, **sections: object
) -> tuple[list[Installation], Clicks]:
    """Play some days against a fresh vault with these settings; return the clients' counts and the person's clicks."""
    clicks = Clicks()
    async with (
        vault_with(data, **{**GENEROUS, **sections}) as (vault, _),
        vault.person() as alice,
        httpx2.AsyncClient(timeout=60) as http,
    ):
        database = vault.deployment.database
        start = database.clock_offset
        await alice.sign_in("alice", PASSWORD)

        one_at_a_time = asyncio.Lock()  # she has one browser

        async def sign_in(url: str) -> dict[str, str]:
            async with one_at_a_time:
                return await click(url)

        async def click(url: str) -> dict[str, str]:
            parts = urlsplit(url)
            page = await alice.open(f"{parts.path}?{parts.query}")
            if "/sign-in" in str(page.url):  # her own session has ended
                page = await alice.sign_in("alice", PASSWORD, page=page)
            if page.status_code == 200 and 'value="again"' in page.text:
                clicks.again += 1
                page = await alice.submit(page, form="/consent", button=("decision", "again"))
            elif page.status_code == 200:
                clicks.allowed += 1
                page = await alice.submit(page, form="/consent", button=("decision", "allow"))
            else:
                clicks.silent += 1
            assert "location" in page.headers, f"{page.status_code}: {page.text[:2000]}"
            return query_of(page.headers["location"])

        def go_to(second: int) -> None:
            database.clock_offset = start + second

        server = await Server.discover(http, f"{vault.url}/mcp")
        playing = await play(
            server, http, sign_in=sign_in, now=vault.deployment.now, go_to=go_to, days=days, habits=habits
        )
    return playing, clicks

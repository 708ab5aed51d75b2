"""CPU per page for a person with 100 agents, 50 accounts and 100,000 events: `python -m tests.bench.portal_pages`.

The client has its own process, which no figure includes. The row "stylesheet" is the cost of any answer.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from http.client import HTTPConnection
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from server.http.assets import asset_url
from server.runtime import garbage
from tests.generating.images.pictures import paths_of
from tests.generating.images.showcase import furnish, provider_settings, settle_in
from tests.support.person import session_cookie
from tests.support.rooms.portal_room import running_room

AGENTS, ACCOUNTS, EVENTS = 100, 50, 100_000
ROUNDS = 15


def ask(url: str, path: str, cookie: str) -> tuple[int, int]:
    """Status and size of a page for the browser with this cookie."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request("GET", path, headers={"cookie": cookie})
        answer = connection.getresponse()
        return answer.status, len(answer.read())
    finally:
        connection.close()


async def measure(client: ProcessPoolExecutor) -> None:
    with tempfile.TemporaryDirectory() as data:
        async with running_room(Path(data) / "vault", overrides={"providers": provider_settings()}) as room:
            user = await room.user("alice")
            shown = await furnish(room, user, agents=AGENTS, accounts=ACCOUNTS, events=EVENTS)
            await settle_in(room, shown)
            person = await room.signed_in("alice")
            asking = await room.agent(name="Windsurf")
            consent = await person.open(room.authorize_path(asking))
            more = {
                "consent": f"{consent.url.path}?{consent.url.query.decode()}",
                "stylesheet": asset_url("portal.css"),
            }
            garbage.tune()  # as a server that has started
            table = Table("page", "CPU, median (ms)", "worst", "kB")
            for name, path in (paths_of(room, shown) | more).items():
                spent: list[float] = []
                size = 0
                for _ in range(ROUNDS):
                    began = time.process_time()
                    answer = asyncio.get_running_loop().run_in_executor(
                        client, ask, room.url, path, session_cookie(person.http)
                    )
                    status, size = await answer
                    spent.append(1000 * (time.process_time() - began))
                    assert status == 200, (path, status)
                table.add_row(name, f"{statistics.median(spent):.1f}", f"{max(spent):.1f}", f"{size / 1000:.0f}")
            Console().print(table)


if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one:
        asyncio.run(measure(one))

"""CPU per page for a person with 100 agents, 50 accounts and 100,000 events: `python -m tests.bench.portal_pages`.

Counts the whole process, so the client that asks over loopback is in the figures too.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.generating.pictures import paths_of
from tests.generating.showcase import furnish, provider_settings, settle_in
from tests.support.rooms.portal_room import running_room

AGENTS, ACCOUNTS, EVENTS = 100, 50, 100_000
ROUNDS = 15


async def measure() -> None:
    with tempfile.TemporaryDirectory() as data:
        async with running_room(Path(data) / "vault", overrides={"providers": provider_settings()}) as room:
            user = await room.user("alice")
            shown = await furnish(room, user, agents=AGENTS, accounts=ACCOUNTS, events=EVENTS)
            await settle_in(room, shown)
            person = await room.signed_in("alice")
            asking = await room.agent(name="Windsurf")
            consent = await person.open(room.authorize_path(asking))
            paths = paths_of(room, shown) | {"consent": f"{consent.url.path}?{consent.url.query.decode()}"}
            table = Table("page", "CPU, median (ms)", "worst", "kB")
            for name, path in paths.items():
                spent: list[float] = []
                size = 0
                for _ in range(ROUNDS):
                    began = time.process_time()
                    answer = await person.http.get(path)
                    spent.append(1000 * (time.process_time() - began))
                    assert answer.status_code == 200, (path, answer.status_code)
                    size = len(answer.content)
                table.add_row(name, f"{statistics.median(spent):.1f}", f"{max(spent):.1f}", f"{size / 1000:.0f}")
            Console().print(table)


if __name__ == "__main__":
    asyncio.run(measure())

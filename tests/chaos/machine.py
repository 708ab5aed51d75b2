"""The vault, driven at random for longer than the suite allows; see `tests/vault/refresh/test_vault_machine.py`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.chaos.figures import Figure, Scale
from tests.chaos.world import postgres_server
from tests.conftest import PostgresCluster, Store, first_run
from tests.vault.refresh.test_vault_machine import Place, drive, on_postgres, on_sqlite

STEPS = 40
HISTORIES = {"SQLite": 120, "PostgreSQL": 60}
GOOD = "0 spent tokens presented, 0 accounts lost outside the law of the gap"


async def drive_place(place: Place, where: str, *, examples: int, steps: int) -> Figure:
    """Random histories on one database."""
    found = GOOD
    try:
        await asyncio.to_thread(drive, place, examples=examples, steps=steps, is_random=True)
    except AssertionError as error:
        found = f"a history that breaks it: {error}"
    return Figure(
        f"{examples} random histories of {steps} steps with real deaths against a strict provider, {where}",
        found,
        "0 spent, 0 lost",
        found == GOOD,
    )


async def figures(scale: Scale) -> list[Figure]:
    """Connecting, calling, expiry, faults, kills, a second process, backups and restores, on both databases."""
    full = scale is Scale.FULL
    steps = STEPS if full else 20
    with tempfile.TemporaryDirectory(prefix="tvmachine") as folder:
        data = Path(folder)
        await first_run(Store("sqlite:", data))
        async with postgres_server() as server:
            cluster = PostgresCluster(server.url)
            await cluster.create()
            await first_run(Store(cluster.url(cluster.template), data))
            places = {"SQLite": on_sqlite(data), "PostgreSQL": on_postgres(data, cluster)}
            return [
                await drive_place(place, where, examples=HISTORIES[where] if full else 5, steps=steps)
                for where, place in places.items()
            ]

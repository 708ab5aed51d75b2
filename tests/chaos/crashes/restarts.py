"""Time from a start of `serve` until an account whose refresh was killed works again, or its person is asked.

The process was killed after receiving the answer to its refresh. Time counts from just before the new process starts
until the database has the account's new state.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

from tests.chaos.estate import RESENDS, REVOKES, STRICT, Estate, HeldConnection, open_estate
from tests.chaos.figures import Figure, Scale, quantile
from tests.chaos.hang import configuration, ready
from tests.chaos.processes.nursery import Nursery, open_nursery
from tests.chaos.world import PATIENCE, ROOT, Server, environment, fresh_store, postgres_server
from tests.support.processes import free_port

KNOWN = 1000.0  # milliseconds
CLASSES = (RESENDS, STRICT, REVOKES)


@dataclass
class StartTimes:
    """Milliseconds since the start: until the account's new state was written, and until the server was ready."""

    settled: list[float] = field(default_factory=list[float])
    ready: list[float] = field(default_factory=list[float])
    wrong: list[str] = field(default_factory=list[str])


async def die_in_the_gap(estate: Estate, nursery: Nursery, held: HeldConnection) -> None:
    """A process refreshes this one account, and ends after receiving the answer."""
    await estate.expire()
    accounts = {held.name: {"principal": held.principal, "provider": held.provider}}
    dying = await nursery.start(estate.order(accounts=accounts, dies_at="answered"))
    assert (await dying.answer())["ready"]
    dying.tell(exchange=None)
    await dying.wait_until_gone()


async def fate(estate: Estate, held: HeldConnection, *, before: int) -> str:
    """Wait until the row has the account's new state."""
    query = "select state, generation from connections where id = :id"
    async with asyncio.timeout(PATIENCE):
        while True:
            row = await estate.database.fetch_one(query, {"id": held.connection_id})
            assert row is not None
            if row["state"] != "active" or int(str(row["generation"])) > before:
                return str(row["state"])
            await asyncio.sleep(0.01)


async def restart(estate: Estate, nursery: Nursery, held: HeldConnection, seen: StartTimes) -> None:
    """Kill one process after the answer arrived, start the program, and check the result."""
    before = (await estate.generations())[held.name]
    await die_in_the_gap(estate, nursery, held)
    port, settings = free_port(), dict(estate.settings)
    folders = f"provider_folders = {json.dumps(settings.pop('provider_folders'))}\n"
    served = {"public_url": f"http://localhost:{port}", "port": port}
    (estate.store.data / "config.toml").write_text(folders + configuration({"server": served, **settings}))
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "token_vault", "serve", "--data", str(estate.store.data),
        stderr=asyncio.subprocess.DEVNULL, cwd=ROOT, env=environment(),
    )  # fmt: skip
    try:
        became = await fate(estate, held, before=before)
        seen.settled.append((time.perf_counter() - started) * 1000)
        await ready(port, process)
        seen.ready.append((time.perf_counter() - started) * 1000)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    wanted = "active" if held.provider_class.survives_the_gap else "needs_reauth"
    if became != wanted:
        seen.wrong.append(f"{held.name}: {became}, not {wanted}")
    await estate.connect(held)


async def restarts(place: Server | None, nursery: Nursery, *, rounds: int) -> Figure:
    """Run through the classes several times on one database."""
    seen, where = StartTimes(), "SQLite" if place is None else "PostgreSQL"
    async with fresh_store(place) as store, open_estate(store, CLASSES, users=1) as estate:
        await restart(
            estate, nursery, next(iter(estate.held.values())), StartTimes()
        )  # not measured: it compiles modules
        for _ in range(rounds):
            for held in list(estate.held.values()):
                await restart(estate, nursery, held, seen)
    slowest = max(seen.settled)
    return Figure(
        f"{len(seen.settled)} starts of `serve` after a kill in the gap, {where}",
        f"from the start of the process until the account works or needs its person p50 "
        f"{quantile(seen.settled, 0.5):.0f} ms, p99 {quantile(seen.settled, 0.99):.0f} ms; until the server is ready "
        f"p50 {quantile(seen.ready, 0.5):.0f} ms; " + ("; ".join(seen.wrong) or "all as their class wants"),
        f"at most {KNOWN:.0f} ms",
        not seen.wrong and slowest <= KNOWN,
    )


async def figures(scale: Scale) -> list[Figure]:
    """Run one database after the other: concurrent starts would slow each other down."""
    rounds = 8 if scale is Scale.FULL else 1
    async with postgres_server() as server, open_nursery() as nursery:
        return [await restarts(place, nursery, rounds=rounds) for place in (None, server)]

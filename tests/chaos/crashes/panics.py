"""`panic` ends thousands of grants and is killed halfway through both phases: each grant gets one correct receipt.

Some grants are at a provider that lies: it accepts each revocation but ends nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.crowd import Crowd, Member, open_crowd
from tests.chaos.figures import Figure, Scale
from tests.chaos.world import Provider, Server, fresh_store, postgres_server, strict_provider
from tests.support.inspection import verify_activity
from tests.support.processes import Place, free_port
from vault.storage.database import integer, text
from vault.upkeep import receipts

LIMIT = 7200.0
GRANTS = {Scale.FULL: 5000, Scale.SMALL: 40}
LIARS = {Scale.FULL: 100, Scale.SMALL: 4}
STILL_ALIVE = 5  # the exit code of `panic`


@dataclass
class PanicRuns:
    """The command in separate processes, for one vault."""

    crowd: Crowd
    place: Place
    troubles: list[str] = field(default_factory=list[str])

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.place.arguments("panic", "--all", "--yes", "--wait", "120", "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self.place.environment(),
        )

    async def count(self, sql: str) -> int:
        row = await self.crowd.database.fetch_one(sql)
        return 0 if row is None else integer(row, "n")

    async def count_ended(self) -> int:
        return await self.count("select count(*) as n from connections where ended_at is not null")

    async def receipts(self) -> int:
        return await self.count("select count(*) as n from revocation_receipts")

    async def kill_at(self, number: int, counted: Callable[[], Awaitable[int]]) -> None:
        """Run it until this many are done, then kill it (SIGKILL)."""
        process = await self.start()
        while await counted() < number and process.returncode is None:
            await asyncio.sleep(0.05)
        if process.returncode is not None:
            self.troubles.append("it ended before it was killed")
        else:
            process.kill()
        await process.wait()

    async def finish(self) -> None:
        """Run two at once to completion."""
        one, other = await self.start(), await self.start()
        for process in (one, other):
            assert process.stdout is not None
            out = await process.stdout.read()
            if await process.wait() != STILL_ALIVE:
                self.troubles.append(f"exit code {process.returncode}: {out.decode()[:200]}")


async def check(crowd: Crowd, honest: list[Member], liars: list[Member]) -> list[str]:
    """Errors in the receipts, the keys, and the provider's records."""
    wrong: list[str] = []
    keys = await receipts.public_keys(crowd.database)
    rows = await crowd.database.fetch("select connection_id, result, is_final, receipt from revocation_receipts")
    found = {text(row, "connection_id"): (text(row, "result"), integer(row, "is_final")) for row in rows}
    if len(rows) != len(honest) + len(liars) or len(found) != len(rows):
        wrong.append(f"{len(rows)} receipts")
    wrong += [f"{one.family}: {found.get(one.connection_id)}" for one in honest
              if found.get(one.connection_id) != ("verified_dead", 1)]  # fmt: skip
    wrong += [f"liar {one.family}: {found.get(one.connection_id)}" for one in liars
              if found.get(one.connection_id) != ("still_alive", 0)]  # fmt: skip
    if len(keys["keys"] if isinstance(keys["keys"], list) else []) != 1:
        wrong.append("not one key")
    events = await crowd.database.fetch_one(
        "select count(*) as n, count(distinct connection_id) as d from events where kind = :kind",
        {"kind": "connection.upstream_revoked"},
    )
    if events is None or (integer(events, "n"), integer(events, "d")) != (len(honest), len(honest)):
        wrong.append(f"ends in the activity: {events}")
    left = await crowd.database.fetch_one("select count(*) as n from keys.connection_keys")
    if left is None or integer(left, "n") != len(liars):
        wrong.append(f"keys left: {left}")
    await verify_activity(crowd.database)
    return wrong + await _books(crowd.provider, honest, liars)


async def _books(provider: Provider, honest: list[Member], liars: list[Member]) -> list[str]:
    books = (await provider.http.get(f"{provider.url}/_control/books")).json()
    ended: dict[str, Any] = {one["family"]: one["ended"] for one in books["families"]}
    wrong = [f"{one.family} lives at the provider" for one in honest if not ended[one.family]]
    return wrong + [f"{one.family} is over, said the liar" for one in liars if ended[one.family]]


async def one_store(provider: Provider, server: Server | None, *, grants: int, lying: int) -> Figure:
    """One vault: killed while disconnecting, killed while revoking, then two processes at once to completion."""
    async with fresh_store(server) as store, open_crowd(store, provider) as crowd:
        honest, liars = await crowd.add("google", grants - lying), await crowd.add("slack", lying)
        place = Place(store.data, free_port())
        place.configure({"providers": dict(provider.providers)})
        with (store.data / "config.toml").open("a", encoding="utf-8") as file:
            file.write(f"[database]\nurl = {json.dumps(store.url)}\n")
        panicking = PanicRuns(crowd, place)
        started = time.monotonic()
        await panicking.kill_at(grants // 2, panicking.count_ended)
        half = await panicking.count_ended()
        await panicking.kill_at(grants // 2, panicking.receipts)
        issued = await panicking.receipts()
        await panicking.finish()
        seconds = time.monotonic() - started
        wrong = [*panicking.troubles, *(await check(crowd, honest, liars))]
    where = "SQLite" if server is None else "PostgreSQL"
    return Figure(
        f"`panic` over {grants} grants, {lying} at a provider that lies, killed at {half} disconnected and at {issued}"
        f" receipts, then two processes at once: {where}",
        f"one receipt each, {grants - lying} verified dead, {lying} still alive, {seconds:.0f} s"
        if not wrong
        else "; ".join(wrong[:5]) + f" ({len(wrong)})",
        "one true receipt each",
        holds=not wrong and 0 < half < grants and 0 < issued < grants,
    )


async def figures(scale: Scale) -> list[Figure]:
    """Both databases."""
    found: list[Figure] = []
    async with strict_provider() as provider:  # a killed process's attempts are repeated after half a minute
        await provider.control("rules", face="google", revoke="family")
        await provider.control("rules", face="slack", revoke="lies")
        found.append(await one_store(provider, None, grants=GRANTS[scale], lying=LIARS[scale]))
        async with postgres_server() as server:
            found.append(await one_store(provider, server, grants=GRANTS[scale], lying=LIARS[scale]))
    return found

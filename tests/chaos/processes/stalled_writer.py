"""A real process that writes to a vault's storage on command, over standard input and output.

Arguments: the database's URL and the data directory. Each input line is `{"load": seconds, "kinds": [...]}`, each
output line the outcome of every write. Kinds: `event` (a single event), `change` (its own row and an event
in one transaction), `shared` (a row that every process changes, another statement, and an event).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.conftest import Store
from vault import limits
from vault.audit.audit import Activity, append
from vault.records import Event
from vault.refusals import StorageBusy
from vault.storage.database import Database

EACH = 2  # loops per kind
PAUSE = 0.005  # seconds between the writes of one loop
SHARED = "stall:shared"
EVENT = Event("tool.called", user_id="stall")


async def spend(database: Database, bucket: str) -> None:
    """Run two statements and append an event in one transaction."""
    now = database.now()
    async with database.transaction() as transaction:
        await limits.spend(transaction, bucket, limit=10**9, window=3600, now=now)
        await limits.spend(transaction, f"stall:{os.getpid()}", limit=10**9, window=3600, now=now)
        await append(transaction, EVENT, now=now)


async def loop(write: Callable[[], Awaitable[None]], *, until: float, said: list[tuple[str, float]]) -> None:
    """Write repeatedly; return how each write ended, and after how many seconds."""
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            await write()
            outcome = "ok"
        except StorageBusy as refusal:
            outcome = f"busy: {refusal.detail}"[:80]
        said.append((outcome, time.monotonic() - started))
        await asyncio.sleep(PAUSE)


async def load(database: Database, activity: Activity, *, seconds: float, kinds: list[str]) -> dict[str, object]:
    """Run all loops of these kinds at once."""
    until, said = time.monotonic() + seconds, list[tuple[str, float]]()
    writes: dict[str, Callable[[], Awaitable[None]]] = {
        "event": lambda: activity.record(EVENT),
        "change": lambda: spend(database, f"stall:own:{os.getpid()}"),
        "shared": lambda: spend(database, SHARED),
    }
    await asyncio.gather(*(loop(writes[kind], until=until, said=said) for kind in kinds for _ in range(EACH)))
    refused = [(outcome, took) for outcome, took in said if outcome != "ok"]
    return {
        "ok": len(said) - len(refused),
        "slowest": max(took for _, took in said),
        "refused": len(refused),
        "reasons": sorted({outcome for outcome, _ in refused}),
    }


async def main(url: str, data: Path) -> None:
    """Open the storage, report that, and obey until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    store = Store(url, data)
    database = await store.open()
    await store.open_keys(database)
    activity = Activity(database)
    print(json.dumps({"ready": True}), flush=True)
    while line := await reader.readline():
        command = json.loads(line)
        answer = await load(database, activity, seconds=command["load"], kinds=command["kinds"])
        print(json.dumps(answer), flush=True)
    await activity.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))

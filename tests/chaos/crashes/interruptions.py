"""Commands killed at random moments: existing data stays intact, and new files are complete or absent.

A forked process makes a backup, restores one, or starts a vault for the first time, and is killed; then it is repeated.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from providers.definitions.catalog import load_catalog
from tests.chaos.figures import Figure, Scale
from tests.chaos.processes.nursery import Nursery, open_nursery
from tests.chaos.world import Server, fresh_store, postgres_server
from tests.conftest import KeySettings, Store, first_run
from tests.support.inspection import verify_activity
from vault import connections, users
from vault.backup import backups
from vault.backup.backups import Backup
from vault.backup.quarantine import RestoredConnection, RestoreVerdict
from vault.keys.sources import KeySource, key_source
from vault.storage.database import Database, schema_files
from vault.storage.snapshots import snapshot
from vault.upstream import Account, TokenAnswer

PEOPLE = 60  # in the vault, each with an account
KILLS = {Scale.FULL: 60, Scale.SMALL: 4}  # of each command and database


@dataclass
class KillTally:
    """How the kills were distributed, and what was wrong."""

    before: int = 0  # the kill came before any change
    after: int = 0  # it came after the command was done
    wrong: list[str] = field(default_factory=list[str])


# In the process that is killed


def source_of(store: Store) -> KeySource:
    return key_source(KeySettings(), data=store.data)


async def make_backup(store: Store, path: Path) -> None:
    """Do what `token-vault backup --with-keys` does."""
    database = await store.open()
    try:
        async with snapshot(store.url, data=store.data) as seen:
            await backups.write_backup(
                path,
                seen,
                ring=await store.open_keys(database),
                with_keys=True,
                now=database.now(),
            )
    finally:
        await database.close()


async def restore(store: Store, path: Path) -> tuple[RestoredConnection, ...]:
    """Do what `token-vault restore --force` does."""
    policies = {"slack": load_catalog().provider("slack").policy()}
    backup = await Backup.open(path, source_of(store))
    database = await store.open()
    try:
        return await backups.restore(backup, database, source=source_of(store), policies=policies, force=True)
    finally:
        await database.close()


async def work(order: Mapping[str, Any]) -> None:
    """Carry out the order to its end."""
    store = Store(order["url"], Path(order["data"]))
    match order["what"]:
        case "backup":
            await make_backup(store, Path(order["path"]))
        case "restore":
            await restore(store, Path(order["path"]))
        case _:
            await first_run(store)


async def obey(order: Mapping[str, Any]) -> None:
    """Report when it begins and when it is done."""
    reader, writer = await asyncio.open_unix_connection(order["socket"])
    writer.write(json.dumps({"number": order["number"], "pid": os.getpid()}).encode() + b"\n{}\n")
    await writer.drain()
    await work(order)
    writer.write(b"{}\n")
    await writer.drain()
    await reader.read()


def live(order: Mapping[str, Any]) -> None:
    """Run to completion in a new event loop."""
    asyncio.run(obey(order))


# In the driver


class InterruptedCommand:
    """One command at one place, killed repeatedly."""

    def __init__(self, nursery: Nursery, chance: random.Random) -> None:
        self.nursery = nursery
        self.chance = chance
        self.takes = 0.0  # seconds that the command takes if nobody kills it

    async def whole(self, order: Mapping[str, object]) -> None:
        """Run it to completion; return how long it took."""
        process = await self.nursery.start({**order, "program": "interruptions"})
        await process.answer()
        started = time.perf_counter()
        await process.answer()
        self.takes = time.perf_counter() - started
        await process.kill()

    async def run_and_kill(self, order: Mapping[str, object]) -> None:
        """Run it and kill it at a random moment, possibly just after it ended."""
        process = await self.nursery.start({**order, "program": "interruptions"})
        await process.answer()
        await asyncio.sleep(self.chance.uniform(0, 1.1 * self.takes))
        await process.kill()


async def people(store: Store) -> None:
    """A vault with people in it."""
    database = await store.open()
    try:
        keys, scopes = await store.open_keys(database), frozenset({"chat:write"})
        policy = load_catalog().provider("slack").policy()  # reads many files, so not while a transaction waits
        async with database.transaction() as transaction:
            for number in range(PEOPLE):
                user = await users.create_user(transaction, f"person {number}", now=database.now())
                await connections.open_connection(
                    transaction,
                    keys,
                    user_id=user.id,
                    provider="slack",
                    answer=TokenAnswer("access", "refresh", scopes, 3600, Account(f"{number}", f"{number}")),
                    asked=scopes,
                    policy=policy,
                    now=database.now(),
                )
    finally:
        await database.close()


async def _count(database: Database, sql: str, **parameters: str) -> int:
    row = await database.fetch_one(sql, parameters)
    assert row is not None
    return int(str(row["n"]))


async def kill_backups(store: Store, interrupting: InterruptedCommand, *, kills: int) -> KillTally:
    """The backup file is complete or absent, and leftovers of a killed run block nothing."""
    await first_run(store)
    await people(store)
    seen, order = KillTally(), {"what": "backup", "url": store.url, "data": str(store.data)}
    folder = store.data.parent / "backups"
    folder.mkdir()
    await interrupting.whole({**order, "path": str(folder / "first")})
    for number in range(kills):
        path = folder / f"{number}"
        await interrupting.run_and_kill({**order, "path": str(path)})
        loose = [one.name for one in folder.iterdir() if one.stat().st_mode & 0o077]
        if loose:
            seen.wrong.append(f"backup {number}: others may read {loose}")
        if path.exists():
            seen.after += 1
        else:
            seen.before += 1
            await make_backup(store, path)
        (await Backup.open(path, source_of(store))).check()
    return seen


async def kill_restores(store: Store, interrupting: InterruptedCommand, *, kills: int) -> KillTally:
    """The vault has all of its old content or all of the restored content, and never a token of the other."""
    await first_run(store)
    await people(store)
    path = store.data.parent / "vault.backup"
    await make_backup(store, path)
    seen, order = KillTally(), {"what": "restore", "url": store.url, "data": str(store.data), "path": str(path)}
    await interrupting.whole(order)
    database = await store.open()
    try:
        for number in range(kills):
            async with database.transaction() as transaction:
                await users.create_user(transaction, f"later {number}", now=database.now())
                await transaction.execute("update connections set refresh_sealed = :now", {"now": b"since"})
            await interrupting.run_and_kill(order)
            later = await _count(database, "select count(*) as n from users")
            held = await _count(database, "select count(refresh_sealed) as n from connections")
            await verify_activity(database)
            if (later, held) == (PEOPLE, 0):
                seen.after += 1
            elif held == PEOPLE and later > PEOPLE:
                seen.before += 1
            else:
                seen.wrong.append(f"restore {number}: {later} people, {held} refresh tokens")
    finally:
        await database.close()
    return seen


async def kill_restores_elsewhere(
    places: list[Store], interrupting: InterruptedCommand, *, path: Path, key: Path
) -> KillTally:
    """Restore into empty places; whatever a killed run left, a second restore brings back everything, keys too."""
    seen = KillTally()
    for number, store in enumerate(places):
        shutil.copy2(key, store.data / "master.key")
        order = {"what": "restore", "url": store.url, "data": str(store.data), "path": str(path)}
        if number == 0:
            await interrupting.whole(order)
            continue
        await interrupting.run_and_kill(order)
        verdicts = {one.verdict for one in await restore(store, path)}
        if verdicts != {RestoreVerdict.UNTIL_EXPIRY}:
            seen.wrong.append(f"restore into an empty place {number}: {verdicts}")
        seen.after += 1
    return seen


async def kill_first_starts(places: list[Store], interrupting: InterruptedCommand) -> KillTally:
    """A first start or a schema upgrade: the next start completes it."""
    seen = KillTally()
    for number, store in enumerate(places):
        order = {"what": "start", "url": store.url, "data": str(store.data)}
        if number == 0:
            await interrupting.whole(order)
            continue
        await interrupting.run_and_kill(order)
        await first_run(store)
        database = await store.open()
        try:
            versions = await _count(database, "select count(*) as n from schema_migrations")
            roots = await _count(database, "select count(*) as n from keys.ring where id = :id", id="root")
        finally:
            await database.close()
        if (versions, roots) != (len(schema_files()), 1):
            seen.wrong.append(f"first start {number}: {versions} versions, {roots} roots")
        seen.after += 1
    return seen


async def interrupt_commands(place: Server | None, nursery: Nursery, *, kills: int, seed: int) -> list[Figure]:
    """Run every command on one database."""
    where = "SQLite" if place is None else "PostgreSQL"
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(fresh_store(place)) for _ in range(2)]
        chance = random.Random(seed)
        found = {
            "a backup": await kill_backups(stores[0], InterruptedCommand(nursery, chance), kills=kills),
            "a restore": await kill_restores(stores[1], InterruptedCommand(nursery, chance), kills=kills),
        }
        few = [await stack.enter_async_context(fresh_store(place)) for _ in range(2 * (kills // 2 + 1))]
        path, key = stores[1].data.parent / "vault.backup", stores[1].data / "master.key"
        found["a restore into an empty place"] = await kill_restores_elsewhere(
            few[::2], InterruptedCommand(nursery, chance), path=path, key=key
        )
        found["a first start"] = await kill_first_starts(few[1::2], InterruptedCommand(nursery, chance))
    for seen in found.values():
        for line in seen.wrong:
            print(line, file=sys.stderr)
    return [
        Figure(
            f"{what} killed {seen.before + seen.after + len(seen.wrong)} times at random, {where}",
            (f"{seen.before} times nothing was changed, {seen.after} times all was; " if seen.before else "")
            + f"{len(seen.wrong)} times something half-done stayed",
            "0 half-done",
            not seen.wrong,
        )
        for what, seen in found.items()
    ]


async def figures(scale: Scale) -> list[Figure]:
    """Run one database after the other. CHAOS_SEED makes the same choices again."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 30))
    print(f"CHAOS_SEED={seed}", file=sys.stderr)
    async with postgres_server() as server, open_nursery() as nursery:
        return [
            figure
            for place in (None, server)
            for figure in await interrupt_commands(place, nursery, kills=KILLS[scale], seed=seed)
        ]

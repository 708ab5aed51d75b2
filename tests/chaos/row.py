"""One row among many has damaged ciphertexts: only its account is affected.

Everything that goes through rows is run: calls, listings, upkeep, recovery, revocation, backup, and restore.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from providers.definitions.catalog import load_catalog
from server.app import open_deployment
from server.deployment import Deployment
from server.lifecycle.periodic_steps import sweep
from server.settings import load_settings
from tests.chaos.crowd import Crowd, Member, open_crowd
from tests.chaos.figures import Figure, Scale
from tests.chaos.world import Provider, Server, Worker, fresh_store, postgres_server, strict_provider
from tests.conftest import KeySettings
from tests.support.inspection import verify_activity
from tests.support.seeded_grant import let_in_again
from vault import connections
from vault.backup import backups
from vault.backup.backups import Backup
from vault.keys.sources import key_source
from vault.refresh import journal_recovery, recovery
from vault.storage.snapshots import snapshot
from vault.upkeep import revocations

RATE = 400.0  # calls per second at most
REFRESHES = 150.0  # of them, if each needs a refresh
AT_ONCE = 64  # number of calls; on a busy machine they take longer


def damage_bytes(sealed: bytes) -> bytes:
    """The same length, with a byte of the ciphertext changed."""
    return sealed[:-20] + bytes([sealed[-20] ^ 1]) + sealed[-19:]


async def damage(crowd: Crowd, member: Member) -> None:
    """Change both tokens of a row, like a failing disk."""
    row = await crowd.database.fetch_one(
        "select refresh_sealed, access_sealed from connections where id = :id", {"id": member.connection_id}
    )
    assert row is not None
    sealed = {name: damage_bytes(value) for name, value in row.items() if isinstance(value, bytes)}
    assert len(sealed) == 2
    async with crowd.database.transaction() as transaction:
        await transaction.execute(
            "update connections set refresh_sealed = :refresh_sealed, access_sealed = :access_sealed where id = :id",
            {**sealed, "id": member.connection_id},
        )


async def leave_unfinished(crowd: Crowd, members: list[Member]) -> None:
    """Act as if a process had died just before it sent these refreshes."""
    now = crowd.database.now()
    async with crowd.database.transaction() as transaction:
        for member in members:
            which = {"id": member.connection_id, "now": now - 120}
            await transaction.execute("update connections set access_expires_at = :now where id = :id", which)
            await transaction.execute(
                "insert into intents (tenant, connection_id, owner, generation, sent_at, sends, settled_at) "
                "select tenant, id, :owner, generation, :now, 1, :now from connections where id = :id",
                {**which, "owner": "nobody"},
            )


@asynccontextmanager
async def open_vault(crowd: Crowd) -> AsyncGenerator[Deployment]:
    """Open the vault as a starting process would."""
    overrides = {
        "database": {"url": crowd.store.url},
        "providers": crowd.provider.providers,
        "sandbox": {"loopback_upstreams": True},
    }
    async with open_deployment(load_settings(overrides=overrides), data=crowd.store.data) as deployment:
        yield deployment


async def upkeep(crowd: Crowd, bad: Member, good: list[Member]) -> list[str]:
    """Run what a process does on its own, for the bad row and others; return what went wrong for the others."""
    async with open_vault(crowd) as deployment:
        await journal_recovery.adopt_all(deployment.vault)
        await leave_unfinished(crowd, [bad, *good])
        await recovery.take_up(deployment.vault)
        await sweep(deployment)
        await deployment.vault.tasks.close()
        states = {member.family: await _shown_status(deployment, member) for member in good}
    return [f"{family} is {state} after the take-up" for family, state in states.items() if state != "active"]


async def revoke(crowd: Crowd, bad: Member, good: list[Member]) -> list[str]:
    """Disconnect everyone, the bad row first; return what went wrong for others."""
    troubles: list[str] = []
    async with open_vault(crowd) as deployment:
        for member in (bad, *good):
            found = await connections.get_connection(deployment.database, member.connection_id, user_id=member.user_id)
            assert found is not None
            async with deployment.transaction() as transaction:
                await connections.disconnect(transaction, deployment.keys, found, now=deployment.now())
        await revocations.run_due(deployment.vault)
        for member in good:
            pending = await revocations.find_revocation(deployment.database, member.connection_id)
            if pending is None or pending.outcome != "revoked":
                troubles.append(f"{member.family} was not revoked")
        await verify_activity(deployment.database)
    return troubles


async def _shown_status(deployment: Deployment, member: Member) -> str:
    """How the pages, the `connections` tool, and the command line show this account."""
    (shown,) = await connections.list_connections(deployment.database, member.user_id)
    return shown.status(deployment.now())


async def back_up_and_restore(crowd: Crowd) -> int:
    """Restore a backup over its own vault; return how many connections it has afterward."""
    source = key_source(KeySettings(), data=crowd.store.data)
    path = Path(crowd.store.data.parent / "row.backup")
    async with snapshot(crowd.store.url, data=crowd.store.data) as seen:
        await backups.write_backup(path, seen, ring=crowd.keys, with_keys=False, now=crowd.database.now())
    policies = {provider.name: provider.policy() for provider in load_catalog()}
    opened = await Backup.open(path, source)
    await backups.restore(opened, crowd.database, source=source, policies=policies, force=True)
    await let_in_again(crowd.database)
    row = await crowd.database.fetch_one("select count(*) as found from connections where ended_at is null")
    assert row is not None
    return int(str(row["found"]))


async def everybody(worker: Worker, count: int, *, rate: float = RATE) -> dict[str, Any]:
    """Make one call for everyone, as fast as the machine can."""
    return await worker.ask(load=count / rate, rate=rate, most=AT_ONCE)


async def one_bad(provider: Provider, server: Server | None, *, connections: int) -> Figure:
    """Damage one row and run everything."""
    async with fresh_store(server) as store, open_crowd(store, provider) as crowd:
        await provider.control("reset")
        await provider.control("brief_books", entries=1000)
        members = await crowd.add("slack", connections)
        bad = members[connections // 2]
        await damage(crowd, bad)
        worker = await crowd.worker()
        with_good = await everybody(worker, connections)
        async with crowd.database.transaction() as transaction:
            at = {"at": crowd.database.now() - 1}
            await transaction.execute("update connections set access_expires_at = :at", at)
        with_old = await everybody(worker, connections, rate=REFRESHES)
        troubles = await upkeep(crowd, bad, members[:5])
        await worker.close()
        kept = await back_up_and_restore(crowd)
        again = await crowd.worker()
        after = await everybody(again, connections)
        await again.close()
        troubles += await revoke(crowd, bad, members[:5])
        twice = await crowd.spent_twice()
    rounds = {"with good tokens": with_good, "with old ones": with_old, "after a restore": after}
    # a restored vault asks the person to reconnect if it can't read their row
    affected = [sum(count for code, count in one["outcomes"].items() if code != "ok") for one in rounds.values()]
    served = [one["outcomes"].get("ok", 0) for one in rounds.values()]
    holds = (
        affected == [1, 1, 1]
        and served == [connections - 1] * 3
        and not troubles
        and kept == connections
        and twice == 0
    )
    if not holds:
        print(rounds, troubles, kept, file=sys.stderr)
    said = ", ".join(f"{name} {ok} ok and {no} refused" for name, ok, no in zip(rounds, served, affected, strict=True))
    return Figure(
        f"one undecryptable row among {connections}, {'SQLite' if server is None else 'PostgreSQL'}",
        f"{said}; {kept} rows through backup and restore; {len(troubles)} other accounts troubled by upkeep; "
        f"{twice} spent tokens presented",
        "one account affected",
        holds,
    )


async def figures(scale: Scale) -> list[Figure]:
    """Both databases."""
    connections = 10_000 if scale is Scale.FULL else 40
    async with strict_provider() as provider, postgres_server() as server:
        return [await one_bad(provider, where, connections=connections) for where in (server, None)]

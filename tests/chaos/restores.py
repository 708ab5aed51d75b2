"""An old backup is restored with a strict provider: according to the provider's records, no used token is presented."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from providers.definitions.catalog import load_catalog
from tests.chaos.figures import Figure, Scale
from tests.chaos.world import World, fresh_store, open_world, postgres_server, strict_provider
from tests.conftest import KeySettings
from tests.support.seeded_grant import let_in_again
from vault.backup import backups
from vault.backup.backups import Backup
from vault.keys.sources import key_source
from vault.storage.snapshots import snapshot


async def restore_and_call(world: World, *, refreshes: int) -> Figure:
    """Back up, refresh, restore, and call again; the provider ends the grant if a used token is presented."""
    source = key_source(KeySettings(), data=world.store.data)
    path = Path(world.store.data.parent / "chaos.backup")
    async with snapshot(world.store.url, data=world.store.data) as seen:
        await backups.write_backup(
            path,
            seen,
            ring=await world.store.open_keys(world.database),
            with_keys=False,
            now=world.database.now(),
        )
    worker = await world.worker()
    served = 0
    for _ in range(refreshes):
        await world.expire()
        served += (await worker.ask(exchange=2))["outcomes"].get("ok", 0)
    await worker.close()
    catalog = load_catalog()
    await backups.restore(
        await Backup.open(path, source),
        world.database,
        source=source,
        policies={provider.name: provider.policy() for provider in catalog},
        force=True,
    )
    await let_in_again(world.database)
    before = len(await world.provider.refreshes())
    again = await world.worker()
    first = (await again.ask(exchange=5))["outcomes"]
    await world.expire()
    then = (await again.ask(exchange=5))["outcomes"]
    sent, twice = len(await world.provider.refreshes()) - before, await world.spent_twice()
    return Figure(
        f"backup restored {refreshes} refreshes later, {'SQLite' if world.store.is_sqlite else 'PostgreSQL'}",
        f"{twice} spent tokens presented, {sent} refreshes sent; calls until the access token ends: {_summary(first)}, "
        f"then: {_summary(then)}",
        "0 spent, 0 sent, then connection_required",
        twice == 0 and sent == 0 and served == 2 * refreshes and set(then) == {"connection_required"},
    )


def _summary(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in outcomes.items())


async def figures(scale: Scale) -> list[Figure]:
    """On both databases."""
    refreshes = 60 if scale is Scale.FULL else 5
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(strict_provider())
        server = await stack.enter_async_context(postgres_server())
        found: list[Figure] = []
        for where in (server, None):
            async with fresh_store(where) as store, open_world(store, provider) as world:
                found.append(await restore_and_call(world, refreshes=refreshes))
        return found

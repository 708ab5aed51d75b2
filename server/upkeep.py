"""What a running process does on the side: unfinished refreshes, due revocations, telling of ends, forgetting.

Every process of a vault does it; each step is safe to be done by several at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

from server.deployment import Deployment
from vault import (
    approvals,
    clients,
    consents,
    event_segments,
    expiries,
    handles,
    limits,
    recovery,
    replay,
    revocations,
    rotation,
    sessions,
    tickets,
    tokens,
)
from vault.event_proof import ChainBroken
from vault.flights import Vault
from vault.journal import KEEP
from vault.refusals import VaultError
from vault.upstream import Rotation

INTERVAL: Final = 30.0  # seconds
HEAD_START: Final = 1.0  # seconds
SWEEP_EVERY: Final = 20  # rounds: ten minutes
SHED_EVERY: Final = 4  # rounds: two minutes
logger = logging.getLogger("token_vault.upkeep")


@asynccontextmanager
async def upkeep(deployment: Deployment) -> AsyncGenerator[None]:
    """Do the upkeep as long as the block runs.

    What a dead process left unfinished comes first, for a moment alone: its accounts work again, or are known to need
    their person, before the program loads what it needs to listen.
    """
    settled = asyncio.Event()
    working = asyncio.create_task(_work(deployment, settled))
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAD_START):
                await settled.wait()
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _work(deployment: Deployment, settled: asyncio.Event) -> None:
    rounds, scrubbed = 0, deployment.now() - KEEP
    while True:
        try:
            try:
                await recovery.watch(deployment.vault)
                await recovery.take_up(deployment.vault)
            finally:
                settled.set()
            await consents.adopt_all(deployment.vault)
            await revocations.run_due(deployment.vault)
            scrubbed = await scrub(deployment.vault, since=scrubbed)
            await deployment.keys.signing.reload(deployment.database)
            if rounds % SWEEP_EVERY == 0:
                await sweep(deployment)
            elif rounds % SHED_EVERY == 0:
                await shed(deployment)
        except VaultError as error:  # the storage may come back; the next round tries again
            logger.warning("upkeep failed", extra={"code": error.code, "detail": error.detail})
        rounds += 1
        await asyncio.sleep(INTERVAL)


async def scrub(vault: Vault, *, since: int) -> int:
    """Wipe what this process and the files still hold of keys that anybody destroyed; until when that is done."""
    now = vault.database.now()
    names = await revocations.done_since(vault.database, since)
    if names or vault.flights.has_traces:
        await revocations.scrub(vault, names)
    return since if vault.flights.has_traces else now - 1


async def keep_alive(vault: Vault) -> int:
    """Refresh what its provider would end because nobody used it, where that costs nothing; how many were started.

    Where a refresh token rotates, each refresh is a small risk (an answer can be lost): there the person is told.
    """
    started = 0
    for one in await expiries.resting(vault.database):
        policy = vault.policies.get(one.provider)
        if policy is not None and policy.rotation is Rotation.NONE:
            rotation.refresh_ahead(vault, one.connection_id, provider=one.provider, if_generation=one.generation)
            started += 1
    return started


async def keep_activity(deployment: Deployment) -> None:
    """Verify and seal what was added to the activity, and prune what is older than its retention."""
    database, now = deployment.database, deployment.now()
    try:
        await event_segments.seal(database, now=now)
        await event_segments.prune(database, retention_days=deployment.settings.activity.retention_days, now=now)
    except ChainBroken as broken:  # said at each sweep; nothing is sealed or pruned until somebody has looked
        logger.error("the activity does not fit its chain", extra={"code": broken.code, "detail": broken.description})  # noqa: TRY400


def refresh_lifetimes(deployment: Deployment) -> tokens.Lifetimes:
    """How long refresh tokens of this deployment live."""
    settings = deployment.settings.tokens
    return tokens.Lifetimes(
        absolute=settings.refresh_lifetime, idle=settings.refresh_idle_lifetime, grace=settings.refresh_grace
    )


async def shed(deployment: Deployment) -> None:
    """Forget what strangers can make most of: tickets, counters and single-use values that can no longer matter."""
    now = deployment.now()
    async with deployment.database.transaction(patient=True) as transaction:
        await tickets.sweep_tickets(transaction, now=now)
        await limits.sweep(transaction, now=now)
        await replay.sweep(transaction, now=now)


async def sweep(deployment: Deployment) -> None:
    """Forget tickets, sessions, counters and never-used clients that can no longer matter."""
    now = deployment.now()
    await shed(deployment)
    await deployment.vault.journal.sweep(now=now)
    await expiries.announce(deployment.database)
    await keep_alive(deployment.vault)
    await keep_activity(deployment)
    unused = now - deployment.settings.registration.unused_lifetime
    async with deployment.database.transaction(patient=True) as transaction:
        await consents.forget_lost(transaction, deployment.vault, now=now)
        await sessions.sweep_sessions(transaction, now=now)
        await approvals.sweep(transaction, now=now)
        await handles.sweep(transaction, now=now)
        await clients.reap_unused(transaction, before=unused)
        await tokens.sweep_tokens(transaction, now=now, lifetimes=refresh_lifetimes(deployment))

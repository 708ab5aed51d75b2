"""Background upkeep in a running process: unfinished refreshes, due revocations, notices of approaching ends, deletion.

Every process of a vault runs it; several may run the same step at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from server.deployment import Deployment
from server.lifecycle.upkeep_step import INTERVAL, STEP_LIMIT, UpkeepStep
from server.runtime.version import VERSION
from vault.refresh import recovery
from vault.refresh.concurrency import Vault
from vault.refresh.journal import KEEP
from vault.refusals import VaultError
from vault.upkeep import (
    key_rotation,
    replicas,
    revocations,
)
from vault.upkeep.key_rotation import KeyUpkeep
from vault.upkeep.replicas import Replica

HEAD_START: Final = 1.0  # seconds
ANSWERS_FIRST: Final = 1.0  # seconds for the first clients after a start, before the other steps
KEYS_EVERY: Final = 10.0  # seconds: an operator who rotates the master key waits for each process
_LEAVE: Final = 2.0  # seconds to record that this process ends
logger = logging.getLogger("token_vault.upkeep")


@asynccontextmanager
async def upkeep(
    deployment: Deployment, *, role: str = "serve", further: Sequence[UpkeepStep] = ()
) -> AsyncGenerator[None]:
    """Run the upkeep while the block runs, with `further` steps from higher layers.

    Refreshes that a dead process left unfinished come first, alone: before the program loads what it needs to listen,
    their accounts work again or are known to need a reconnect.
    """
    settled = asyncio.Event()
    more = (_scrub_step(deployment), *_key_steps(), _presence_step(deployment, role), *further)
    working = asyncio.create_task(_work(deployment, settled, more))
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAD_START):
                await settled.wait()
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await _leave(deployment)


async def _work(deployment: Deployment, settled: asyncio.Event, more: Sequence[UpkeepStep]) -> None:
    """Run each step separately, so that a slow or failing one doesn't delay the others; unfinished refreshes come
    first."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_repeat(deployment, FIRST, settled))
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAD_START):
                await settled.wait()
        await asyncio.sleep(ANSWERS_FIRST)
        from server.lifecycle.periodic_steps import SHED, STEPS, SWEEPS

        for step in (*STEPS, *more):
            group.create_task(_repeat(deployment, (step,)))
        group.create_task(_repeat(deployment, SHED))
        group.create_task(_repeat(deployment, SWEEPS))


async def _repeat(deployment: Deployment, steps: Sequence[UpkeepStep], done_once: asyncio.Event | None = None) -> None:
    """Run steps one after another, since simultaneous sweeps would overload the database."""
    while True:
        for step in steps:
            await run_step(deployment, step)
        if done_once is not None:
            done_once.set()
        await asyncio.sleep(steps[0].every)


async def run_step(deployment: Deployment, step: UpkeepStep) -> None:
    """Run a step once; failures are logged, and the next round retries."""
    code = None
    try:
        async with asyncio.timeout(STEP_LIMIT):
            await step.work(deployment)
    except VaultError as error:  # the storage may come back
        code = error.code
        logger.warning("upkeep failed", extra={"step": step.name, "code": code, "detail": error.detail})
    except TimeoutError:
        code = "timeout"
        logger.warning("upkeep failed", extra={"step": step.name, "code": code})
    except Exception as error:  # a defect of one step must not end the others
        code = type(error).__name__
        logger.exception("upkeep failed", extra={"step": step.name, "code": code})
    if code is None:
        deployment.failing_upkeep.pop(step.name, None)
    else:
        deployment.failing_upkeep[step.name] = code


async def scrub(vault: Vault, *, since: int) -> int:
    """Wipe remains of destroyed keys from this process and the files; returns the time up to which they are wiped."""
    now = vault.database.now()
    names = await revocations.done_since(vault.database, since)
    if names or vault.tasks.has_traces:
        await revocations.scrub(vault, names)
    return since if vault.tasks.has_traces else now - 1


def _scrub_step(deployment: Deployment) -> UpkeepStep:
    scrubbed = deployment.now() - KEEP

    async def work(deployment: Deployment) -> None:
        nonlocal scrubbed
        scrubbed = await scrub(deployment.vault, since=scrubbed)

    return UpkeepStep("traces", INTERVAL, work)


def _presence_step(deployment: Deployment, role: str) -> UpkeepStep:
    """Record that this process serves the vault, for the administration page."""
    started_at, host = deployment.now(), socket.gethostname()

    async def work(deployment: Deployment) -> None:
        troubles = deployment.vault.tasks.breakers.troubles()
        said = Replica(
            id=deployment.vault.owner,
            host=host,
            role=role,
            version=VERSION,
            started_at=started_at,
            seen_at=deployment.now(),
            failing=dict(deployment.failing_upkeep),
            providers={name: one.kind for name, one in troubles.items()},
            master_keys=frozenset(deployment.keys.held.ids()),
            policy=None if deployment.policy is None else deployment.policy.digest,
        )
        async with deployment.transaction() as transaction:
            await replicas.note_replica(transaction, said)

    return UpkeepStep("presence", replicas.SAID_EVERY, work)


def _key_steps() -> tuple[UpkeepStep, UpkeepStep]:
    """Follow a rotation of the master key, and count this process's uses of master keys."""
    state = KeyUpkeep()

    async def keep(deployment: Deployment) -> None:
        await key_rotation.keep(deployment.database, deployment.keys, state, owner=deployment.vault.owner)

    async def count(deployment: Deployment) -> None:
        await key_rotation.count_uses(deployment.database, deployment.keys, state)

    return UpkeepStep("master keys", KEYS_EVERY, keep), UpkeepStep("uses of keys", INTERVAL, count)


async def _leave(deployment: Deployment) -> None:
    with suppress(TimeoutError, VaultError):  # otherwise it is reported missing, and forgotten after a day
        async with asyncio.timeout(_LEAVE), deployment.transaction() as transaction:
            await replicas.forget_replica(transaction, deployment.vault.owner)


FIRST: Final = (
    UpkeepStep("watch", INTERVAL, lambda d: recovery.watch(d.vault)),
    UpkeepStep("refreshes", INTERVAL, lambda d: recovery.take_up(d.vault)),
)

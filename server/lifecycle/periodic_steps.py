"""The upkeep steps that wait until a program that has just started has answered its first clients.

This module is also loaded only then, since that takes as long as several answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from server.deployment import Deployment
from server.lifecycle.upkeep_step import INTERVAL, NOTICES_EVERY, STEP_LIMIT, UpkeepStep
from server.live_providers import LOOK_EVERY
from vault import clients, grants, handles, limits, replay, tickets
from vault.approvals import access_requests, approvals, standing_approvals
from vault.audit import released_tokens, segments
from vault.audit.log import extend
from vault.audit.proof import ChainBroken
from vault.notices import outbox
from vault.records import DAY
from vault.refresh import consents, grant_checks, rotation
from vault.refresh.concurrency import Vault
from vault.sign_in import sessions
from vault.storage.database import SWEEP_BATCH, Transaction
from vault.tokens import tokens
from vault.upkeep import access_ends, agent_receipts, expiries, panics, retention, revocations, sign_ins
from vault.upstream import RotationMode

SWEEP_EVERY: Final = 600.0  # seconds
SHED_EVERY: Final = 120.0  # seconds
CHECKPOINTS_EVERY: Final = 60.0  # seconds between attempts to copy a checkpoint to where it is missing
logger = logging.getLogger("token_vault.upkeep")


async def keep_alive(vault: Vault) -> int:
    """Refresh connections that their provider would end as unused, if that has no risk. Returns how many were started.

    If refresh tokens rotate, each refresh is a small risk (an answer can be lost), so the person is notified instead.
    """
    started = 0
    for provider, policy in vault.policies.items():
        if policy.rotation is RotationMode.NONE:
            for one in await expiries.list_resting(vault.database, provider):
                rotation.refresh_ahead(vault, one.connection_id, provider=provider, if_generation=one.generation)
                started += 1
    return started


async def keep_activity(
    deployment: Deployment, *, events: int = segments.SEAL_LIMIT, pruned: int = segments.PRUNE_LIMIT
) -> None:
    """Verify and seal new activity, add it to the tree, and prune activity that is older than its retention.

    One turn seals at most `events` and prunes at most `pruned` segments; while there are more, another turn follows.
    """
    database, now, days = deployment.database, deployment.now(), deployment.settings.activity.retention_days
    stop = time.monotonic() + STEP_LIMIT / 2
    try:
        has_more = True
        while has_more and time.monotonic() < stop:
            has_more = await segments.seal(database, now=now, limit=events) >= events
        await _grow_tree(deployment)
        has_more = True
        while has_more and time.monotonic() < stop:
            has_more = await segments.prune(database, retention_days=days, now=now, limit=pruned) > 0
    except ChainBroken as broken:  # reported at each sweep; nothing is sealed or pruned until an operator has checked
        logger.error("the activity does not fit its chain", extra={"code": broken.code, "detail": broken.description})  # noqa: TRY400


async def _grow_tree(deployment: Deployment) -> None:
    from server.checkpoints.publication import current_log  # imported here: not needed before the program listens

    await extend(deployment.database, await current_log(deployment))


async def _publish_checkpoints(deployment: Deployment) -> None:
    from server.checkpoints.publication import publish_due

    await publish_due(deployment)


def _batches(
    forget: Callable[[Transaction, Deployment], Awaitable[int]], *, batch: int = SWEEP_BATCH
) -> Callable[[Deployment], Awaitable[None]]:
    """Work batch by batch, each in a separate transaction, so that others can write in between."""

    async def work(deployment: Deployment) -> None:
        while True:
            async with deployment.database.transaction(patient=True) as transaction:
                count = await forget(transaction, deployment)
            if count < batch:
                return
            await asyncio.sleep(0)

    return work


async def _forget_lost(transaction: Transaction, deployment: Deployment) -> int:
    await consents.forget_lost(transaction, deployment.vault, now=deployment.now())
    return 0


async def _forget_ended(deployment: Deployment) -> None:
    database, now, rules = deployment.database, deployment.now(), deployment.settings.retention
    if rules.ended_days:
        found = deployment.vault.assertions
        services = () if found is None else tuple(found.services)
        await retention.forget_ended(database, before=now - rules.ended_days * DAY, company_services=services)
    if rules.receipts_days:
        await retention.forget_receipts(database, before=now - rules.receipts_days * DAY)
    await retention.forget_done(database, now=now)


def _unused_since(deployment: Deployment) -> int:
    return deployment.now() - deployment.settings.registration.unused_lifetime


async def _refresh_policy(deployment: Deployment) -> None:
    if deployment.policy is not None:
        await deployment.policy.refresh()


async def _poll_transmitters(deployment: Deployment) -> None:
    if any(one.poll_url is not None for one in deployment.settings.signals.transmitters.values()):
        from server.signals import poll_delivery

        await poll_delivery.poll(deployment)


STEPS: Final = (
    UpkeepStep("consents", INTERVAL, lambda d: consents.adopt_all(d.vault)),
    UpkeepStep("panics", INTERVAL, lambda d: panics.go_on_all(d.vault)),
    UpkeepStep("revocations", INTERVAL, lambda d: revocations.run_rounds(d.vault, seconds=INTERVAL)),
    UpkeepStep("receipts of agents", INTERVAL, lambda d: agent_receipts.issue_all(d.vault)),
    UpkeepStep("ends of access requests", INTERVAL, lambda d: access_ends.end_over(d.database)),
    UpkeepStep("signing keys", INTERVAL, lambda d: d.keys.signing.reload(d.database)),
    UpkeepStep("signals", NOTICES_EVERY, _poll_transmitters),
    UpkeepStep("hints", NOTICES_EVERY, lambda d: grant_checks.run_due(d.vault)),
    UpkeepStep("activity", SWEEP_EVERY, keep_activity),
    UpkeepStep("checkpoints", CHECKPOINTS_EVERY, _publish_checkpoints),
    UpkeepStep("policy", LOOK_EVERY, _refresh_policy),
    UpkeepStep("providers", LOOK_EVERY, lambda d: d.live.refresh(d.database, d.keys)),
)
# Records that strangers can create in large numbers.
SHED: Final = (
    UpkeepStep("tickets", SHED_EVERY, _batches(lambda t, d: tickets.sweep_tickets(t, now=d.now()))),
    UpkeepStep("limits", SHED_EVERY, _batches(lambda t, d: limits.sweep(t, now=d.now()))),
    UpkeepStep("single-use values", SHED_EVERY, _batches(lambda t, d: replay.sweep(t, now=d.now()))),
)
SWEEPS: Final = (
    UpkeepStep("journal", SWEEP_EVERY, lambda d: d.vault.journal.sweep(now=d.now())),
    UpkeepStep("announcements", SWEEP_EVERY, lambda d: expiries.announce(d.database)),
    UpkeepStep("ends of sign-ins", SWEEP_EVERY, lambda d: sign_ins.announce(d.database)),
    UpkeepStep("unused grants", SWEEP_EVERY, lambda d: keep_alive(d.vault)),
    UpkeepStep("lost consents", SWEEP_EVERY, _batches(_forget_lost)),
    UpkeepStep("sessions", SWEEP_EVERY, _batches(lambda t, d: sessions.sweep_sessions(t, now=d.now()))),
    UpkeepStep("approvals", SWEEP_EVERY, _batches(lambda t, d: approvals.sweep(t, now=d.now()))),
    UpkeepStep("access requests", SWEEP_EVERY, _batches(lambda t, d: access_requests.sweep(t, now=d.now()))),
    UpkeepStep("old notices", SWEEP_EVERY, _batches(lambda t, d: outbox.sweep(t, now=d.now()))),
    UpkeepStep("standing approvals", SWEEP_EVERY, _batches(lambda t, d: standing_approvals.sweep(t, now=d.now()))),
    UpkeepStep("looks", SWEEP_EVERY, _batches(lambda t, d: grant_checks.sweep(t, now=d.now()))),
    UpkeepStep("released tokens", SWEEP_EVERY, _batches(lambda t, d: released_tokens.sweep(t, now=d.now()))),
    UpkeepStep("handles", SWEEP_EVERY, _batches(lambda t, d: handles.sweep(t, now=d.now()))),
    UpkeepStep("clients", SWEEP_EVERY, _batches(lambda t, d: clients.reap_unused(t, before=_unused_since(d)))),
    UpkeepStep(
        "refresh tokens",
        SWEEP_EVERY,
        _batches(lambda t, d: tokens.sweep_tokens(t, now=d.now(), lifetimes=d.refresh_lifetimes)),
    ),
    UpkeepStep(
        "ended sign-ins",
        SWEEP_EVERY,
        _batches(lambda t, d: grants.end_run_out(t, now=d.now()), batch=grants.RUN_OUT_BATCH),
    ),
    UpkeepStep("ended records", SWEEP_EVERY, _forget_ended),
)


async def sweep(deployment: Deployment) -> None:
    """Run every periodic step once, now. Raises what a step raises."""
    for step in (*SHED, *STEPS, *SWEEPS):
        if step.every >= SHED_EVERY:
            await step.work(deployment)

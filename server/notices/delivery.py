"""Deliver what is due: a step of the upkeep, of which several processes may do the same at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from server.deployment import Deployment
from server.http import page_texts
from server.notices import webhooks
from server.notices.http_post import NotAccepted, Uncertain
from server.notices.schedule import due_at
from server.notices.senders import send
from server.notices.texts import AnswerForm, message_of
from vault import registrations, shared_connections, users
from vault.approvals import access_requests, approvals
from vault.notices import outbox
from vault.notices.channels import ENDPOINT, PUSH, NoticeChannel, get_channel, get_settings, record_result
from vault.notices.outbox import ASKED, CLIENT_ENDING, TO_OTHERS, Approvers, Notice, nobody
from vault.records import DOUBTED, ApprovalState, Event

AT_ONCE: Final = 5  # number of channels that a round starts with
PATIENCE: Final = 5.0  # seconds of a round; slower channels continue during the next rounds
logger = logging.getLogger("token_vault.notices")


Answering = Callable[[NoticeChannel, str], Awaitable[AnswerForm | None]]  # the browser, id of the approval


async def on_its_page(_channel: NoticeChannel, _approval_id: str) -> None:
    """For a vault where approvals are only answered on its pages."""


async def deliver(deployment: Deployment, *, approvers: Approvers = nobody, answering: Answering = on_its_page) -> int:
    """Queue notices of new events, then send what is due; returns how many messages were accepted in this round.

    `approvers` knows who can answer an access request, `answering` which approval a browser can answer by itself.

    A channel that doesn't answer doesn't delay the next round: it is locked, so that no other round uses it.
    """
    await outbox.enter(deployment.database, deployment.keys, due_at=due_at, approvers=approvers)
    places, accepted = asyncio.Semaphore(AT_ONCE), list[str]()

    async def one(channel_id: str) -> None:
        async with places:
            if await _deliver_by(deployment, channel_id, approvers, answering):
                accepted.append(channel_id)

    due = await outbox.list_due(deployment.database, now=deployment.now())
    turns = [deployment.vault.tasks.tidy(one(channel_id)) for channel_id in due]
    if turns:
        done, _ = await asyncio.wait(turns, timeout=PATIENCE)
        for turn in done:
            turn.result()
    return len(accepted)


async def _deliver_by(deployment: Deployment, channel_id: str, approvers: Approvers, answering: Answering) -> bool:
    """One message with everything that is due by a channel; whether it was accepted."""
    now = deployment.now()
    channel = await get_channel(deployment.database, deployment.keys, channel_id)
    is_endpoint = channel is not None and channel.kind == ENDPOINT
    async with deployment.transaction() as transaction:
        if not await outbox.hold(transaction, channel_id, now=now):
            return False
        taken = await outbox.take(transaction, channel_id, now=now, again_at=now + outbox.HELD if is_endpoint else None)
    if channel is not None and is_endpoint:
        return await webhooks.deliver_to(deployment, channel, taken)
    wanted = [] if channel is None else await _notices_for(deployment, channel, taken, approvers=approvers, now=now)
    over = [one for one in taken if one not in wanted]
    failure, state, goes_on = "", "sent", False
    if channel is not None and wanted:
        failure, state, goes_on = await _attempt(deployment, channel, wanted, answering)
    async with deployment.transaction() as transaction:
        await outbox.settle(transaction, over, state="over")
        if goes_on:
            await outbox.try_again(transaction, wanted, now=deployment.now())
        else:
            await outbox.settle(transaction, wanted, state=state)
        if wanted:
            await record_result(transaction, channel_id, failure=failure, now=deployment.now())
        else:
            await outbox.release(transaction, channel_id)
    return bool(wanted) and not failure


async def _attempt(
    deployment: Deployment, channel: NoticeChannel, wanted: Sequence[Notice], answering: Answering
) -> tuple[str, str, bool]:
    """Why it failed, the state of its notices, and whether they are retried."""
    settings = await get_settings(deployment.database, channel.user_id)
    try:
        with page_texts.use_language(settings.language):
            message = await message_of(deployment, wanted)
            if channel.kind == PUSH and len(wanted) == 1 and wanted[0].kind == "approval":
                asked = str(wanted[0].event.details.get("approval", ""))
                message = replace(message, answer=await answering(channel, asked))
            await send(deployment, channel, message)
    except NotAccepted as refusal:
        logger.warning("notice not accepted", extra={"channel": channel.id, "code": refusal.code})
        return refusal.code, "failed", not refusal.is_final
    except Uncertain:
        logger.warning("notice uncertain", extra={"channel": channel.id})
        return "uncertain", "unknown", False
    return "", "sent", False


async def _notices_for(
    deployment: Deployment, channel: NoticeChannel, taken: Sequence[Notice], *, approvers: Approvers, now: int
) -> list[Notice]:
    """The notices that are still worth sending, and still for this person, whose roles and groups may have changed."""
    person = await users.get_user(deployment.database, channel.user_id)
    if person is None or person.disabled_at is not None:
        return []

    async def is_for(event: Event) -> bool:
        if event.kind in TO_OTHERS:
            return person.id in await approvers(event)
        return person.id in await outbox.recipients(deployment.database, str(event.user_id))

    return [one for one in taken if await _is_worth_saying(deployment, one, now=now) and await is_for(one.event)]


async def _is_worth_saying(deployment: Deployment, notice: Notice, *, now: int) -> bool:
    """Whether the matter is still open; an answered question or a working account needs no action."""
    event = notice.event
    if now >= notice.expires_at:
        return False
    if notice.kind == "approval":
        found = await approvals.get(deployment.database, deployment.keys, str(event.details.get("approval", "")))
        return found is None or found.status(now) == ApprovalState.PENDING.value
    if event.kind == ASKED:
        request = await access_requests.get(deployment.database, str(event.details.get("request", "")))
        return request is not None and request.is_pending(now)
    if event.kind == CLIENT_ENDING:
        held = await registrations.get_registration(deployment.database, str(event.details.get("provider", "")))
        return held is not None and held.client_id == event.details.get("client") and held.is_ending(now)
    if notice.kind in {"reconnect", "expiring"} and event.connection_id is not None and event.user_id is not None:
        held = await shared_connections.usable(
            deployment.database, event.connection_id, user_id=event.user_id, now=deployment.now()
        )
        is_doubted = event.kind == "connection.doubted" and held is not None and held.reason == DOUBTED
        return held is not None and (is_doubted or held.status(now) in {"needs_reauth", "expiring"})
    return True

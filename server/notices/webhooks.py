"""Tell the operator's endpoints what happened: one CloudEvent per request, signed according to Standard Webhooks.

CloudEvents 1.0.2 in structured mode (HTTP binding §3.2), Standard Webhooks 1.0.0. An event keeps its id however often
it is sent. Events that aren't accepted are resent at growing intervals, and then kept in a list.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from server.deployment import Deployment
from server.notices.http_post import NotAccepted, Post, Uncertain, post
from vault.notices import outbox
from vault.notices.channels import GONE, OFF, NoticeChannel, record_result
from vault.notices.endpoints import FAILED, EventEndpoint, endpoint_from
from vault.notices.outbox import Notice
from vault.records import Event

BACKOFF: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)  # seconds after each failure
PREFIX: Final = "token_vault."  # of the types
TIMEOUT: Final = 15.0  # seconds for one request
_ROUND: Final = 45.0  # seconds for the requests of one turn, which end before its hold on the endpoint does
_SPREAD: Final = 0.1  # maximum random extension of an interval, as a share of it
logger = logging.getLogger("token_vault.webhooks")


async def deliver_to(deployment: Deployment, channel: NoticeChannel, taken: Sequence[Notice]) -> bool:
    """Send the claimed events of an endpoint, oldest first; returns whether all were accepted.

    After a failure the rest waits for the next turn: it counts no attempt. What is gone or disabled gets nothing.
    """
    endpoint, failure, sent = endpoint_from(channel), channel.failure if channel.failure in OFF else "", 0
    stop = time.monotonic() + _ROUND
    for one in taken:
        if failure or time.monotonic() > stop:
            break
        failure = await _attempt(deployment, endpoint, one)
        sent += 1
    async with deployment.transaction() as transaction:
        if not taken:
            await outbox.release(transaction, channel.id)
            return False
        if failure in OFF:
            await outbox.settle(transaction, taken[sent:], state=FAILED, failure=failure)
        else:
            await outbox.put_back(transaction, taken[sent:], due_at=deployment.now())
        await record_result(transaction, channel.id, failure=failure, now=deployment.now())
    return not failure


async def _attempt(deployment: Deployment, endpoint: EventEndpoint, notice: Notice) -> str:
    """Send one event and record the result; returns why it wasn't accepted."""
    failure, wait = await _post(deployment, message_of(deployment, endpoint, notice, now=deployment.now()))
    now = deployment.now()
    later = None if notice.attempts > len(BACKOFF) else _later(notice.attempts, wait=wait)
    async with deployment.transaction() as transaction:
        if not failure:
            await outbox.settle(transaction, [notice], state="sent")
        elif later is None or failure in OFF or now + later >= notice.expires_at:
            await outbox.settle(transaction, [notice], state=FAILED, failure=failure)
        else:
            await outbox.delay(transaction, [notice], until=now + later, failure=failure)
    if failure:
        logger.warning("event not accepted", extra={"endpoint": endpoint.id, "code": failure})
    return failure


async def _post(deployment: Deployment, message: Post) -> tuple[str, int | None]:
    """Why it wasn't accepted, and how long the endpoint asks to wait."""
    try:
        await post(deployment, message)
    except NotAccepted as refused:
        return GONE if refused.status == HTTPStatus.GONE else str(refused.status or refused.code), refused.retry_after
    except Uncertain:
        return "uncertain", None
    return "", None


async def send_test(deployment: Deployment, endpoint: EventEndpoint) -> str:
    """Send a test event once, now; returns why it wasn't accepted."""
    now, identity = deployment.now(), f"msg_{secrets.token_urlsafe(18)}"
    event: dict[str, object] = {
        "specversion": "1.0",
        "id": identity,
        "source": deployment.issuer,
        "type": f"{PREFIX}test",
        "time": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "datacontenttype": "application/json",
        "data": {},
    }
    failure, _ = await _post(deployment, _sign_event(endpoint, identity, event, now=now))
    return failure


def _later(attempts: int, *, wait: int | None) -> int:
    """Seconds until the next attempt; never earlier than the endpoint asked for."""
    planned = BACKOFF[attempts - 1]
    return max(planned + secrets.randbelow(max(1, int(planned * _SPREAD))), wait or 0)


def message_of(deployment: Deployment, endpoint: EventEndpoint, notice: Notice, *, now: int) -> Post:
    """The request with an event, signed for this attempt."""
    identity = event_id(deployment, notice.event)
    return _sign_event(endpoint, identity, cloud_event(deployment, notice, identity), now=now)


def _sign_event(endpoint: EventEndpoint, identity: str, event: Mapping[str, object], *, now: int) -> Post:
    body = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    headers = {
        "Content-Type": "application/cloudevents+json; charset=utf-8",
        "webhook-id": identity,
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(sign(one, identity, now, body) for one in endpoint.signing_secrets(now)),
    }
    return Post(endpoint.url, headers, body, peer="webhooks", sender=endpoint.id, timeout=TIMEOUT)


def event_id(deployment: Deployment, event: Event) -> str:
    """The same for each attempt; another one where a restored vault counts its events anew."""
    named = (deployment.vault_id, event.sequence, event.at, event.kind, event.connection_id, event.user_id)
    digest = hashlib.sha256(json.dumps(named).encode()).digest()
    return "msg_" + base64.urlsafe_b64encode(digest[:18]).decode()


def cloud_event(deployment: Deployment, notice: Notice, identity: str) -> dict[str, object]:
    """The event's data: person, account, and page. Only IDs; never a name, an argument, or a token."""
    event = notice.event
    approval = event.details.get("approval")
    is_approval = notice.kind == "approval.waiting"
    subject = str(approval) if is_approval and approval else event.connection_id or ""
    path = f"/{'approvals' if is_approval else 'connections'}/{quote(subject, safe='')}"
    data: dict[str, object | None] = {
        "person_id": event.user_id,
        "connection_id": event.connection_id,
        "client_id": event.client_id,
        "approval_id": approval,
        "provider": event.details.get("provider"),
        "tool": event.details.get("tool"),
        "reason": event.details.get("reason"),
        "url": deployment.url(path),
    }
    return {
        "specversion": "1.0",
        "id": identity,
        "source": deployment.issuer,
        "type": PREFIX + (notice.kind if is_approval else f"connection.{notice.kind}"),
        "time": datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **({"subject": subject} if subject else {}),
        "datacontenttype": "application/json",
        "data": {name: value for name, value in data.items() if value not in {None, ""}},
    }


def sign(secret: str, identity: str, now: int, body: bytes) -> str:
    """Standard Webhooks 1.0.0, "Signature scheme": `v1`, HMAC-SHA256 of id, time and body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.digest(key, f"{identity}.{now}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(signed).decode()

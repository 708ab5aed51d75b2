"""Tell clients that their person has answered (OpenID CIBA Core 1.0 §10.2): a step of the upkeep.

The answer itself is not sent; the client comes for it. What is not delivered is tried again, and a client can always
poll. Operators enter the addresses; each goes through the guard of `providers.outbound`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Final

from providers.outbound.messages import AddressRefused, HttpError, OutboundRequest
from server.deployment import Deployment
from vault import clients
from vault.approvals import approvals, requests
from vault.approvals.approvals import Approval, Ping
from vault.approvals.requests import DuePing
from vault.records import ApprovalState, Client

DELIVERY: Final = "backchannel_token_delivery_mode"  # of a client's metadata (§4)
ENDPOINT: Final = "backchannel_client_notification_endpoint"
_ANSWERED: Final = frozenset({ApprovalState.APPROVED.value, ApprovalState.REFUSED.value})
_AT_ONCE: Final = 5
_TIMEOUT: Final = 10.0  # seconds
_ANSWER_LIMIT: Final = 16 * 1024  # bytes
logger = logging.getLogger("token_vault.pings")


def pings(client: Client) -> bool:
    """Whether this client wants to be told."""
    return client.metadata.get(DELIVERY) == "ping"


async def send_pings(deployment: Deployment) -> int:
    """Send what is due; how many clients were told."""
    if not await requests.is_ping_due(deployment.database, now=deployment.now()):
        return 0
    async with deployment.transaction() as transaction:
        due = await requests.take_pings(transaction, now=deployment.now())
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(ping: DuePing) -> bool:
        async with places:
            return await _tell(deployment, ping)

    return sum(await asyncio.gather(*map(one, due)))


async def _tell(deployment: Deployment, due: DuePing) -> bool:
    approval = await approvals.get(deployment.database, deployment.keys, due.approval_id)
    client = None if approval is None else await clients.get_client(deployment.database, approval.client_id)
    was_told, is_over = False, True
    if approval is not None and client is not None and (ping := _ping_for(approval, client, now=deployment.now())):
        was_told, is_over = await _send(deployment, client, ping)
    async with deployment.transaction() as transaction:
        await requests.settle_ping(transaction, due, was_told=was_told or is_over, now=deployment.now())
    return was_told


def _ping_for(approval: Approval, client: Client, *, now: int) -> Ping | None:
    """What the client still waits for: nothing if it was here already, or is too late."""
    return approval.ping if pings(client) and approval.status(now) in _ANSWERED else None


async def _send(deployment: Deployment, client: Client, ping: Ping) -> tuple[bool, bool]:
    """Whether the client took it, and whether trying again is useless."""
    asked = OutboundRequest(
        "POST",
        str(client.metadata.get(ENDPOINT)),
        headers={
            "Authorization": f"Bearer {ping.token}",
            "Content-Type": "application/json",
            "User-Agent": "token-vault",
        },
        body=json.dumps({"auth_req_id": ping.auth_req_id}).encode(),
        timeout=_TIMEOUT,
        max_bytes=_ANSWER_LIMIT,
        peer="pings",
        account=client.id,
        is_foreign=True,
        reuse=False,
    )
    try:
        answer = await deployment.http.send(asked)
    except AddressRefused:
        logger.warning("client not told", extra={"client_id": client.id, "code": "address"})
        return False, True
    except HttpError as error:
        logger.warning("client not told", extra={"client_id": client.id, "code": error.reason})
        return False, False
    if answer.status < 300:
        return True, True
    logger.warning("client not told", extra={"client_id": client.id, "code": str(answer.status)})
    return False, answer.status < 500 and answer.status != 429

"""Notify clients that their person has answered (OpenID CIBA Core 1.0 §10.2), or push the answer to them (§10.3).

In ping mode, a client fetches the answer, and it can always poll. In push mode, each attempt sends the same grant and
refresh token; if the client accepts no attempt, the grant ends. Operators enter the addresses, and `providers.outbound`
checks each of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from server.deployment import Deployment
from server.notices.http_post import NotAccepted, Post, Uncertain, post
from server.oauth import identity
from server.oauth.backchannel import ciba_grant
from server.oauth.backchannel.clients import ENDPOINT, is_pushed_to, is_told
from server.oauth.rules import OAuthError
from server.oauth.token_answers import answer_content
from server.oauth.token_request import TokenGrant
from vault import clients, grants
from vault.approvals import approvals, client_notices, requests
from vault.approvals.approvals import Approval, Ping
from vault.approvals.client_notices import DueNotice, IssuedTokens
from vault.audit import audit
from vault.records import ApprovalState, Client
from vault.storage.database import Transaction

_ANSWERED: Final = frozenset({ApprovalState.APPROVED.value, ApprovalState.REFUSED.value})
_CLAIM: Final = "urn:openid:params:jwt:claim:"
AT_ONCE: Final = 5
TIMEOUT: Final = 10.0  # seconds
_NOT_DELIVERED: Final = "not_delivered"
_NOT_NOW: Final = HTTPStatus.SERVICE_UNAVAILABLE  # RFC 9110 §15.6.4: the request wasn't handled
_REFUSED: Final = {"error": "access_denied", "error_description": "the person denied the request"}
_EXPIRED: Final = {"error": "expired_token", "error_description": "the request has expired: send a new one"}
_FAILED: Final = {"error": "transaction_failed", "error_description": "the access that was approved has ended"}
logger = logging.getLogger("token_vault.pings")


@dataclass(frozen=True, slots=True)
class _SendResult:
    """The result: whether the client accepted it, and whether it won't be sent again."""

    was_taken: bool
    is_over: bool
    is_uncertain: bool = False


_NOTHING_TO_SEND: Final = _SendResult(was_taken=False, is_over=True)


async def tell_clients(deployment: Deployment) -> int:
    """Send due notifications; returns how many clients accepted them."""
    told = 0
    while await client_notices.is_due(deployment.database, now=deployment.now()):
        async with deployment.transaction() as transaction:
            due = await client_notices.take(transaction, now=deployment.now())
        told += sum(await asyncio.gather(*_tell_some(deployment, due)))
    return told


def _tell_some(deployment: Deployment, due: Sequence[DueNotice]) -> Iterator[Awaitable[bool]]:
    """Send these notices, a few at a time, soon enough that no other process takes them over."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(notice: DueNotice) -> bool:
        async with places:
            return await _tell(deployment, notice)

    return map(one, due)


async def _tell(deployment: Deployment, due: DueNotice) -> bool:
    now = deployment.now()
    async with deployment.transaction() as transaction:
        await requests.close(transaction, due.approval_id, now=now)  # before the client is told that no one answered
        approval = await approvals.get(transaction, deployment.keys, due.approval_id)
    client = None if approval is None else await clients.get_client(deployment.database, approval.client_id)
    sent, issued = _NOTHING_TO_SEND, client_notices.issued_before(due, deployment.keys)
    if approval is not None and client is not None and approval.ping is not None and is_told(client):
        body: Mapping[str, object] | None = {}
        if is_pushed_to(client):
            body, issued = await _answer(deployment, approval, client, issued=issued, now=now)
        elif approval.status(now) not in _ANSWERED:
            body = None  # the client already polled, or the request has ended
        if body is not None:
            sent = await _send(deployment, client, approval.ping, body)
    await _settle(deployment, due, sent, issued=issued)
    return sent.was_taken


async def _settle(deployment: Deployment, due: DueNotice, sent: _SendResult, *, issued: IssuedTokens | None) -> None:
    """Revoke tokens that definitely weren't received."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        is_forgotten = await client_notices.settle(transaction, due, is_over=sent.is_over, now=now)
        if issued is None or sent.was_taken or sent.is_uncertain or issued.may_be_there:
            return
        if not is_forgotten:  # this attempt definitely did not arrive
            await client_notices.keep_issued(transaction, deployment.keys, due.approval_id, issued)
            return
        ended = await grants.revoke_grant(transaction, issued.grant_id, reason=_NOT_DELIVERED, now=now)
        if ended is not None:
            await audit.append(transaction, grants.revocation_event(ended), now=now)


# The answer itself (§10.3.1, §12)


async def _answer(
    deployment: Deployment, approval: Approval, client: Client, *, issued: IssuedTokens | None, now: int
) -> tuple[Mapping[str, object] | None, IssuedTokens | None]:
    """The content to push (None for nothing), and the tokens that it contains."""
    if issued is not None:
        async with deployment.transaction() as transaction:
            await _keep_as_sent(transaction, deployment, approval, issued)
        return await _answer_again(deployment, approval, issued), issued
    match approval.status(now):
        case ApprovalState.REFUSED.value:
            return _REFUSED, None
        case ApprovalState.APPROVED.value:
            return await _first_answer(deployment, approval, client, now=now)
        case ApprovalState.PENDING.value | ApprovalState.CONSUMED.value:  # it polled before its registration changed
            return None, None
        case _:
            return _EXPIRED, None


async def _first_answer(
    deployment: Deployment, approval: Approval, client: Client, *, now: int
) -> tuple[Mapping[str, object] | None, IssuedTokens | None]:
    try:
        await ciba_grant.check_may_issue(deployment, approval, client)
    except OAuthError as refusal:
        logger.warning("nothing issued", extra={"client_id": client.id, "code": refusal.code})
        return _FAILED, None
    async with deployment.transaction() as transaction:
        made = await ciba_grant.issue(deployment, transaction, approval, client, network="", now=now)
        if made is None:
            return None, None
        issued = IssuedTokens(made.grant.id, made.refresh_token, made.refresh_expires_at)
        await _keep_as_sent(transaction, deployment, approval, issued)
    return await _tokens(deployment, approval, made), issued


async def _keep_as_sent(
    transaction: Transaction, deployment: Deployment, approval: Approval, issued: IssuedTokens
) -> None:
    """Recorded before sending, since this process may end before it knows the result."""
    await client_notices.keep_issued(transaction, deployment.keys, approval.id, replace(issued, may_be_there=True))


async def _answer_again(deployment: Deployment, approval: Approval, issued: IssuedTokens) -> Mapping[str, object]:
    live = await grants.live_principal_facts(deployment.database, issued.grant_id)
    if live is None:
        return _FAILED
    made = ciba_grant.token_grant(
        live.grant,
        requests.request_of(approval),
        refresh_token=issued.refresh_token,
        refresh_expires_at=issued.refresh_expires_at,
    )
    return await _tokens(deployment, approval, made)


async def _tokens(deployment: Deployment, approval: Approval, made: TokenGrant) -> Mapping[str, object]:
    """The ID token binds the whole answer to the request."""
    claims: dict[str, object] = {}
    if approval.ping is not None:
        claims[f"{_CLAIM}auth_req_id"] = approval.ping.auth_req_id
    if made.refresh_token is not None:
        claims[f"{_CLAIM}rt_hash"] = identity.token_hash(made.refresh_token)
    return await answer_content(deployment, made, now=deployment.now(), key_thumbprint=None, id_claims=claims)


async def _send(deployment: Deployment, client: Client, ping: Ping, answer: Mapping[str, object]) -> _SendResult:
    told = Post(
        str(client.metadata.get(ENDPOINT)),
        {"Authorization": f"Bearer {ping.token}", "Content-Type": "application/json"},
        json.dumps({"auth_req_id": ping.auth_req_id, **answer}).encode(),
        peer="pings",
        sender=client.id,
        timeout=TIMEOUT,
    )
    try:
        await post(deployment, told)
    except NotAccepted as refused:
        logger.warning("client not told", extra={"client_id": client.id, "code": str(refused.status or refused.code)})
        # §10.3.1 doesn't define 5xx. A gateway's 504 doesn't reveal whether the tokens arrived.
        is_uncertain = refused.status >= 500 and refused.status != _NOT_NOW
        return _SendResult(was_taken=False, is_over=refused.is_final, is_uncertain=is_uncertain)
    except Uncertain:
        logger.warning("client not told", extra={"client_id": client.id, "code": "uncertain"})
        return _SendResult(was_taken=False, is_over=False, is_uncertain=True)
    return _SendResult(was_taken=True, is_over=True)

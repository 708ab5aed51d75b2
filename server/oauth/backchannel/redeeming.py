"""The grant with which a client comes for the answer (OpenID CIBA Core 1.0 §10.1, §11): one token for one yes."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from server.http.addresses import network_of
from server.oauth.backchannel.clients import check_may_ask
from server.oauth.resources import known_resource
from server.oauth.rules import OAuthError
from server.oauth.token_rate import spend_request
from server.oauth.token_request import TokenGrant, TokenRequest
from vault import clients, grants, replay, users
from vault.approvals import requests
from vault.approvals.approvals import Approval
from vault.audit import audit
from vault.records import ApprovalState, Event, Grant
from vault.storage.database import Transaction
from vault.tokens import tokens as refresh_tokens

INTERVAL: Final = 5  # seconds between two polls


async def redeem(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    """The grant `urn:openid:params:grant-type:ciba`. Raises what the client is told instead."""
    check_may_ask(asked.client)
    auth_req_id = asked.form.require("auth_req_id")
    approval = await requests.find(deployment.database, deployment.keys, auth_req_id, client_id=asked.client.id)
    if approval is None:
        raise OAuthError("invalid_grant", "the auth_req_id is unknown", detail="unknown, or another client's")
    match approval.status(asked.now):
        case ApprovalState.APPROVED.value:
            return await _issue(deployment, asked, approval)
        case ApprovalState.PENDING.value:
            raise await _still_waiting(deployment, approval, now=asked.now)
        case ApprovalState.REFUSED.value:
            raise OAuthError("refused_by_person", "the person denied the request")
        case ApprovalState.CONSUMED.value:
            raise _already_used()
        case _:
            raise OAuthError("expired_token", "the request has expired: send a new one")


async def _issue(deployment: Deployment, asked: TokenRequest, approval: Approval) -> TokenGrant:
    wish = requests.wish_of(approval)
    if asked.resource not in {None, wish.resource}:
        raise OAuthError("invalid_target", "the person was asked for another resource")
    await known_resource(deployment, wish.resource, client=asked.client)
    user = await users.get_user(deployment.database, approval.user_id)
    if user is None or not user.has_agents:
        raise OAuthError("invalid_grant", "the person can't sign in any more", detail="user gone")
    spend_request(deployment, user_id=user.id, client_id=asked.client.id)
    refresh_token = None
    async with deployment.transaction() as transaction:
        if not await requests.consume(transaction, approval, now=asked.now):
            raise _already_used()
        grant = await grants.create_grant(
            transaction,
            user_id=user.id,
            client_id=asked.client.id,
            scopes=wish.scopes,
            resource=wish.resource,
            redirect_uri="",
            now=asked.now,
        )
        # What was approved with details is one thing: it isn't renewed.
        if "offline_access" in wish.scopes and "refresh_token" in asked.client.grant_types and not wish.details:
            refresh_token = await _refresh_token(deployment, transaction, asked, grant)
        await clients.touch(transaction, asked.client.id, now=asked.now)
        await audit.append(transaction, *_events(approval, grant), now=asked.now)
    return TokenGrant(
        grant,
        wish.scopes,
        wish.resource,
        refresh_token,
        None if refresh_token is None else deployment.refresh_lifetimes.first_end(asked.now),
        asks_anew=True,
        details=wish.details,
    )


async def _refresh_token(deployment: Deployment, transaction: Transaction, asked: TokenRequest, grant: Grant) -> str:
    return await refresh_tokens.issue_refresh_token(
        transaction,
        grant,
        scopes=grant.scopes,
        resource=grant.resource,
        now=asked.now,
        lifetimes=deployment.refresh_lifetimes,
        key_thumbprint=None,
        network=network_of(asked.address),
    )


def _events(approval: Approval, grant: Grant) -> tuple[Event, Event]:
    told = {"scopes": sorted(grant.scopes), "resource": grant.resource}
    used = {**told, "call": approval.digest.hex(), "approval": approval.id}
    return (
        Event("approval.consumed", user_id=grant.user_id, client_id=grant.client_id, details=used),
        Event("grant.created", user_id=grant.user_id, client_id=grant.client_id, details={"grant": grant.id, **told}),
    )


def _already_used() -> OAuthError:
    return OAuthError("invalid_grant", "this request was already answered with a token")


async def _still_waiting(deployment: Deployment, approval: Approval, *, now: int) -> OAuthError:
    async with deployment.database.transaction() as transaction:
        in_time = await replay.first_use(transaction, "ciba-poll", approval.id, expires_at=now + INTERVAL, now=now)
    if in_time:
        return OAuthError("authorization_pending", "the person hasn't answered yet")
    longer = 2 * INTERVAL  # §11: 5 seconds more from now on
    return OAuthError(
        "slow_down",
        f"poll every {longer} seconds at most from now on",
        headers={"Retry-After": str(longer)},
        members={"interval": longer},
    )

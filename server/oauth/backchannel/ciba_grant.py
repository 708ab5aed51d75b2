"""The grant with which a client fetches the answer (OpenID CIBA Core 1.0 §10.1, §11): one token per approval."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from server.http.addresses import network_of
from server.oauth.backchannel.clients import check_may_ask, is_pushed_to
from server.oauth.resources import hold_resource, known_resource
from server.oauth.rules import OAuthError
from server.oauth.token_rate import spend_request
from server.oauth.token_request import TokenGrant, TokenRequest
from vault import clients, grants, replay, users
from vault.approvals import client_notices, requests
from vault.approvals.approvals import Approval
from vault.approvals.requests import BackchannelRequest
from vault.audit import audit
from vault.records import ApprovalState, Client, Event, Grant
from vault.storage.database import Transaction
from vault.tokens import tokens as refresh_tokens

INTERVAL: Final = 5  # seconds between two polls


async def redeem(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    """The grant `urn:openid:params:grant-type:ciba`. Raises the error for the client instead."""
    check_may_ask(asked.client)
    if is_pushed_to(asked.client):  # §10.1
        raise OAuthError("unauthorized_client", "this client gets its tokens pushed, so it can't poll for them")
    auth_req_id = asked.form.require("auth_req_id")
    approval = await requests.find(deployment.database, deployment.keys, auth_req_id, client_id=asked.client.id)
    if approval is None:
        raise OAuthError(
            "invalid_grant",
            "the auth_req_id is unknown",
            detail="the auth_req_id is unknown, or was issued to another client",
        )
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
    request = requests.request_of(approval)
    if asked.resource not in {None, request.resource}:
        raise OAuthError("invalid_target", "the person was asked for another resource")
    await check_may_issue(deployment, approval, asked.client)
    spend_request(deployment, user_id=approval.user_id, client_id=asked.client.id)
    async with deployment.transaction() as transaction:
        issued = await issue(
            deployment, transaction, approval, asked.client, network=network_of(asked.address), now=asked.now
        )
    if issued is None:
        raise OAuthError("invalid_grant", "this request was already answered, or what it is for was removed")
    return issued


async def check_may_issue(deployment: Deployment, approval: Approval, client: Client) -> None:
    """Check what may have changed since the client asked. Raises OAuthError."""
    await known_resource(deployment, requests.request_of(approval).resource, client=client)
    user = await users.get_user(deployment.database, approval.user_id)
    if user is None or not user.has_agents:
        raise OAuthError("invalid_grant", "the person can no longer sign in", detail="the user was deleted or disabled")


async def issue(
    deployment: Deployment, transaction: Transaction, approval: Approval, client: Client, *, network: str, now: int
) -> TokenGrant | None:
    """Use up the approval for a grant, with its events; None if another request was faster, or the client or API is
    gone."""
    request = requests.request_of(approval)
    if not await grants.hold_client(transaction, client.id):
        return None
    if not await hold_resource(deployment, transaction, request.resource):
        return None
    if not await requests.consume(transaction, approval, now=now):
        return None
    await clients.touch(transaction, client.id, now=now)
    # An approval with details is for a single use, so it isn't renewed.
    stays = "offline_access" in request.scopes and "refresh_token" in client.grant_types and not request.details
    grant = await grants.create_grant(
        transaction,
        user_id=approval.user_id,
        client_id=client.id,
        scopes=request.scopes,
        resource=request.resource,
        redirect_uri="",
        now=now,
        ends_at=None if stays else now + client_notices.LONGEST + deployment.settings.tokens.access_lifetime,
    )
    refresh_token, lifetimes = None, deployment.refresh_lifetimes
    if stays:
        refresh_token = await refresh_tokens.issue_refresh_token(
            transaction,
            grant,
            scopes=grant.scopes,
            resource=grant.resource,
            now=now,
            lifetimes=lifetimes,
            key_thumbprint=None,
            network=network,
        )
    await audit.append(transaction, *_events(approval, grant), now=now)
    ends_at = None if refresh_token is None else lifetimes.first_end(now)
    return token_grant(grant, request, refresh_token=refresh_token, refresh_expires_at=ends_at)


def token_grant(
    grant: Grant, request: BackchannelRequest, *, refresh_token: str | None, refresh_expires_at: int | None
) -> TokenGrant:
    """What a client gets for a grant that an approval created."""
    return TokenGrant(
        grant,
        request.scopes,
        request.resource,
        refresh_token,
        refresh_expires_at,
        asks_anew=True,
        details=request.details,
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

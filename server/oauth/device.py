"""Device authorization (RFC 8628): codes for an agent whose machine has no browser, and the answers to its polling.

The person enters the short code on the page `/device` and decides on the consent page. Approval creates an
authorization code with a secret that only the device code's sealed ticket contains; the token endpoint redeems it.
There is no `verification_uri_complete`, because an attacker would only have to send that link.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.http.addresses import address_of
from server.http.answers import json_answer
from server.oauth.authorization_request import AuthorizationRequest, DeviceFacts, payload_of
from server.oauth.authorize import REQUEST_LIFETIME, may_wait
from server.oauth.clients import authentication
from server.oauth.clients.rules import DEVICE_GRANT
from server.oauth.resources import api_scopes, known_resource, named_resource, ordinary_scopes
from server.oauth.rules import OAuthError, choose_scopes
from server.oauth.wire import read_form
from vault import replay, tickets
from vault.records import Client, Session, Ticket, TicketPurpose, parse_scope
from vault.refusals import TransitionRefused

INTERVAL: Final = 5  # seconds between two polls (§3.2)


async def authorize_device(deployment: Deployment, request: Request) -> Response:
    """A client with the device grant: RFC 8628 §3.1 and §3.2, RFC 8707; without `verification_uri_complete`."""
    form = await read_form(request)
    client = await authentication.authenticate(deployment, request, form)
    if DEVICE_GRANT not in client.grant_types:
        raise OAuthError("unauthorized_client", "this client isn't allowed to use the device grant")
    scope, address = form.get("scope"), address_of(request)
    named = named_resource(deployment, form, client=client)
    resource = await known_resource(deployment, named, client=client)
    known = await api_scopes(deployment, resource)
    scopes = choose_scopes(
        None if scope is None else parse_scope(scope),
        client=client,
        api_scopes=known,
        ordinary=ordinary_scopes(deployment, resource),
    )
    if not await may_wait(deployment, address):
        raise OAuthError(
            "too_many_requests",
            "too many agents are waiting for a sign-in from this address: try again later",
            headers={"Retry-After": str(REQUEST_LIFETIME)},
        )
    wanted = AuthorizationRequest(
        client_id=client.id,
        redirect_uri="",
        challenge="",  # matches no verifier, so the code behind a device code can't be redeemed as an ordinary one
        scopes=scopes,
        resource=resource,
        names_resource=named is not None,
        asks_always=True,
    )
    device_code, user_code = await _keep(deployment, wanted, address=address)
    return json_answer(
        {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": deployment.url("/device"),
            "expires_in": REQUEST_LIFETIME,
            "interval": INTERVAL,
        }
    )


async def _keep(deployment: Deployment, wanted: AuthorizationRequest, *, address: str) -> tuple[str, str]:
    """The device code and the user code of a new request."""
    now, code, user_code = deployment.now(), secrets.token_urlsafe(), tickets.new_user_code()
    facts = DeviceFacts(user_code=user_code, address=address, asked_at=now, code=code)
    kept = payload_of(replace(wanted, device=facts))
    async with deployment.database.transaction() as transaction:
        device_code = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.DEVICE_GRANT,
            payload={"code": code},
            lifetime=REQUEST_LIFETIME,
            now=now,
            client_id=wanted.client_id,
        )
        await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.USER_CODE,
            payload=kept,
            lifetime=REQUEST_LIFETIME,
            now=now,
            client_id=wanted.client_id,
            secret=user_code,
        )
    return device_code, user_code


async def open_request(deployment: Deployment, typed: str, *, session: Session) -> str | None:
    """Use up a user code; returns the handle of its request on the consent page, or None if it is wrong or expired
    (§3.3).

    The handle works only in `session`, which entered the code. Otherwise an attacker could enter the code of their own
    device and forward the link to the consent page, and approval there would reach that device.
    """
    now = deployment.now()
    try:
        async with deployment.transaction() as transaction:
            ticket = await tickets.consume(
                transaction, deployment.keys, typed, purpose=TicketPurpose.USER_CODE, now=now
            )
            return await tickets.issue(
                transaction,
                deployment.keys,
                purpose=TicketPurpose.AUTHORIZATION,
                payload=ticket.payload,
                lifetime=ticket.expires_at - now,
                now=now,
                user_id=session.user_id,
                client_id=ticket.client_id,
                binding=session.token_hash,
            )
    except TransitionRefused:
        return None


async def answered_code(deployment: Deployment, client: Client, device_code: str, *, now: int) -> str:
    """The authorization code that the person's approval created. Otherwise raises the error for the device (§3.5)."""
    ticket = await tickets.find(deployment.database, deployment.keys, device_code, purpose=TicketPurpose.DEVICE_GRANT)
    if ticket is None or ticket.client_id != client.id:
        raise OAuthError(
            "invalid_grant",
            "the device code is unknown",
            detail="the device code is unknown, or was issued to another client",
        )
    code = str(ticket.payload["code"])
    if await tickets.is_known(deployment.database, code, purpose=TicketPurpose.CODE):
        return code
    if await tickets.is_known(deployment.database, code, purpose=TicketPurpose.DEVICE_REFUSAL):
        raise OAuthError("refused_by_person", "the user denied the request")
    if now >= ticket.expires_at:
        raise OAuthError("expired_token", "the device code has expired: ask for a new one")
    raise await _still_waiting(deployment, ticket, now=now)


async def _still_waiting(deployment: Deployment, ticket: Ticket, *, now: int) -> OAuthError:
    async with deployment.database.transaction() as transaction:
        in_time = await replay.first_use(
            transaction, "device-poll", ticket.ticket_hash.hex(), expires_at=now + INTERVAL, now=now
        )
    if not in_time:
        return OAuthError("slow_down", f"poll every {INTERVAL} seconds at most; wait 5 seconds longer from now on")
    return OAuthError("authorization_pending", "the user hasn't answered yet")

"""Pushed authorization requests (RFC 9126), kept for a minute under a single-use URI.

`par` receives and checks them; `authorize` uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from server.deployment import Deployment
from server.oauth.parameters import Parameters
from server.oauth.rules import OAuthError
from vault import tickets
from vault.records import Client, TicketPurpose
from vault.refusals import TransitionRefused

PREFIX: Final = "urn:ietf:params:oauth:request_uri:"
LIFETIME: Final = 60  # seconds
MUST_PUSH: Final = "require_pushed_authorization_requests"  # RFC 9126 §6
LIMIT: Final = 8192  # characters of all values together
# What `authorize` reads; anything else that a client may send is ignored (RFC 6749 §3.1).
KNOWN: Final = (
    "client_id",
    "response_type",
    "response_mode",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "resource",
    "prompt",
    "max_age",
    "dpop_jkt",
    "audience",  # of clients of Auth0's interface
    *("request", "requested_connection"),  # listed so that they can be refused
)


async def keep(deployment: Deployment, client: Client, values: Mapping[str, str]) -> str:
    """Keep the parameters of a checked request; returns the `request_uri` for them."""
    async with deployment.transaction() as transaction:
        secret = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.PUSHED,
            payload=values,
            lifetime=LIFETIME,
            now=deployment.now(),
            client_id=client.id,
        )
    return PREFIX + secret


async def take(deployment: Deployment, sent: Parameters) -> Parameters | None:
    """Use up the `request_uri` and return its parameters; None for a request that wasn't pushed.

    §4: apart from it, only `client_id` counts. Raises invalid_request_uri, to be shown on a page only.
    """
    request_uri = sent.get("request_uri")
    if request_uri is None or not request_uri.startswith(PREFIX):
        return None
    refused = OAuthError("invalid_request_uri", "The request was already used, is older than a minute, or is unknown")
    if sent.repeated & {"client_id", "request_uri"}:
        raise refused
    secret, now = request_uri.removeprefix(PREFIX), deployment.now()
    held = await tickets.peek(deployment.database, deployment.keys, secret, purpose=TicketPurpose.PUSHED, now=now)
    if held is None or held.client_id != sent.get("client_id"):  # another client's stays valid for its own
        raise refused
    try:
        async with deployment.transaction() as transaction:
            await tickets.consume(transaction, deployment.keys, secret, purpose=TicketPurpose.PUSHED, now=now)
    except TransitionRefused as error:
        raise refused from error
    return Parameters({name: str(value) for name, value in held.payload.items()})


def check_was_pushed(deployment: Deployment, client: Client, *, was_pushed: bool) -> None:
    """Refuse a request that was not pushed, from a client that must push its requests. Raises invalid_request."""
    must = deployment.settings.tokens.require_pushed or client.metadata.get(MUST_PUSH) is True
    if must and not was_pushed:
        raise OAuthError("invalid_request", "this client must push its requests first (RFC 9126)")

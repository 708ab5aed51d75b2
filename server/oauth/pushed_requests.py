"""Pushed authorization requests (RFC 9126), kept for a minute under a single-use URI.

`par` receives and checks them; `authorize` uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from server.deployment import Deployment
from server.oauth.parameters import Parameters
from server.oauth.rules import OAuthError
from vault import tickets
from vault.records import Client, TicketPurpose
from vault.refusals import TransitionRefused
from vault.storage.database import Transaction

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


class RequestUriRefused(OAuthError):
    """The `request_uri` can't be used, or no longer; for a page only, because another answer may reach the client."""

    def __init__(self) -> None:
        super().__init__("invalid_request_uri", "The request was already used, is older than a minute, or is unknown")


@dataclass(frozen=True, slots=True)
class PushedRequest:
    """The parameters behind a `request_uri`, which `use_up` ends."""

    parameters: Parameters
    secret: str = field(repr=False)


async def find(deployment: Deployment, sent: Parameters) -> PushedRequest | None:
    """The request behind the `request_uri`; None for a request that wasn't pushed.

    §4: apart from it, only `client_id` counts. Raises RequestUriRefused.
    """
    request_uri = sent.get("request_uri")
    if request_uri is None or not request_uri.startswith(PREFIX):
        return None
    if sent.repeated & {"client_id", "request_uri"}:
        raise RequestUriRefused
    secret, now = request_uri.removeprefix(PREFIX), deployment.now()
    held = await tickets.peek(deployment.database, deployment.keys, secret, purpose=TicketPurpose.PUSHED, now=now)
    if held is None or held.client_id != sent.get("client_id"):  # another client's stays valid for its own
        raise RequestUriRefused
    return PushedRequest(Parameters({name: str(value) for name, value in held.payload.items()}), secret)


async def use_up(deployment: Deployment, transaction: Transaction, pushed: PushedRequest) -> None:
    """End the `request_uri`, in the transaction that keeps the request for the person. Raises RequestUriRefused."""
    now, purpose = deployment.now(), TicketPurpose.PUSHED
    try:
        await tickets.consume(transaction, deployment.keys, pushed.secret, purpose=purpose, now=now)
    except TransitionRefused as error:
        raise RequestUriRefused from error


def check_was_pushed(deployment: Deployment, client: Client, *, was_pushed: bool) -> None:
    """Refuse a request that was not pushed, from a client that must push its requests. Raises invalid_request."""
    must = deployment.settings.tokens.require_pushed or client.metadata.get(MUST_PUSH) is True
    if must and not was_pushed:
        raise OAuthError("invalid_request", "this client must push its requests first (RFC 9126)")

"""Which clients may ask, and what an operator configured for them (OpenID CIBA Core 1.0 §4, RFC 9396 §10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from server.oauth.clients.rules import BACKCHANNEL_GRANT
from server.oauth.rules import OAuthError
from vault.records import Client, ClientKind

# Of a client's metadata
DETAILS_TYPES: Final = "authorization_details_types"
DELIVERY: Final = "backchannel_token_delivery_mode"
ENDPOINT: Final = "backchannel_client_notification_endpoint"
SIGNING_ALG: Final = "backchannel_authentication_request_signing_alg"
USER_CODE: Final = "backchannel_user_code_parameter"
MEMBERS: Final = frozenset({DETAILS_TYPES, DELIVERY, ENDPOINT, SIGNING_ALG, USER_CODE})
MODES: Final = ("poll", "ping", "push")


def check_may_ask(client: Client) -> None:
    """Check that an operator allowed this client and that it can authenticate. Raises OAuthError."""
    is_known = client.kind is ClientKind.MANUAL and not client.is_public
    if not is_known or BACKCHANNEL_GRANT not in client.grant_types:
        raise OAuthError(
            "unauthorized_client",
            "this client isn't allowed to ask people: ask an admin to register it with token-vault clients add --ciba",
        )


def details_types(client: Client) -> Sequence[str]:
    """The types of authorization details that this client may ask for."""
    named = client.metadata.get(DETAILS_TYPES)
    return [str(one) for one in named] if isinstance(named, list) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- parsed JSON


def is_told(client: Client) -> bool:
    """Whether this client wants to be notified of the answer."""
    return client.metadata.get(DELIVERY) in {"ping", "push"}


def is_pushed_to(client: Client) -> bool:
    """Whether the answer itself is pushed to this client, so that it can't poll for it."""
    return client.metadata.get(DELIVERY) == "push"


def signing_algorithm(client: Client) -> str | None:
    """The algorithm with which this client signs every request; None if it doesn't sign."""
    named = client.metadata.get(SIGNING_ALG)
    return named if isinstance(named, str) else None


def needs_user_code(client: Client) -> bool:
    """Whether this client must send the user code of the person that it asks."""
    return client.metadata.get(USER_CODE) is True

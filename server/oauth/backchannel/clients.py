"""Which clients may ask, and what an operator said of them (OpenID CIBA Core 1.0 §4, RFC 9396 §10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from server.oauth.clients.rules import BACKCHANNEL_GRANT
from server.oauth.rules import OAuthError
from vault.records import Client, ClientKind

DETAILS_TYPES: Final = "authorization_details_types"  # of a client's metadata


def check_may_ask(client: Client) -> None:
    """Only a client that an operator allowed, and that proves who it is. Raises OAuthError."""
    is_known = client.kind is ClientKind.MANUAL and not client.is_public
    if not is_known or BACKCHANNEL_GRANT not in client.grant_types:
        raise OAuthError(
            "unauthorized_client",
            "this client isn't allowed to ask people: an admin allows it with token-vault clients add --ciba",
        )


def details_types(client: Client) -> Sequence[str]:
    """The types of authorization details that this client may ask for."""
    named = client.metadata.get(DETAILS_TYPES)
    return [str(one) for one in named] if isinstance(named, list) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- parsed JSON

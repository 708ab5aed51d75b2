"""Clients that were written for Auth0: their configuration by operators, and the audience and scopes that they use."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from vault.records import Client, ClientKind

MEMBER: Final = "auth0"  # of a client's metadata
ME_SCOPES: Final = frozenset(f"{verb}:me:connected_accounts" for verb in ("create", "read", "delete"))


def me_audience(deployment: Deployment) -> str:
    """The audience of the My Account API, which clients build from the domain, with a trailing slash."""
    return f"{deployment.public_url}/me/"


def speaks_auth0(deployment: Deployment, client: Client) -> bool:
    """Whether an operator registered this client for Auth0's interface: it gets scopes that such clients never request
    by name."""
    is_marked = client.kind is ClientKind.MANUAL and client.metadata.get(MEMBER) is True
    return is_marked and deployment.settings.auth0.enabled

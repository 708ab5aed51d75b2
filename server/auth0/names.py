"""Auth0's names of connections, and our providers behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from providers.definitions.catalog import Provider
from server.deployment import Deployment

# Where Auth0's name of a social or enterprise connection is another than that of our provider file.
CONNECTIONS: Final[Mapping[str, str]] = {
    "google-oauth2": "google",
    "google-apps": "google",
    "windowslive": "microsoft",
    "waad": "microsoft",
    "sign-in-with-slack": "slack",
    "twitter": "x",
    "huggingface": "hugging-face",
    "stripe": "stripe-connect",
    "paypal-sandbox": "paypal",
    "salesforce-sandbox": "salesforce",
}
# SDKs compare this name with the one they asked for: it is that of Auth0's own connection.
_SHOWN: Final[Mapping[str, str]] = {
    "google": "google-oauth2",
    "microsoft": "windowslive",
    "slack": "sign-in-with-slack",
    "x": "twitter",
}


def provider_of(deployment: Deployment, connection: str) -> Provider | None:
    """The provider behind the name of a connection: the operator's names, Auth0's, then ours."""
    named = deployment.settings.auth0.connections.get(connection) or CONNECTIONS.get(connection) or connection
    return deployment.catalog.get(named)


def connection_name(deployment: Deployment, provider: str) -> str:
    """What answers call the provider: the operator's name for it, Auth0's, or ours."""
    own = (name for name, target in deployment.settings.auth0.connections.items() if target == provider)
    return next(own, None) or _SHOWN.get(provider, provider)

"""Auth0's names of connections, and our providers behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from providers.definitions.catalog import Provider
from server.deployment import Deployment
from vault.records import Connection

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


NAME: Final = "auth0_connection"  # fact of a connection: the name with which an application had it connected


def connection_name(deployment: Deployment, connection: Connection, *, asked: Sequence[str] = ()) -> str:
    """What answers call this account's connection, since several names can stand for one provider.

    The name that the application asks with, that with which one had it connected, or the provider's first.
    """
    kept = connection.metadata.get(NAME, "")
    for name in (kept, *asked) if kept in asked else (*asked, kept):
        if name and stands_for(deployment, name, connection):
            return name
    return names_of(deployment, connection.provider)[0]


def stands_for(deployment: Deployment, name: str, connection: Connection) -> bool:
    """Whether an application that names this connection means, among others, this account."""
    found = provider_of(deployment, name)
    return found is not None and found.name == connection.provider


def names_of(deployment: Deployment, provider: str) -> Sequence[str]:
    """The names of a provider's connections: the operator's, or Auth0's, or ours."""
    own = [name for name, target in deployment.settings.auth0.connections.items() if target == provider]
    return own or [strategy_of(provider)]


def strategy_of(provider: str) -> str:
    """Auth0's name of the kind of connection."""
    return _SHOWN.get(provider, provider)

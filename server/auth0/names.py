"""Auth0's names of connections, and our providers behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from providers.definitions.catalog import Provider
from server.deployment import Deployment
from vault.records import Connection

# Auth0's names of social or enterprise connections that differ from our provider file's.
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
# SDKs compare this name, which is Auth0's, with the one that they requested.
_SHOWN: Final[Mapping[str, str]] = {
    "google": "google-oauth2",
    "microsoft": "windowslive",
    "slack": "sign-in-with-slack",
    "x": "twitter",
}


def provider_of(deployment: Deployment, connection: str) -> Provider | None:
    """The provider behind a connection name, by the operator's names, then Auth0's, then ours."""
    named = deployment.settings.auth0.connections.get(connection) or CONNECTIONS.get(connection) or connection
    return deployment.catalog.get(named)


NAME: Final = "auth0_connection"  # metadata of a connection: the name that an application used when connecting it


def connection_name(deployment: Deployment, connection: Connection, *, asked: Sequence[str] = ()) -> str:
    """The name of this account's connection in answers, since several names can mean the same provider.

    The name in the application's request, the name used when connecting, or the provider's first name.
    """
    kept = connection.metadata.get(NAME, "")
    for name in (kept, *asked) if kept in asked else (*asked, kept):
        if name and stands_for(deployment, name, connection):
            return name
    return names_of(deployment, connection.provider)[0]


def stands_for(deployment: Deployment, name: str, connection: Connection) -> bool:
    """Whether this connection name can refer to this account."""
    found = provider_of(deployment, name)
    return found is not None and found.name == connection.provider


def names_of(deployment: Deployment, provider: str) -> Sequence[str]:
    """The names of a provider's connections: the operator's, or Auth0's, or ours."""
    own = [name for name, target in deployment.settings.auth0.connections.items() if target == provider]
    return own or [strategy_of(provider)]


def strategy_of(provider: str) -> str:
    """Auth0's name for the kind of connection."""
    return _SHOWN.get(provider, provider)

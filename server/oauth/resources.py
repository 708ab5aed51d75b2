"""The audiences that a client can get tokens for (RFC 8707), and the scopes of an audience."""

from __future__ import annotations

from server.deployment import Deployment
from server.oauth.clients.auth0 import ME_SCOPES, me_audience, speaks_auth0
from server.oauth.parameters import Parameters
from server.oauth.rules import (
    ADMIN_READ,
    ADMIN_SCOPES,
    ORDINARY_SCOPES,
    SCOPES,
    OAuthError,
    admin_resource,
    canonical_resource,
    default_resource,
    own_resources,
)
from vault import apis
from vault.records import Client, ClientKind
from vault.storage.database import Reader, Transaction


def named_resource(deployment: Deployment, parameters: Parameters, *, client: Client) -> str | None:
    """The request's target: `resource`, or `audience` from a client of Auth0's interface. Raises invalid_target."""
    resource = parameters.get("resource")
    audience = parameters.get("audience") if speaks_auth0(deployment, client) else None
    if audience == "None":  # how auth0-python 4.13 represents None in a form
        audience = None
    if resource is None or audience is None:
        return resource or audience
    url = deployment.public_url
    if canonical_resource(resource, public_url=url) != canonical_resource(audience, public_url=url):
        raise OAuthError("invalid_target", "resource and audience name different targets")
    return resource


async def known_resource(deployment: Deployment, asked: str | None, *, client: Client) -> str:
    """RFC 8707 §2: one of our endpoints, or a registered API that the client is bound to. Raises invalid_target.

    Without `asked`, the first one that the client is bound to, so that it never sends a token for another audience
    there.
    """
    if asked is None:
        asked = client.resources[0] if client.resources else default_resource(deployment.public_url)
    if asked == me_audience(deployment) and speaks_auth0(deployment, client):
        return asked
    resource = canonical_resource(asked, public_url=deployment.public_url)
    if resource == admin_resource(deployment.public_url) and may_administer(client, deployment.public_url):
        return resource
    ours = own_resources(deployment.public_url)
    is_open = resource in (client.resources or ours)
    if any(provider.audience == resource for provider in deployment.catalog):
        is_open = False  # only through the exchange, which checks the person's permission and approval
    if not is_open or (resource not in ours and await apis.find_api(deployment.database, resource) is None):
        raise OAuthError("invalid_target", "this resource isn't known here, or this client can't use it")
    return resource


async def hold_resource(deployment: Deployment, transaction: Transaction, resource: str) -> bool:
    """Keep the resource from being removed until the transaction ends; False if its API was removed. Call it before
    locking grants."""
    return resource in own_audiences(deployment) or await apis.hold_api(transaction, resource)


def own_audiences(deployment: Deployment) -> frozenset[str]:
    """All audiences of the vault itself, which no other API can use."""
    public_url = deployment.public_url
    more = {admin_resource(public_url), me_audience(deployment), f"{public_url}/api/v2/"}
    return own_resources(public_url) | more


def may_administer(client: Client, public_url: str) -> bool:
    """Whether an operator registered this client for the Admin API; self-registered clients can't use it."""
    return client.kind is ClientKind.MANUAL and admin_resource(public_url) in client.resources


def ordinary_scopes(deployment: Deployment, resource: str) -> frozenset[str]:
    """The scopes for a client that requests none."""
    is_admin = resource == admin_resource(deployment.public_url)
    return frozenset({ADMIN_READ}) if is_admin else ORDINARY_SCOPES


async def api_scopes(deployment: Deployment, resource: str) -> frozenset[str]:
    """The scopes of a registered API, or of the Admin API; none for our MCP endpoints."""
    if resource == admin_resource(deployment.public_url):
        return ADMIN_SCOPES
    if resource in own_resources(deployment.public_url):
        return frozenset()
    if resource == me_audience(deployment):
        return ME_SCOPES
    registered = await apis.find_api(deployment.database, resource)
    return frozenset() if registered is None else registered.scopes


async def offered_scopes(
    deployment: Deployment, resource: str, scopes: frozenset[str], *, reader: Reader | None = None
) -> frozenset[str]:
    """Those of a token's scopes that its resource has now, since an operator can take scopes off a registered API.

    Raises OAuthError if none of them is left.
    """
    if resource in own_audiences(deployment) or any(one.audience == resource for one in deployment.catalog):
        return scopes
    registered = await apis.find_api(reader or deployment.database, resource)
    left = scopes if registered is None else scopes & (SCOPES | registered.scopes)
    if scopes and not left:
        raise OAuthError("invalid_scope", "the API doesn't have any of these scopes anymore: sign in again")
    return left

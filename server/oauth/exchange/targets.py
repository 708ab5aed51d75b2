"""The target of an exchange: an account at a provider, or one of our own audiences (RFC 8693 §2.1, RFC 8707).

`audience` is a name (provider, alias, connection), `resource` an address (an API of a provider or of ours).
`server.oauth.exchange.exchange` decides whether the client may have it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from providers.api import rules
from providers.definitions.catalog import Catalog, Provider
from providers.oauth.narrowing import item_of
from server.deployment import Deployment
from server.oauth.rules import OAuthError, canonical_resource, own_resources
from vault import apis, shared_connections

# Addresses that don't identify a resource reliably: dot segments in any encoding, query, fragment.
_WINDING: Final = re.compile(r"(?i)/(\.|%2e){1,2}(/|$)|[?#\\\s]|%(2f|5c|25|[01][0-9a-f]|7f)")


@dataclass(frozen=True, slots=True)
class UpstreamTarget:
    """An account at a provider. `scopes`: those of the alias. `api`: the key of the requested API.

    `item`: the address of the single item that the token is limited to, such as a repository.
    """

    provider: Provider
    api: str | None = None
    scopes: frozenset[str] | None = None
    connection_id: str | None = None
    item: str | None = None


@dataclass(frozen=True, slots=True)
class OwnTarget:
    """An audience of our own access tokens, with the scopes that are its own."""

    resource: str
    scopes: frozenset[str]


Target = UpstreamTarget | OwnTarget


def _unknown(what: str) -> OAuthError:
    return OAuthError("invalid_target", f"this {what} isn't known here")


async def resolve(deployment: Deployment, *, audience: str | None, resource: str | None, user_id: str) -> Target:
    """The one target that both name. Raises invalid_target; invalid_request when neither is present."""
    named = None if audience is None else await _by_name(deployment, audience, user_id=user_id)
    if resource is None:
        if named is None:
            raise OAuthError("invalid_request", "set audience or resource to name the token's target")
        return named
    if isinstance(named, UpstreamTarget):
        api = _api_at(named.provider, resource)
        if api is None:
            raise OAuthError("invalid_target", "resource isn't an API of that provider")
        return replace(named, api=api, item=_item_at(named.provider, resource))
    addressed = await _by_address(deployment, resource)
    if named is not None and named != addressed:
        raise OAuthError("invalid_target", "audience and resource name different targets")
    return addressed


async def _by_name(deployment: Deployment, audience: str, *, user_id: str) -> Target:
    known = deployment.catalog.get(audience)
    if known is not None:
        return UpstreamTarget(known, scopes=known.aliases.get(audience))
    if "://" in audience:
        return await _by_address(deployment, audience)
    connection = await shared_connections.usable(deployment.database, audience, user_id=user_id, now=deployment.now())
    if connection is None or (provider := deployment.catalog.get(connection.provider)) is None:
        raise _unknown("audience")
    return UpstreamTarget(provider, connection_id=connection.id)


async def _by_address(deployment: Deployment, address: str) -> Target:
    resource = canonical_resource(address, public_url=deployment.public_url)
    if resource in own_resources(deployment.public_url):
        return OwnTarget(resource, frozenset())
    own = next((provider for provider in deployment.catalog if provider.audience == resource), None)
    if own is not None:
        return UpstreamTarget(own)  # with the person's permission for it, as for every provider
    registered = await apis.find_api(deployment.database, resource)
    if registered is not None:
        return OwnTarget(registered.resource, registered.scopes)
    matching = provider_at(deployment.catalog, resource)
    match matching:
        case []:
            raise _unknown("resource")
        case [(provider, api)]:
            return UpstreamTarget(provider, api, item=_item_at(provider, resource))
        case _:
            names = ", ".join(provider.name for provider, _ in matching)
            raise OAuthError("invalid_target", f"several providers have this API: name one as audience ({names})")


def provider_at(catalog: Catalog, address: str) -> list[tuple[Provider, str]]:
    """The providers with an API at this address, each with its key."""
    found = ((provider, _api_at(provider, address)) for provider in catalog)
    return [(provider, api) for provider, api in found if api is not None]


def api_for(provider: Provider, scopes: frozenset[str]) -> str | None:
    """The API for a handle if none was named: the first one where these scopes allow anything, else the first."""
    held = rules.expand(provider, scopes)
    for key in provider.apis:
        for (api, _), found in provider.rules_by_call.items():
            if api == key and any(not rule.scopes.isdisjoint(held) for rule in found):
                return key
    return next(iter(provider.apis), None)


def _item_at(provider: Provider, address: str) -> str | None:
    """The address, if it names something that this provider limits tokens to."""
    return None if item_of(provider, address) is None else address


def _api_at(provider: Provider, address: str) -> str | None:
    """The API with this base address, or with the longest base address that is a prefix of it."""
    if _WINDING.search(address) is not None:
        return None
    wanted = address.rstrip("/") + "/"
    matching = {key: base for key, url in provider.apis.items() if wanted.startswith(base := url.rstrip("/") + "/")}
    return max(matching, key=lambda key: len(matching[key]), default=None)

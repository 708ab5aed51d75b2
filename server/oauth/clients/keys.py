"""The public keys of a `private_key_jwt` client: registered with it, or behind its `jwks_uri`.

Fetching them is `server.signatures.key_sets`, verifying with them `server.oauth.clients.authentication`.
"""

from __future__ import annotations

from providers.outbound.addresses import AddressPolicy
from server.deployment import Deployment
from server.http.addresses import counting_key
from server.oauth.clients.rules import key_host_allowed
from server.signatures.key_sets import Jwks, keys_behind, keys_by_id, usable_keys
from vault.records import Client


async def keys_of(deployment: Deployment, client: Client, *, kid: str | None, address: str, now: int) -> Jwks:
    """The candidate keys: those with this `kid`, or all if it is absent. Empty if none is available.

    `address`: where the request came from.
    """
    jwks = client.metadata.get("jwks")
    if isinstance(jwks, dict):
        members: dict[str, object] = {str(name): value for name, value in jwks.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- stored JSON
        return keys_by_id(usable_keys(members), kid)
    url = client.metadata.get("jwks_uri")
    if not isinstance(url, str):
        return ()
    is_foreign = not client.is_vouched_for
    if is_foreign and not key_host_allowed(url, deployment.settings):  # stored under a looser setting
        return ()
    policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_client_metadata)
    whose = counting_key(address) if is_foreign else None
    return await keys_behind(deployment.http, url, kid=kid, policy=policy, on_behalf_of=whose, now=now)

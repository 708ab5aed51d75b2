"""Claims of a token from an issuer that the operator trusts, verified with the keys from its metadata or a setting.

Shared by employees' tokens at the exchange and identity assertions. Callers check the claims.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from providers.definitions.issuers import NoMetadata, fetch_metadata
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.json_values import text_at
from server.signatures import jose
from server.signatures.key_sets import KEPT, NoKeys, claims_of_issuer

_FETCH_TIME: Final = 3.0  # seconds


async def claims_of_trusted(
    http: Outbound,
    token: str,
    *,
    issuer: str,
    jwks_uri: str | None,
    policy: AddressPolicy,
    now: int,
    members: Collection[str] = jose.HEADER_MEMBERS,
) -> dict[str, object]:
    """The verified claims. `jwks_uri` None: discovered. Raises TokenMalformed; NoKeys if there are no keys."""
    url = jwks_uri or await key_address(http, issuer, policy, now=now)
    return await claims_of_issuer(http, token, url, policy=policy, now=now, members=members)


async def key_address(http: Outbound, issuer: str, policy: AddressPolicy, *, now: int) -> str:
    """The address of the issuer's keys, from its own metadata. Raises NoKeys."""
    try:
        content = await fetch_metadata(issuer, http, policy=policy, timeout=_FETCH_TIME, now=now, max_age=KEPT)
    except NoMetadata as error:
        raise NoKeys(f"discovery: {error}") from error
    url = text_at(content, "jwks_uri")
    if url is None or not (url.startswith("https://") or policy.allow_loopback):
        raise NoKeys("discovery: no keys, or keys without TLS")
    return url

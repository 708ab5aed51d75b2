"""The endpoints of the OpenID Connect issuers that settings name as providers.

Fetched at each start, kept in the data directory for when an issuer does not answer. `providers.definitions.discovery`
interprets discovery documents.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter, ValidationError

from providers.definitions.discovery import DiscoveryFailed, Endpoints, find_endpoints
from server.settings import Settings, SettingsRefused

if TYPE_CHECKING:
    from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound

WAIT: Final = 5.0  # seconds for an issuer to answer
_FOLDER: Final = "issuers"
_ENDPOINTS: TypeAdapter[Endpoints] = TypeAdapter(Endpoints)


async def endpoints_of_issuers(settings: Settings, *, data: Path, outbound: Outbound) -> Mapping[str, Endpoints]:
    """The endpoints of each provider that is an issuer. Raises SettingsRefused when one was never reachable."""
    named = {name: one for name, one in settings.providers.items() if one.issuer is not None}
    loopback = settings.sandbox.loopback_upstreams
    found = await asyncio.gather(
        *(
            _endpoints(
                name,
                one.issuer or "",
                data=data,
                outbound=outbound,
                policy=one.reach(name, allow_loopback=loopback),
                has_certificate=one.client_certificate_file is not None,
            )
            for name, one in named.items()
        )
    )
    return dict(zip(named, found, strict=True))


async def _endpoints(
    name: str, issuer: str, *, data: Path, outbound: Outbound, policy: AddressPolicy | None, has_certificate: bool
) -> Endpoints:
    kept = data / _FOLDER / f"{name}.json"
    try:
        async with asyncio.timeout(WAIT):
            found = await find_endpoints(issuer, outbound, policy=policy, has_certificate=has_certificate)
    except (DiscoveryFailed, TimeoutError) as error:
        remembered = _read_kept(kept, issuer, has_certificate=has_certificate)
        if remembered is None:
            raise SettingsRefused(f"providers.{name}.issuer: {error or f'no answer from {issuer}'}") from error
        return remembered
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    values = {**asdict(found), "scopes": sorted(found.scopes)}
    content = {"issuer": issuer, "has_certificate": has_certificate, "endpoints": values}
    kept.write_text(json.dumps(content), encoding="utf-8")
    return found


def _read_kept(kept: Path, issuer: str, *, has_certificate: bool) -> Endpoints | None:
    """What this issuer said at an earlier start."""
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        endpoints = {"is_openid": True, **content["endpoints"]}  # from an earlier release, which knew no others
        is_same = content["issuer"] == issuer and content.get("has_certificate", False) is has_certificate
        return _ENDPOINTS.validate_python(endpoints) if is_same else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None

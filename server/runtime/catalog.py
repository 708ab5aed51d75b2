"""The provider files under the settings of this vault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from providers.definitions.catalog import Catalog, ProviderOverrides, load_catalog
from providers.definitions.discovery import Endpoints
from server.settings import ProviderSettings, Settings

OWN_FILES: Final = "providers"  # a folder of the data directory: the operator's own provider files


def read_catalog(settings: Settings, *, data: Path, endpoints: Mapping[str, Endpoints]) -> Catalog:
    """The providers, with the files in the folder `providers` of the data directory.

    `endpoints`: of those that are issuers. Raises ProviderFileRefused with one line.
    """
    own = [data / OWN_FILES] if (data / OWN_FILES).is_dir() else []
    return load_catalog(
        [*own, *(folder.expanduser() for folder in settings.provider_folders)],
        {
            name: replace(_overrides(name, registered, settings), endpoints=endpoints.get(name))
            for name, registered in settings.providers.items()
        },
    )


def _overrides(name: str, registered: ProviderSettings, settings: Settings) -> ProviderOverrides:
    return ProviderOverrides(
        client_id=registered.client_id,
        client_secret=registered.secret(name),
        authorize_url=registered.authorize_url,
        token_url=registered.token_url,
        refresh_url=registered.refresh_url,
        long_lived_url=registered.long_lived_url,
        revoke_url=registered.revoke_url,
        userinfo_url=registered.userinfo_url,
        apis=dict(registered.apis),
        inputs=dict(registered.inputs),
        title=registered.title,
        scopes=None if registered.scopes is None else frozenset(registered.scopes),
        testing=registered.testing,
        is_loopback=settings.is_loopback,
        unruled_calls=registered.unruled_calls,
        reach=registered.reach(name, allow_loopback=settings.sandbox.loopback_upstreams),
    )

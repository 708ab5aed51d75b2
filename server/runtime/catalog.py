"""The provider files under the settings of this vault."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeGuard, get_args

from pydantic import ValidationError

from providers.definitions.catalog import Catalog, ProviderFileRefused, ProviderOverrides, load_catalog
from providers.definitions.discovery import Endpoints
from providers.definitions.model import Provider, Registration
from providers.definitions.remote import RemoteServer, RemoteTool, authorization_of, shown_names
from providers.tools.imported_api import read_imported
from providers.tools.spec import Effect
from server.settings import ProviderSettings, Settings
from vault.mcp.servers import McpServer

if TYPE_CHECKING:
    from vault.registrations import EnteredRegistration

OWN_FILES: Final = "providers"  # a folder of the data directory: the operator's own provider files


def read_catalog(
    settings: Settings,
    *,
    data: Path,
    endpoints: Mapping[str, Endpoints],
    entered: Mapping[str, EnteredRegistration] | None = None,
) -> Catalog:
    """The providers, with the files in the folder `providers` of the data directory.

    `endpoints`: of those that are issuers; `entered`: registrations from the browser. Settings of what may be an
    imported API are in `Catalog.unknown`. Raises ProviderFileRefused with one line.
    """
    own = [data / OWN_FILES] if (data / OWN_FILES).is_dir() else []
    overrides = {
        name: replace(_overrides(name, registered, settings), endpoints=endpoints.get(name))
        for name, registered in settings.providers.items()
    }
    remote: list[tuple[RemoteServer, Registration]] = []
    imported: list[Provider] = []
    for name, one in (entered or {}).items():
        if one.imported is not None:
            imported.append(read_imported(name, one.imported).provider)
        elif one.server is not None:
            found = remote_server(one.server)
            if found.program is not None and found.program not in settings.local_servers:
                raise ProviderFileRefused(f"{name}: the settings have no local_servers.{found.program}")
            remote.append((found, Registration(one.client_id, one.client_secret, is_on=True)))
        elif not is_set_here(settings, name):
            overrides[name] = _with_entered(overrides.get(name), one, settings)
    folders = [*own, *(folder.expanduser() for folder in settings.provider_folders)]
    return load_catalog(folders, overrides, remote, imported, may_import=True)


def remote_server(stored: McpServer) -> RemoteServer:
    """A stored MCP server with the tools that agents are offered: as they were accepted, and not gone.

    Whether an account still gets a tool in that form is looked up at each call. Raises ProviderFileRefused.
    """
    try:
        authorization = authorization_of(stored.facts)
    except ValidationError as error:
        raise ProviderFileRefused(f"{stored.name}: what is stored of it can't be used; add it again") from error
    names = names_of_tools(stored)
    tools, away = list[RemoteTool](), list[RemoteTool]()
    for one in stored.tools:
        if one.accepted is not None and is_effect(one.effect):
            tool = RemoteTool(one.name, names[one.name], one.accepted, one.effect, one.asks)
            (tools if one.state in {"accepted", "changed"} and not stored.is_disabled else away).append(tool)
    return RemoteServer(
        stored.name, stored.title, stored.url, authorization, tuple(tools), tuple(away), stored.is_disabled
    )


def names_of_tools(stored: McpServer, *, accepting: Collection[str] = ()) -> Mapping[str, str]:
    """The names here of all tools that were ever accepted, and of those that are `accepting`, without the server's.

    A name that was given stays: with it go permissions and rules, so that no other tool may get it.
    """
    prefix = f"{stored.name.replace('-', '_')}_"
    given = {one.name: one.shown for one in stored.tools if one.shown is not None}
    taken = {f"{prefix}tools", *(f"{prefix}{shown}" for shown in given.values())}
    before = sorted(one.name for one in stored.tools if one.accepted is not None and one.name not in given)
    new = sorted({*accepting} - given.keys() - {*before})
    return {**given, **shown_names(prefix, [*before, *new], taken=taken)}


def is_effect(text: str) -> TypeGuard[Effect]:
    """Whether this says what a tool does to data."""
    return text in get_args(Effect)


def is_set_here(settings: Settings, name: str) -> bool:
    """Whether the settings have our registration at this provider: then what was entered does not count."""
    found = settings.providers.get(name)
    return found is not None and found.client_id is not None


def _with_entered(
    configured: ProviderOverrides | None, entered: EnteredRegistration, settings: Settings
) -> ProviderOverrides:
    found = configured or ProviderOverrides(is_loopback=settings.is_loopback)
    return replace(
        found,
        client_id=entered.client_id,
        client_secret=entered.client_secret,
        inputs={**entered.inputs, **found.inputs},
        testing=entered.is_testing or found.testing,
    )


def _overrides(name: str, registered: ProviderSettings, settings: Settings) -> ProviderOverrides:
    return ProviderOverrides(
        client_id=registered.client_id,
        client_secret=registered.secret(name),
        certificate_file=registered.certificate(name),
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
        enabled=registered.enabled,
        unruled_calls=registered.unruled_calls,
        id_jag=registered.id_jag,
        regions=frozenset(registered.regions),
        downloads=None if registered.downloads is None else frozenset(registered.downloads),
        reach=registered.reach(name, allow_loopback=settings.sandbox.loopback_upstreams),
    )

"""The tools offered here: built-in and declared ones, minus what the operator removed, for all agents or for one.

The provider's rules and the person's permission limit what a tool can do; this module only determines which tools are
offered, and in which sets. The list doesn't depend on people's connections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from providers.definitions.catalog import WITH_TOOLS, Catalog
from providers.definitions.suggestions import did_you_mean
from providers.remote.sightings import Sightings
from providers.tools import declarations
from providers.tools.builtin import builtin_tools
from providers.tools.declarations import ToolFile
from providers.tools.declared_tools import data_tools
from providers.tools.search import ToolIndex
from providers.tools.sets import ToolOffer, ToolSet, builtin_sets, matching_names
from providers.tools.spec import ToolSpec
from providers.tools.unruled_tools import open_tools, unruled_tools
from server.mcp.offer.connections_spec import SPEC
from server.mcp.offer.discovery import DISCOVERY
from server.runtime.late_names import LateName, note_or_refuse
from server.settings import Settings, SettingsRefused
from server.tool_settings import ToolChoice

RESERVED: Final = frozenset({SPEC.name, *(spec.name for spec in DISCOVERY)})  # one of our tools has this name


def load_tools(
    settings: Settings,
    catalog: Catalog,
    sightings: Sightings | None = None,
    *,
    late: list[LateName] | None = None,
    imported: Sequence[tuple[Path, ToolFile]] = (),
) -> tuple[ToolSpec, ...]:
    """Every tool that agents can use here, in a fixed order. `late` collects names that match no tool yet.

    Built-in tools are included if their provider is set up; those of Slack and Google, an operator's own, and those of
    `imported` APIs always are. Raises ToolFileRefused or SettingsRefused with a one-line message.
    """
    present = {*WITH_TOOLS, *settings.providers, *catalog.registered}
    coded = [spec for spec in builtin_tools() if spec.provider in present]
    shipped = [
        (path, declarations.read_tool_file(path))
        for path in sorted(declarations.BUILT_IN.glob("*.toml"))
        if path.stem in present
    ]
    own = declarations.read_folders([folder.expanduser() for folder in settings.tools.folders])
    unruled = [
        spec
        for provider in catalog
        for spec in (
            *unruled_tools(provider, asks=_asks_unruled(settings, provider.name)),
            *open_tools(provider),
        )
    ]
    tools = (
        *coded,
        *data_tools((*shipped, *own, *imported), catalog),
        *unruled,
        *_remote_tools(catalog, sightings or Sightings()),
    )
    names = [spec.name for spec in tools]
    twice = sorted({name for name in names if names.count(name) > 1 or name in RESERVED})
    if twice:
        raise declarations.ToolFileRefused(f"tools.folders: {', '.join(twice)}: another tool already has this name")
    chosen = _choose(settings.tools, names, setting="tools", late=late)
    return tuple(spec for spec in tools if spec.name in chosen)


def _remote_tools(catalog: Catalog, sightings: Sightings) -> tuple[ToolSpec, ...]:
    if not catalog.remote:
        return ()
    from providers.remote.tools import remote_tools

    return tuple(spec for server in catalog.remote.values() for spec in remote_tools(server, sightings))


def load_away(catalog: Catalog, sightings: Sightings) -> tuple[ToolSpec, ...]:
    """Accepted tools of external MCP servers that can't be called now."""
    if not catalog.remote:
        return ()
    from providers.remote.tools import away_tools

    return tuple(spec for server in catalog.remote.values() for spec in away_tools(server, sightings))


def _asks_unruled(settings: Settings, provider: str) -> bool:
    found = settings.providers.get(provider)
    return found is None or found.unruled_approval


def hidden_tools(
    settings: Settings, tools: Sequence[ToolSpec], *, late: list[LateName] | None = None
) -> Mapping[str, frozenset[str]]:
    """The tools that each client doesn't have, by client ID. Raises SettingsRefused."""
    names = [spec.name for spec in tools]
    return {
        client_id: frozenset(names) - _choose(choice, names, setting=f"tools.clients.{client_id}", late=late)
        for client_id, choice in settings.tools.clients.items()
    }


def load_offer(
    settings: Settings, tools: Sequence[ToolSpec], catalog: Catalog, *, late: list[LateName] | None = None
) -> ToolOffer:
    """The sets of these tools, and the sets that the settings choose. Raises SettingsRefused with a one-line message.

    `late` collects names that no tool has yet; a tool set that isn't there yet is empty.
    """
    chosen = settings.tools
    titles = {spec.provider: catalog.provider(spec.provider).title for spec in tools if spec.provider is not None}
    sets = {found.name: found for found in builtin_sets(tools, titles=titles)}
    for name, wanted in chosen.sets.items():
        if name in sets:
            raise SettingsRefused(f"tools.sets.{name}: there is a set of this name; choose another name")
        names = [spec.name for spec in tools if spec.read_only or not wanted.read_only]
        sets[name] = ToolSet(
            name, wanted.title or name, _choose(wanted, names, setting=f"tools.sets.{name}", late=late)
        )
    profiles = {client_id: one.profile for client_id, one in chosen.clients.items() if one.profile is not None}
    for setting, profile in (
        ("tools.profile", chosen.profile),
        *((f"tools.clients.{client_id}.profile", profile) for client_id, profile in profiles.items()),
    ):
        if profile not in sets:
            problem = f"{setting}: no tool set {profile!r}; use one of: {', '.join(sets)}"
            note_or_refuse(late, setting, profile, problem)
            sets[profile] = ToolSet(profile, profile, frozenset())
    limits = {client_id: one.list_limit for client_id, one in chosen.clients.items() if one.list_limit is not None}
    return ToolOffer(
        sets,
        ToolIndex(tools, titles=titles),
        chosen.profile,
        chosen.list_limit,
        profiles=profiles,
        list_limits=limits,
        hidden=hidden_tools(settings, tools, late=late),
    )


def _choose(choice: ToolChoice, names: Sequence[str], *, setting: str, late: list[LateName] | None) -> frozenset[str]:
    chosen = _names_of(choice.enable, names, setting=f"{setting}.enable", late=late)
    hidden = _names_of(choice.disable, names, setting=f"{setting}.disable", late=late)
    return (chosen if choice.enable else frozenset(names)) - hidden


def _names_of(
    patterns: Sequence[str], names: Sequence[str], *, setting: str, late: list[LateName] | None
) -> frozenset[str]:
    found: set[str] = set()
    for pattern in patterns:
        matched = matching_names(pattern, names)
        if not matched:
            near = did_you_mean(pattern, names) or " See token-vault tools list"
            note_or_refuse(late, setting, pattern, f"{setting}: no tool {pattern!r}.{near}")
        found |= matched
    return frozenset(found)

"""The tools offered here: built-in and declared ones, minus what the operator removed, for all agents or for one.

The provider's rules and the person's permission limit what a tool may do; this module only says which are offered. The
list does not depend on what people have connected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from providers.definitions.catalog import WITH_TOOLS, Catalog
from providers.definitions.suggestions import did_you_mean
from providers.tools import declarations
from providers.tools.builtin import builtin_tools
from providers.tools.declared import data_tools
from providers.tools.spec import ToolSpec
from server.mcp.connections_spec import SPEC
from server.settings import Settings, SettingsRefused, ToolChoice


def load_tools(settings: Settings, catalog: Catalog) -> tuple[ToolSpec, ...]:
    """Every tool that agents can have here, in one fixed order.

    Built-in tools are included if their provider is set up; those of Slack and Google, and an operator's own, always
    are. Raises ToolFileRefused or SettingsRefused with one line.
    """
    present = {*WITH_TOOLS, *settings.providers}
    coded = [spec for spec in builtin_tools() if spec.provider in present]
    shipped = [
        (path, declarations.read_tool_file(path))
        for path in sorted(declarations.BUILT_IN.glob("*.toml"))
        if path.stem in present
    ]
    own = declarations.read_folders([folder.expanduser() for folder in settings.tools.folders])
    tools = (*coded, *data_tools((*shipped, *own), catalog))
    names = [spec.name for spec in tools]
    twice = sorted({name for name in names if names.count(name) > 1 or name == SPEC.name})
    if twice:
        raise declarations.ToolFileRefused(f"tools.folders: {', '.join(twice)}: another tool has this name already")
    return tuple(spec for spec in tools if spec.name in _choose(settings.tools, names, setting="tools"))


def hidden_tools(settings: Settings, tools: Sequence[ToolSpec]) -> Mapping[str, frozenset[str]]:
    """Client id to the tools that this client does not have. Raises SettingsRefused."""
    names = [spec.name for spec in tools]
    return {
        client_id: frozenset(names) - _choose(choice, names, setting=f"tools.clients.{client_id}")
        for client_id, choice in settings.tools.clients.items()
    }


def _choose(choice: ToolChoice, names: Sequence[str], *, setting: str) -> frozenset[str]:
    enabled = _matching_names(choice.enable, names, setting=f"{setting}.enable") if choice.enable else frozenset(names)
    return enabled - _matching_names(choice.disable, names, setting=f"{setting}.disable")


def _matching_names(patterns: Sequence[str], names: Sequence[str], *, setting: str) -> frozenset[str]:
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            near = did_you_mean(pattern, names) or " See token-vault tools list"
            raise SettingsRefused(f"{setting}: no tool {pattern!r}.{near}")
        found |= matched
    return frozenset(found)

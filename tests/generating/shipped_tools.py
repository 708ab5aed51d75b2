"""The declared tools that come with the program."""

from __future__ import annotations

from providers.definitions.catalog import load_catalog
from providers.tools import declarations
from providers.tools.declared_tools import data_tools
from providers.tools.spec import ToolSpec


def shipped_tools() -> dict[str, ToolSpec]:
    """Every declared tool by name, in the order of the files."""
    files = [(path, declarations.read_tool_file(path)) for path in sorted(declarations.BUILT_IN.glob("*.toml"))]
    return {spec.name: spec for spec in data_tools(files, load_catalog())}

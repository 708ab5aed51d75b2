"""`tools ...`: the tools that agents can call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from providers.definitions.suggestions import did_you_mean
from server.commands.tools import api_import, imports
from server.terminal.completion import complete_tool_sets
from server.terminal.context import Setup, command, fail, say

if TYPE_CHECKING:
    from providers.tools.spec import ToolSpec

app = typer.Typer(no_args_is_help=True, help="Tools that agents can call.")
app.add_typer(api_import.app, name="import")
app.add_typer(imports.app, name="imports")


@app.callback()
def tools_() -> None:
    """Tools that agents can call."""


@command(app, "list")
def list_(
    setup: Setup,
    profile: Annotated[
        str | None,
        typer.Option(help="Only the tools of this set.", show_default=False, autocompletion=complete_tool_sets),
    ] = None,
) -> None:
    """List the tools with the service and minimum scopes of each."""
    from server.mcp.offer.connections_spec import SPEC

    here = setup.providers()
    specs = here.tools
    if profile is not None:
        sets = here.offer.sets
        if profile not in sets:
            near = did_you_mean(profile, sets) or f" Use one of: {', '.join(sets)}"
            fail(f"--profile: no tool set {profile!r}.{near}")
        specs = [spec for spec in specs if spec.name in sets[profile].tools]
    rows = [_tool(spec) for spec in (*specs, SPEC)]
    setup.show(rows, columns=("name", "provider", "scopes", "changes_something", "title"), empty="No tools.")


@command(app, "sets")
def sets_(setup: Setup) -> None:
    """List the tool sets that can be chosen for an agent."""
    from server.mcp.offer.connections_spec import SPEC
    from server.mcp.offer.tool_list import size_of

    here = setup.providers()
    specs, offer = here.tools, here.offer
    rows = [
        {
            "name": one.name,
            "tools": len(one.tools),
            "characters": size_of([*(spec for spec in specs if spec.name in one.tools), SPEC]),
            "default": one.name == offer.profile,
            "title": one.title,
        }
        for one in offer.sets.values()
    ]
    setup.show(rows, columns=("name", "tools", "characters", "default", "title"), empty="No tool sets.")


@command(app, "check")
def check(setup: Setup, file: Annotated[Path, typer.Argument(help="A tool file (TOML).", show_default=False)]) -> None:
    """Check a tool file against its provider and print the first problem."""
    from providers.tools.declarations import ToolFileRefused, read_tool_file
    from providers.tools.declared_tools import data_tools

    try:
        found = data_tools([(file, read_tool_file(file))], setup.catalog_of_settings())
    except ToolFileRefused as refused:
        if setup.as_json:
            setup.show_json({"file": str(file), "problems": [str(refused)]})
        else:
            say(str(refused))
        raise typer.Exit(1) from refused
    rows = [_tool(spec) for spec in found]
    if setup.as_json:
        setup.show_json({"file": str(file), "problems": [], "tools": rows})
        return
    say(f"{file}: no problems found: {', '.join(spec.name for spec in found)}")


def _tool(spec: ToolSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "title": spec.title,
        "provider": spec.provider,
        "scopes": sorted(spec.scopes),
        "changes_something": not spec.read_only,
        "asks_each_time": spec.approval,
        "description": spec.description,
        "input_schema": spec.input_schema,
        "output_schema": spec.output_schema,
    }


@command(app, "schema")
def print_schema(setup: Setup) -> None:
    """Print the JSON Schema of tool files, for editors."""
    from providers.tools.file_schema import tool_file_schema

    setup.show_json(tool_file_schema())

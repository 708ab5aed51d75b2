"""Names that a shell can complete: of people, agents, accounts, open approvals, providers, and tools.

Reads the database without opening the vault, and provider files by name; creates nothing. It prints no errors, since
the person is typing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from providers.definitions.catalog import Catalog
    from providers.tools.spec import ToolSpec
    from server.settings import Settings

Completion = list[tuple[str, str]]  # the inserted text, and its explanation
_PLAIN: Final = re.compile(r"[\w.@+-]+")  # one word to a shell; for other names, the ID is inserted


def _quietly(
    read: Callable[[typer.Context, str], Iterable[tuple[str, str]]],
) -> Callable[[typer.Context, str], Completion]:
    def complete(ctx: typer.Context, incomplete: str) -> Completion:
        try:
            return list(read(ctx, incomplete))
        except (Exception, SystemExit):  # noqa: BLE001 -- no traceback in the middle of a line that is being typed
            return []

    return complete


def _place(ctx: typer.Context) -> tuple[Path | None, Path]:
    """The settings file and data directory that the command would use."""
    from server.settings import default_data_directory

    config, data = (
        ctx.params.get(name) or os.environ.get(f"TOKEN_VAULT_{name.upper()}") for name in ("config", "data")
    )
    directory = Path(str(data)) if data else default_data_directory()
    return Path(str(config)) if config else None, directory.expanduser().absolute()


def _rows(ctx: typer.Context, kind: str, *, begin: str = "") -> Sequence[tuple[str, ...]]:
    """The names of one kind; connections and approvals of the person with --user, or of the owner."""
    from server.settings import load_settings
    from server.sign_in.password import OWNER_ISSUER, OWNER_SUBJECT
    from vault.storage.database import sqlite_path
    from vault.storage.names import Whose, read_names
    from vault.users import name_key

    config, data = _place(ctx)
    url = load_settings(config, data=data).database_url()
    user = ctx.params.get("user") if kind != "users" else None
    whose = Whose(name_key(begin)) if kind == "users" else Whose("", OWNER_ISSUER, OWNER_SUBJECT)
    if user:
        whose = Whose(name_key(str(user)))
    return read_names(kind, url, sqlite=sqlite_path(url, data=data), whose=whose)


def _choose(rows: Iterable[tuple[str, ...]], incomplete: str) -> Completion:
    """Completions by name, or by ID if a shell would split the name or the typed text begins an ID."""
    found: Completion = []
    for name, row_id, *rest in rows:
        if _PLAIN.fullmatch(name) and name.startswith(incomplete):
            found.append((name, " ".join((*rest, row_id))))
        elif row_id.startswith(incomplete):
            found.append((row_id, " ".join((*rest, name))))
    return found


@_quietly
def complete_users(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """People by name."""
    return _choose(_rows(ctx, "users", begin=incomplete), incomplete)


@_quietly
def complete_clients(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Agents by name or ID, most recently used first."""
    return _choose(_rows(ctx, "clients"), incomplete)


@_quietly
def complete_connections(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Connections by account or ID."""
    return _choose(_rows(ctx, "connections"), incomplete)


@_quietly
def complete_approvals(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Open approvals by ID."""
    return [(row_id, tool) for row_id, tool in _rows(ctx, "approvals") if row_id.startswith(incomplete)]


@_quietly
def complete_standing(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Standing approvals by ID."""
    return [(row_id, tool) for row_id, tool in _rows(ctx, "standing") if row_id.startswith(incomplete)]


@_quietly
def complete_apis(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """APIs by their identifiers."""
    return [(url, name) for url, name in _rows(ctx, "apis") if url.startswith(incomplete)]


@_quietly
def complete_providers(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Providers: the names of their files."""
    from providers.definitions.catalog import shipped_files
    from server.runtime.catalog import OWN_FILES

    own = (_place(ctx)[1] / OWN_FILES).glob("*.toml")
    names = sorted({file.stem for file in (*shipped_files(), *own)})
    return [(name, "") for name in names if name.startswith(incomplete)]


def _set_up(ctx: typer.Context) -> Mapping[str, Mapping[str, str]]:
    """Providers that were set up in the browser, with their inputs; none if there is no vault."""
    try:
        return {name: json.loads(inputs) for name, inputs in _rows(ctx, "registrations")}
    except Exception:  # noqa: BLE001 -- tools of the settings are completed without
        return {}


def _load_tools(ctx: typer.Context) -> tuple[Settings, Catalog, Sequence[ToolSpec]]:
    """The built-in tools of the providers that are set up, and the tools in the settings."""
    from providers.definitions.catalog import ProviderOverrides, load_catalog
    from server.mcp.offer.registry import load_tools
    from server.settings import load_settings

    config, data = _place(ctx)
    settings = load_settings(config, data=data)
    set_up = {name: ProviderOverrides(inputs=inputs) for name, inputs in _set_up(ctx).items()}
    catalog = load_catalog(overrides=set_up)
    return settings, catalog, load_tools(settings, catalog, late=[])


@_quietly
def complete_tools(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Tools."""
    _, _, tools = _load_tools(ctx)
    return [(one.name, one.title) for one in tools if one.name.startswith(incomplete)]


@_quietly
def complete_tool_sets(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Tool sets."""
    from server.mcp.offer.registry import load_offer

    settings, catalog, tools = _load_tools(ctx)
    sets = load_offer(settings, tools, catalog, late=[]).sets.values()
    return [(one.name, one.title) for one in sets if one.name.startswith(incomplete)]

"""An imported API as the vault stores it: JSON of a provider file and a tool file, without what an admin left out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError

from providers.definitions.catalog import ProviderFileRefused, parse_provider
from providers.definitions.model import Provider
from providers.outbound.json_values import is_array, is_object, parse_object
from providers.tools.declarations import ToolFile, ToolFileRefused

if TYPE_CHECKING:
    from providers.tools.openapi_import import ImportResult, Table

ImportChoice = Literal["accept", "ask", "leave"]
CHOICES: Final[Sequence[ImportChoice]] = ("accept", "ask", "leave")


def is_api_name(name: str) -> bool:
    """Whether an API can have this name."""
    return len(name) <= 40 and re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) is not None


@dataclass(frozen=True, slots=True)
class ImportedTables:
    """Both files as tables. Each tool has the place of its request rule; the other rules close calls that aren't
    tools."""

    provider: Table
    tools: Sequence[Table]
    rules: Sequence[Table]
    closing: Sequence[Table]

    def content(self) -> str:
        """The form in which the vault stores it."""
        provider = {**self.provider, "rules": [*self.rules, *self.closing]}
        return json.dumps({"provider": provider, "tools": {"provider": provider["name"], "tool": list(self.tools)}})


@dataclass(frozen=True, slots=True)
class ImportedFiles:
    """An imported API after validation. `source` names it in refusals."""

    source: Path
    provider: Provider
    tools: ToolFile


def content_of(made: ImportResult) -> str:
    """An import as the vault stores it."""
    return json.dumps({"provider": made.provider, "tools": made.tools})


def tables_of(content: str) -> ImportedTables:
    """The tables in a stored import."""
    found = parse_object(content.encode()) or {}
    provider, file = found.get("provider"), found.get("tools")
    provider = dict(provider) if is_object(provider) else {}
    tools, rules = _tables(file.get("tool") if is_object(file) else None), _tables(provider.get("rules"))
    return ImportedTables(provider, tools, rules[: len(tools)], rules[len(tools) :])


def _tables(value: object) -> list[Table]:
    return [dict(one) for one in value if is_object(one)] if is_array(value) else []


def read_imported(name: str, content: str) -> ImportedFiles:
    """The API with that name. Raises ProviderFileRefused or ToolFileRefused with one line."""
    found, source = parse_object(content.encode()), Path(f"{name}-tools.toml")
    provider = None if found is None else found.get("provider")
    if found is None or not is_object(provider):
        raise ProviderFileRefused(f"{name}: what is stored of it can't be used; import it again")
    try:
        tools = ToolFile.model_validate(found.get("tools"))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        raise ToolFileRefused(f"{source}: {'.'.join(str(part) for part in wrong['loc'])}: {wrong['msg']}") from error
    if tools.provider != name:
        raise ToolFileRefused(f"{source}: has tools of {tools.provider}")
    return ImportedFiles(source, parse_provider(name, provider), tools)


def with_choices(content: str, choices: Mapping[str, ImportChoice]) -> str:
    """The API with an admin's choice for each tool: unchanged, with approval each time, or left out together with its
    call.

    A tool without a choice is left out. Raises InseparableTool.
    """
    from providers.tools.openapi_import import without_calls  # not needed at start

    tables = tables_of(content)
    kept = [index for index, tool in enumerate(tables.tools) if choices.get(str(tool["name"]), "leave") != "leave"]
    tools = [{**tables.tools[at], "approval": choices[str(tables.tools[at]["name"])] == "ask"} for at in kept]
    left = [rule for index, rule in enumerate(tables.rules) if index not in kept]
    rules = [tables.rules[at] for at in kept]
    closing = [*tables.closing, *without_calls(rules, tools, left)]
    named = [rule.get(key) for rule in (*rules, *closing) for key in ("scopes", "needs")]
    used = {str(scope) for some in named if is_array(some) for scope in some}
    scopes = tables.provider.get("scopes")
    scopes = {name: about for name, about in scopes.items() if name in used} if is_object(scopes) else {}
    return ImportedTables({**tables.provider, "scopes": scopes}, tools, rules, closing).content()

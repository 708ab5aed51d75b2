"""An MCP server's description of a tool: which parts the vault uses, and the canonical form that reveals changes. All
of it is third-party text. The canonical form has everything that could influence a model or a person, unchanged; the
parts shown to agents are cut and cleaned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from providers.api.text import as_description
from providers.outbound.json_values import is_object, parse_object
from providers.remote.schemas import LONG, Check, SchemaRefused, checker, usable_schema

MOST: Final = 250  # tools of one server
LONGEST_LIST: Final = 2 * 1024 * 1024  # bytes of all of them
LONGEST: Final = 64 * 1024  # bytes of one tool
_NAME: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")  # of MCP 2025-11-25, tool names
_DESCRIPTION: Final = 1500  # characters that agents are shown
_COMPARED: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")


class ListRefused(Exception):
    """The server's list can't be used; one line."""


@dataclass(frozen=True, slots=True)
class RemoteDescription:
    """A fully usable tool. `claims` are its annotations, which are untrusted hints."""

    name: str
    description: str
    input_schema: Mapping[str, object] = field(repr=False)
    output_schema: Mapping[str, object] | None = field(repr=False)
    claims: Mapping[str, bool]
    check_input: Check = field(repr=False, compare=False)
    check_output: Check | None = field(repr=False, compare=False)


def canonical_tools(listed: Sequence[Mapping[str, object]]) -> Mapping[str, str]:
    """Each tool of a list in its canonical form, by name. Raises ListRefused for too much, or for a duplicate name. A
    tool without a usable name is left out; of one that is too long, only that fact is recorded.
    """
    if len(listed) > MOST:
        raise ListRefused(f"it offers more than {MOST} tools")
    found: dict[str, str] = {}
    total = 0
    for tool in listed:
        name = tool.get("name")
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            continue
        if name in found:
            raise ListRefused(f"it offers two tools named {name}")
        try:
            whole = _canonical({part: tool[part] for part in _COMPARED if tool.get(part) is not None})
        except (ValueError, RecursionError) as error:
            raise ListRefused(f"its description of {name} can't be read") from error
        total += len(whole)
        if total > LONGEST_LIST:
            raise ListRefused(f"its list is longer than {LONGEST_LIST // 1024} KiB")
        found[name] = whole if len(whole) <= LONGEST else _canonical({"name": name, "bytes": len(whole)})
    return found


def _canonical(value: Mapping[str, object]) -> str:
    """ASCII with sorted members: equal exactly if the values are equal."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=MOST)  # every change of any provider reads all accepted tools again
def read_tool(definition: str) -> RemoteDescription:
    """The tool in a canonical form. Slow, so call it in a thread. Raises SchemaRefused for an unusable one."""
    tool = parse_object(definition.encode()) or {}
    if "inputSchema" not in tool:
        raise SchemaRefused("a description of more than 64 KiB" if "bytes" in tool else "no schema of its arguments")
    given = usable_schema(tool["inputSchema"])
    returned = usable_schema(tool["outputSchema"]) if "outputSchema" in tool else None
    annotations = tool.get("annotations")
    claims = (
        {name: value for name, value in annotations.items() if isinstance(value, bool)}
        if is_object(annotations)
        else {}
    )
    return RemoteDescription(
        name=str(tool.get("name", "")),
        description=as_description(str(tool.get("description") or tool.get("title") or ""), limit=_DESCRIPTION),
        input_schema=given,
        output_schema=returned,
        claims=claims,
        check_input=checker(given),
        check_output=None if returned is None else checker(returned, steps=LONG),
    )


def problem_of(definition: str) -> str:
    """Why the tool in a canonical form can't be used; empty if it can."""
    try:
        read_tool(definition)
    except SchemaRefused as refused:
        return str(refused)
    return ""

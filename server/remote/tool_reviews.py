"""Prepares an MCP server's tools for an admin's review: each part of their descriptions, and what changed in it.

Reviews of an imported API look the same (`server.remote.imported_apis`).

Descriptions are the server's words; invisible characters are spelled out.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from providers.api.text import as_seen
from providers.outbound.json_values import parse_object
from providers.remote.tool_descriptions import problem_of
from server.remote.servers import claims_of, has_same_arguments, is_same, is_settled
from vault.mcp.servers import McpServer, McpTool

Mark = Literal["same", "added", "removed"]
Choice = Literal["read", "write", "ask", "leave"]
_PARTS: Final[Mapping[str, str]] = {
    "title": "title",
    "description": "description",
    "inputSchema": "arguments",
    "outputSchema": "result",
    "annotations": "claims",
}
_MARKS: Final[Mapping[str, Mark]] = {" ": "same", "+": "added", "-": "removed"}


@dataclass(frozen=True, slots=True)
class ReviewedLine:
    """One line of a part, and whether it was there when the tool was accepted."""

    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class ReviewedPart:
    """`name`: `title`, `description`, `arguments`, `result`, or `claims`. Of a changed tool, only what changed."""

    name: str
    lines: tuple[ReviewedLine, ...]


@dataclass(frozen=True, slots=True)
class ToolReview:
    """A tool to review. `choice`: the earlier decision, or `ask`; `problem`: why the tool can't be used."""

    name: str
    state: str
    problem: str
    claims: tuple[str, ...]
    choice: Choice
    parts: tuple[ReviewedPart, ...]


def review_of(server: McpServer) -> Sequence[ToolReview]:
    """All tools of a server except settled ones. Takes long: call it in a thread."""
    return [_review(one) for one in server.tools if not is_settled(one)]


def choice_of(tool: McpTool) -> Choice:
    """The decision about a tool: only reads, writes with or without an approval each time, or left out.

    A decision about other arguments no longer counts.
    """
    if tool.is_left:
        return "leave"
    if tool.asks or not has_same_arguments(tool):
        return "ask"
    return "read" if tool.effect == "read" else "write"


def _review(tool: McpTool) -> ToolReview:
    return ToolReview(
        name=tool.name,
        state=tool.state,
        problem="" if tool.is_absent else problem_of(tool.seen),
        claims=tuple(sorted(name for name, value in claims_of(tool).items() if value)),
        choice=choice_of(tool),
        parts=tuple(_parts(tool)),
    )


def _parts(tool: McpTool) -> Sequence[ReviewedPart]:
    after = parse_object(tool.seen.encode()) or {}
    before = parse_object((tool.accepted or "").encode()) or {} if tool.state == "changed" else None
    return parts_of(before, after, _PARTS)


def parts_of(
    before: Mapping[str, object] | None, after: Mapping[str, object], names: Mapping[str, str]
) -> Sequence[ReviewedPart]:
    """The parts of a tool, which `names` maps from its keys; with `before`, only those that changed."""
    if before is None:
        return [ReviewedPart(names[key], _plain_text(after[key])) for key in names if key in after]
    changed = [key for key in names if not is_same(before.get(key), after.get(key))]
    return [ReviewedPart(names[key], _comparison(before.get(key), after.get(key))) for key in changed]


def _plain_text(value: object) -> tuple[ReviewedLine, ...]:
    return tuple(ReviewedLine("same", line) for line in _lines(value))


def _comparison(before: object, after: object) -> tuple[ReviewedLine, ...]:
    found = list(difflib.unified_diff(_lines(before), _lines(after), lineterm="", n=3))[2:]
    return tuple(
        ReviewedLine("same", "…") if line.startswith("@@") else ReviewedLine(_MARKS[line[0]], line[1:])
        for line in found
    )


def _lines(value: object) -> list[str]:
    if value is None:
        return []
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return [_spelled_out(line) for line in text.split("\n")]  # any other line end must be visible


def _spelled_out(line: str) -> str:
    """The line with escapes for all characters that are invisible or change how others are shown."""
    return "".join(one if one.isprintable() and as_seen(one, limit=2) else f"\\u{ord(one):04x}" for one in line)

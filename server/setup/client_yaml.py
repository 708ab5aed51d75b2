"""Adds an entry to a YAML text, or removes it; all other lines stay. Text in, text out.

It reads lines, not YAML: the top level of the file and the section must be block mappings, as Goose writes them. A text
is refused if that isn't certain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from server.setup.client_json import EntryError

_KEY: Final = re.compile(r"(?P<key>\"[^\"\\]*\"|'[^']*'|[A-Za-z0-9_][\w .-]*?)\s*:(?:\s+(?P<value>.*))?$")
_KEEP: Final = re.compile(r"[|>][0-9]?\+[0-9]?\s*(#|$)")


@dataclass(frozen=True, slots=True)
class _YamlSection:
    lines: tuple[str, ...]  # lines of the whole text, without line ends
    start: int | None  # the section's own line
    end: int  # the line after its last one
    indent: int  # of its entries
    entries: Mapping[str, tuple[int, int]]  # the lines of each: the first, and the first one after it


def entry_of(text: str, section: str, name: str) -> object:
    """The entry's lines; None if there is none. Raises EntryError."""
    found = _read(text, section)
    if name not in found.entries:
        return None
    first, end = found.entries[name]
    return tuple(found.lines[first:end])


def rest_of(text: str, section: str, name: str) -> object:
    """The lines of the rest of the text; a section with only the entry is left out."""
    left = without_entry(text, section, name)
    found = _read(left, section)
    drop = found.start if not found.entries else None
    return tuple(
        line.rstrip() for n, line in enumerate(found.lines) if n != drop and _significant(line) and line != "---"
    )


def with_entry(text: str, section: str, name: str, entry: object) -> str:
    """The text with the entry (fields, or its former lines) in the place of one of that name. Raises EntryError."""
    found = _read(text, section)
    if isinstance(entry, tuple):
        own = list(cast("tuple[str, ...]", entry))
    else:
        own = _entry_lines(name, _as_dict(entry), indent=found.indent)
    lines = list(found.lines)
    if found.start is None:
        lines += [f"{section}:", *own]
    elif name in found.entries:
        first, end = found.entries[name]
        lines[first:end] = own
    else:
        lines[found.start] = re.sub(r":\s*(\{\s*\}|null|~)?(?=\s*(#|$))", ":", lines[found.start], count=1)
        lines[found.end : found.end] = own
    return _join(lines, text)


def without_entry(text: str, section: str, name: str) -> str:
    """The text without the entry. Raises EntryError."""
    found = _read(text, section)
    if name not in found.entries:
        return text
    first, end = found.entries[name]
    lines = [*found.lines[:first], *found.lines[end:]]
    if len(found.entries) == 1 and found.start is not None:
        lines[found.start] = lines[found.start].rstrip() + " {}"
    return _join(lines, text)


def render(section: str, name: str, entry: object) -> str:
    """The text of a file with only the entry, without a newline at the end."""
    return "\n".join([f"{section}:", *_entry_lines(name, _as_dict(entry), indent=2)])


def _as_dict(entry: object) -> Mapping[str, object]:
    if not isinstance(entry, Mapping):
        raise TypeError("an entry has fields")
    return cast("Mapping[str, object]", entry)


def _entry_lines(name: str, entry: Mapping[str, object], *, indent: int) -> list[str]:
    margin = " " * indent
    lines = [f"{margin}{name}:"]
    for key, value in entry.items():
        match value:
            case Mapping() if value:
                fields = cast("Mapping[str, object]", value)
                lines += [f"{margin}  {key}:", *(f"{margin}    {one}: {_scalar(fields[one])}" for one in fields)]
            case list() if value:
                items = cast("list[object]", value)
                lines += [f"{margin}  {key}:", *(f"{margin}    - {_scalar(one)}" for one in items)]
            case _:
                lines.append(f"{margin}  {key}: {_scalar(value)}")
    return lines


def _scalar(value: object) -> str:
    """JSON is YAML: quoted text, numbers, true and false, empty lists and mappings (YAML 1.2 §1.3)."""
    return json.dumps(value, ensure_ascii=False)


def _join(lines: list[str], text: str) -> str:
    line = "\r\n" if "\r\n" in text else "\n"
    return line.join(lines) + line


def _lines_of(text: str) -> tuple[str, ...]:
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return tuple(lines[:-1] if lines[-1] == "" else lines)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _significant(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _read(text: str, section: str) -> _YamlSection:
    lines = _lines_of(text)
    start: int | None = None
    end = len(lines)
    for number, line in enumerate(lines):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            raise EntryError(f"line {number + 1} is indented with a tab")
        if _KEEP.search(line):
            raise EntryError(f"line {number + 1} keeps the blank lines below it")
        if not _significant(line) or line.startswith(" ") or (line.rstrip() == "---" and number == 0):
            continue
        if line.startswith("- ") and (start is None or end < len(lines)):
            continue  # an item of the key above: a list may have the same indent as its key
        found = _KEY.fullmatch(line.rstrip())
        if found is None:
            raise EntryError(f"line {number + 1} isn't a key of a block mapping")
        if start is not None and end == len(lines):
            end = number
        if found["key"].strip("\"'") == section:
            if start is not None:
                raise EntryError(f"{section} is there twice")
            if re.sub(r"(^|\s)#.*", "", found["value"] or "").strip() not in {"", "{}", "null", "~"}:
                raise EntryError(f"line {number + 1} isn't a key of a block mapping")
            start = number
    if start is None:
        return _YamlSection(lines, None, len(lines), 2, {})
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):  # of the following lines
        end -= 1
    return _entries(lines, start, end)


def _entries(lines: tuple[str, ...], start: int, end: int) -> _YamlSection:
    inside = [n for n in range(start + 1, end) if lines[n].strip()]
    significant = [n for n in inside if _significant(lines[n])]
    if not significant:
        return _YamlSection(lines, start, start + 1, 2, {})
    indent = _depth(lines[significant[0]])
    entries: dict[str, tuple[int, int]] = {}
    name, first, last = "", 0, 0
    for number in inside:
        depth = _depth(lines[number])
        if depth > indent and name:
            last = number
            continue
        if not _significant(lines[number]):
            continue
        found = _KEY.fullmatch(lines[number].strip())
        key = "" if found is None else found["key"].strip("\"'")
        if depth != indent or not key or key in entries:
            raise EntryError(f"line {number + 1} isn't a key of a block mapping")
        if name:
            entries[name] = (first, last + 1)
        name, first, last = key, number, number
    entries[name] = (first, last + 1)
    return _YamlSection(lines, start, end, indent, entries)

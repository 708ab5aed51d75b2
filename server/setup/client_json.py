"""Adds an entry to a JSON text with comments (JSONC), or removes it; all other bytes stay. Text in, text out.

Clients write such files, and people add comments to them. The result is parsed again and compared with the requested
change, and comments outside the entry with the original ones: if that fails, the text is refused, not rewritten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_COMMENT: Final = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_SCALAR: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_STRICT: Final = json.JSONDecoder()
_MAX_DEPTH: Final = 100


class EntryError(Exception):
    """The text can't be changed safely. The message is the reason, such as `line 3 isn't JSON`."""


@dataclass(slots=True)
class _Member:
    key: str
    start: int  # of the key
    value: _Node
    comma: int | None = None  # position of the comma after it


@dataclass(slots=True)
class _Node:
    start: int
    end: int
    value: object
    members: list[_Member] | None = None  # of an object


@dataclass(slots=True)
class _JsonReader:
    """Reads JSON with `//` and `/* */` comments and trailing commas, and records the positions of everything."""

    text: str
    at: int = 0
    comments: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    def read(self) -> _Node:
        self._skip()
        root = self._value(0)
        self._skip()
        if self.at != len(self.text):
            raise self._refusal()
        return root

    def _refusal(self) -> EntryError:
        return EntryError(f"line {self.text.count(chr(10), 0, self.at) + 1} isn't JSON")

    def _skip(self) -> None:
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            comment = _COMMENT.match(self.text, self.at)
            if comment is None:
                return
            self.comments.append((self.at, comment.group()))
            self.at = comment.end()

    def _text(self) -> str:
        try:
            found: tuple[object, int] = _STRICT.raw_decode(self.text, self.at)
        except ValueError as error:
            raise self._refusal() from error
        self.at = found[1]
        return str(found[0])

    def _value(self, depth: int) -> _Node:
        if depth > _MAX_DEPTH:
            raise EntryError("it is nested too deeply")
        start, sign = self.at, self.text[self.at : self.at + 1]
        if sign == "{":
            return self._object(start, depth)
        if sign == "[":
            return self._array(start, depth)
        if sign == '"':
            text = self._text()
            return _Node(start, self.at, text)
        match = _SCALAR.match(self.text, start)
        if match is None:
            raise self._refusal()
        self.at = match.end()
        return _Node(start, self.at, json.loads(match.group()))

    def _object(self, start: int, depth: int) -> _Node:
        members: list[_Member] = []
        self.at += 1
        while not self._closes("}"):
            if (members and members[-1].comma is None) or self.text[self.at : self.at + 1] != '"':
                raise self._refusal()
            place = self.at
            key = self._text()
            self._skip()
            if not self.text.startswith(":", self.at):
                raise self._refusal()
            self.at += 1
            self._skip()
            members.append(_Member(key, place, self._value(depth + 1)))
            self._skip()
            if self.text.startswith(",", self.at):
                members[-1].comma = self.at
                self.at += 1
        return _Node(start, self.at, {one.key: one.value.value for one in members}, members)

    def _array(self, start: int, depth: int) -> _Node:
        values: list[object] = []
        has_comma = True
        self.at += 1
        while not self._closes("]"):
            if not has_comma:
                raise self._refusal()
            values.append(self._value(depth + 1).value)
            self._skip()
            has_comma = self.text.startswith(",", self.at)
            self.at += has_comma
        return _Node(start, self.at, values)

    def _closes(self, bracket: str) -> bool:
        """Whether the bracket is next; if so, it has been consumed."""
        self._skip()
        if self.at >= len(self.text):
            raise self._refusal()
        if not self.text.startswith(bracket, self.at):
            return False
        self.at += 1
        return True


def entry_of(text: str, section: str, name: str) -> object:
    """The entry; None if there is none. Raises EntryError."""
    return _content(text, section)[1].get(name)


def rest_of(text: str, section: str, name: str) -> object:
    """The rest of the text without the entry; a section with only the entry is left out. Raises EntryError."""
    content, entries = _content(text, section)
    others = {key: value for key, value in entries.items() if key != name}
    rest = {key: value for key, value in content.items() if key != section}
    return {**rest, section: others} if others else rest


def with_entry(text: str, section: str, name: str, entry: object) -> str:
    """The text with the entry, which takes the place of one of that name. Raises EntryError."""
    content, entries = _content(text, section)
    if not text.strip():
        return render(section, name, entry) + "\n"
    reader, root = _parse(text)
    found = _member(root, section)
    if found is None:
        changed = _insert(text, root, section, {name: entry}, unit=_unit(text, root))
    else:
        old = _member(found.value, name)
        if old is None:
            changed = _insert(text, found.value, name, entry, unit=_unit(text, root))
        else:
            lines = _lines(text, entry, indent=_indent(text, old.start), unit=_unit(text, root))
            changed = text[: old.value.start] + lines + text[old.value.end :]
            reader.comments = [one for one in reader.comments if not old.value.start <= one[0] < old.value.end]
    _check(changed, {**content, section: {**entries, name: entry}}, reader)
    return changed


def without_entry(text: str, section: str, name: str) -> str:
    """The text without the entry. Raises EntryError."""
    content, entries = _content(text, section)
    reader, root = _parse(text)
    found = _member(root, section)
    member = None if found is None else _member(found.value, name)
    if found is None or member is None or found.value.members is None:
        return text
    members = found.value.members
    place, end = members.index(member), member.value.end if member.comma is None else member.comma + 1
    head, tail = text[: member.start], text[end:]
    reader.comments = [one for one in reader.comments if not member.start <= one[0] < end]
    if member.comma is None and place > 0:  # the last one: the comma before it goes, too
        comma = members[place - 1].comma
        head = head if comma is None else head[:comma] + head[comma + 1 :]
    stripped = head.rstrip(" \t")
    if stripped.endswith("\n") and (gap := re.match(r"[ \t]*\r?\n", tail)):  # it had its lines for itself
        head, tail = stripped, tail[gap.end() :]
    changed = head + tail
    _check(changed, {**content, section: {key: value for key, value in entries.items() if key != name}}, reader)
    return changed


def render(section: str, name: str, entry: object) -> str:
    """The text of a file with only the entry, without a newline at the end."""
    return json.dumps({section: {name: entry}}, indent=2, ensure_ascii=False)


def _parse(text: str) -> tuple[_JsonReader, _Node]:
    reader = _JsonReader(text)
    return reader, reader.read()


def _content(text: str, section: str) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """All members, and those of the section."""
    if not text.strip():
        return {}, {}
    _, root = _parse(text)
    if root.members is None:
        raise EntryError("it doesn't contain a JSON object")
    found = _member(root, section)
    if found is not None and found.value.members is None:
        raise EntryError(f"{section} isn't an object")
    return _as_dict(root.value), {} if found is None else _as_dict(found.value.value)


def _as_dict(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value)  # what _JsonReader returns for an object


def _member(node: _Node, key: str) -> _Member | None:
    found = [one for one in node.members or () if one.key == key]
    if len(found) > 1:
        raise EntryError(f"{key} is there twice")
    return found[0] if found else None


def _insert(text: str, node: _Node, key: str, value: object, *, unit: str) -> str:
    """A new last member: on lines of its own, above the closing bracket and below all comments."""
    members, close = node.members or [], node.end - 1
    outer = _indent(text, node.start)
    own_line = bool(members) and text[: members[-1].start].endswith("\n" + _indent(text, members[-1].start))
    indent = _indent(text, members[-1].start) if own_line else outer + unit
    last = members[-1] if members else None
    needs_comma = last is not None and last.comma is None
    head = text[: last.value.end] + "," + text[last.value.end : close] if last and needs_comma else text[:close]
    line = "\r\n" if "\r\n" in text else "\n"
    body = head.rstrip()
    gap = head[len(body) :]
    closing = line + gap.rpartition("\n")[2] if "\n" in gap else line + outer
    own = f"{json.dumps(key, ensure_ascii=False)}: {_lines(text, value, indent=indent, unit=unit)}"
    trailing = "," if last is not None and not needs_comma else ""
    return f"{body}{line}{indent}{own}{trailing}{closing}{text[close:]}"


def _lines(text: str, value: object, *, indent: str, unit: str) -> str:
    line = "\r\n" if "\r\n" in text else "\n"
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", line + indent)


def _indent(text: str, at: int) -> str:
    """The white space at the start of the line of that place."""
    start = text.rfind("\n", 0, at) + 1
    return text[start : len(text) - len(text[start:].lstrip(" \t"))]


def _unit(text: str, root: _Node) -> str:
    """What one level is indented by."""
    for member in root.members or ():
        indent = _indent(text, member.start)
        if text[: member.start].endswith("\n" + indent) and indent:
            return indent
    return "  "


def _check(changed: str, expected: object, before: _JsonReader) -> None:
    reader, root = _parse(changed)
    if root.value != expected or [one[1] for one in reader.comments] != [one[1] for one in before.comments]:
        raise EntryError("the entry has no safe place in it")

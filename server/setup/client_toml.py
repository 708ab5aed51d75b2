"""Adds an entry to a TOML text, or removes it; comments, order, and spacing stay. Text in, text out.

An entry consists of the tables `[section.name]` and `[section.name.*]`; other forms are changed by tomlkit. The result
is parsed again and compared with the requested change, as in `settings_file`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, MutableMapping
from itertools import pairwise
from typing import Final, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError

from server.setup.client_json import EntryError

_COMMENT: Final = re.compile(r"^\s*#.*", re.MULTILINE)


def entry_of(text: str, section: str, name: str) -> object:
    """The entry; None if there is none. Raises EntryError."""
    return _section(_parse(text), section).get(name)


def rest_of(text: str, section: str, name: str) -> object:
    """The rest of the text without the entry; a section with only the entry is left out. Raises EntryError."""
    content = _parse(text)
    others = {key: value for key, value in _section(content, section).items() if key != name}
    rest = {key: value for key, value in content.items() if key != section}
    return {**rest, section: others} if others else rest


def with_entry(text: str, section: str, name: str, entry: object) -> str:
    """The text with the entry, which takes the place of one of that name. Raises EntryError."""
    expected = _parse(text)
    expected[section] = {**_section(expected, section), name: entry}
    return _first_right(_attempts(text, section, name, entry), text, expected)


def without_entry(text: str, section: str, name: str) -> str:
    """The text without the entry. Raises EntryError."""
    expected = _parse(text)
    expected[section] = {key: value for key, value in _section(expected, section).items() if key != name}
    return _first_right(_attempts(text, section, name, None), text, expected)


def render(section: str, name: str, entry: object) -> str:
    """The text of a file with only the entry, without a newline at the end."""
    return tomlkit.dumps({section: {name: entry}}).removeprefix(f"[{section}]\n").strip()


def _first_right(attempts: Iterator[str], text: str, expected: MutableMapping[str, object]) -> str:
    comments = [one.strip() for one in _COMMENT.findall(text)]
    for attempt in attempts:
        changed = attempt.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in text else attempt
        if _says(changed, expected) and all(one in changed for one in comments):
            return changed
    raise EntryError("the entry has no safe place in it")


def _attempts(text: str, section: str, name: str, entry: object) -> Iterator[str]:
    """Ways to make the change; an entry of None is removed."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    own = list(_tables(lines, section, name))
    new = "" if entry is None else render(section, name, entry) + "\n"
    if own:
        for first, end in reversed(own):
            lines[first:end] = [new] if first == own[0][0] else []
        yield "".join(lines)
    elif entry is None:
        yield text
    else:
        yield text + ("" if not text.strip() else "\n" if text.endswith("\n") else "\n\n") + new
    document: MutableMapping[str, object] = tomlkit.parse(text)
    try:
        entries = _as_dict(document[section])
        if entry is None:
            del entries[name]
        else:
            entries[name] = entry
    except (TOMLKitError, KeyError):
        return
    yield tomlkit.dumps(document)


def _tables(lines: list[str], section: str, name: str) -> Iterator[tuple[int, int]]:
    """The lines of each table of the entry, without the comments above the next table."""
    headers = [(number, path) for number, line in enumerate(lines) if (path := _path(line))]
    for (first, path), (end, _) in pairwise([*headers, (len(lines), ())]):
        if path[:2] == (section, name):
            last = max(n for n in range(first, end) if n == first or not _is_remark(lines[n]))
            yield first, last + 1


def _path(line: str) -> tuple[str, ...]:
    """The keys of a table's header; nothing for another line."""
    if not line.lstrip().startswith("["):
        return ()
    try:
        found: object = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(found, dict) and found:
        ((key, found),) = cast("dict[str, object]", found).items()
        path.append(key)
    return tuple(path)


def _is_remark(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _parse(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EntryError(f"it isn't valid TOML ({error})") from error


def _section(content: MutableMapping[str, object], section: str) -> MutableMapping[str, object]:
    return _as_dict(content.get(section, {}), section)


def _as_dict(found: object, section: str = "") -> MutableMapping[str, object]:
    if not isinstance(found, MutableMapping):
        raise EntryError(f"{section} isn't a table")
    return cast("MutableMapping[str, object]", found)  # TOML's keys are text


def _says(text: str, expected: MutableMapping[str, object]) -> bool:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return {key: value for key, value in found.items() if value != {}} == {
        key: value for key, value in expected.items() if value != {}
    }

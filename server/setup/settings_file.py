"""Changes values of one table in a settings file; keeps its comments, order, and spacing. Text in, text out.

Parses the result again and compares it with the requested change: a file that can't be changed this way is refused, not
rewritten. `server.settings` reads settings.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import cast

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table, Whitespace

from providers.outbound.json_values import is_object

Setting = str | bool | Sequence[str] | None  # None: it didn't exist


class ConfigFileRefused(Exception):
    """The file can't be changed. The one-line message explains what to do by hand."""


def with_values(text: str, table: tuple[str, ...], values: Mapping[str, Setting]) -> str:
    """The file with these values in the table; a value of None is removed. Raises ConfigFileRefused."""
    expected = _parse(text)
    try:
        _change(expected, table, values)
        if expected == _parse(text):
            return text
        changed = next(attempt for attempt in _attempts(text, table, values) if _says(attempt, expected))
    except (StopIteration, TypeError, TOMLKitError) as error:
        raise _by_hand(table, values) from error
    return changed.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in text else changed


def values_of(text: str, table: tuple[str, ...], keys: tuple[str, ...]) -> dict[str, Setting]:
    """The file's current values for these keys of the table. Raises ConfigFileRefused."""
    section = _section(text, table)
    return {key: value for key in keys if isinstance(value := section.get(key), str | bool | list)}


def names_in(text: str, table: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of a table of the file. Raises ConfigFileRefused."""
    return tuple(_section(text, table))


def _attempts(text: str, table: tuple[str, ...], values: Mapping[str, Setting]) -> Iterator[str]:
    """Ways to make the change: append a missing table; change values of an existing or inline one in place."""
    if not _section(text, table):
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        given = tomlkit.dumps({key: value for key, value in values.items() if value is not None})
        yield f"{text}{gap}[{'.'.join(table)}]\n{given}"
    document = tomlkit.parse(text)
    _change(document, table, values)
    yield document.as_string()


def _change(content: MutableMapping[str, object], table: tuple[str, ...], values: Mapping[str, Setting]) -> None:
    """Set and remove in place, in plain content or in a document. Raises TypeError if the table isn't a table."""
    place = content
    for name in table:
        if name not in place:
            if all(value is None for value in values.values()):
                return
            place[name] = {}
        place = _table(place[name])
    for key, value in values.items():
        if value is None:
            if key in place:
                del place[key]
        elif key in place or not isinstance(place, Table):
            place[key] = value
        else:
            _append(place, key, value)


def _append(table: Table, key: str, value: Setting) -> None:
    """Insert below the table's last value, and above the blank line before the next table's comments."""
    body = table.value.body
    keyed = max((number for number, (name, _) in enumerate(body) if name is not None), default=-1)
    blank = (n for n in range(keyed + 1, len(body)) if isinstance(body[n][1], Whitespace))
    end = next(blank, len(body))
    rest = body[end:]
    del body[end:]
    table.append(key, value)
    body.extend(rest)


def _table(found: object) -> MutableMapping[str, object]:
    if not isinstance(found, MutableMapping):
        raise TypeError("expected a table, found a value")
    return cast("MutableMapping[str, object]", found)  # TOML's keys are text


def _by_hand(table: tuple[str, ...], values: Mapping[str, Setting]) -> ConfigFileRefused:
    where = f"[{'.'.join(table)}]"
    # a JSON string without escapes beyond ASCII is a TOML basic string
    given = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None]
    step = f"add {'; '.join(given)} to {where}" if given else f"remove {', '.join(values)} from {where}"
    return ConfigFileRefused(f"can't change the settings file safely as it's written: {step}")


def _section(text: str, table: tuple[str, ...]) -> Mapping[str, object]:
    found: object = _parse(text)
    for name in table:
        found = found.get(name) if is_object(found) else None
    return found if is_object(found) else {}


def _says(text: str, expected: Mapping[str, object]) -> bool:
    try:
        return _without_empty(tomllib.loads(text)) == _without_empty(expected)
    except tomllib.TOMLDecodeError:
        return False


def _without_empty(content: Mapping[str, object]) -> dict[str, object]:
    """Drop empty tables, which have no meaning."""
    inner = {key: _without_empty(value) if is_object(value) else value for key, value in content.items()}
    return {key: value for key, value in inner.items() if value != {}}


def _parse(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFileRefused(f"the settings file isn't valid TOML; correct it first: {error}") from error

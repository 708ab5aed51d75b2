"""Changes values of one table in a settings file and leaves every other byte of it alone. Text in, text out.

The change is made line by line and then compared with what a TOML parser makes of it: a file that is written in a way
that this cannot follow is refused, not rewritten. Reading settings is `server.settings`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping

Setting = str | bool | None  # None: not there


class ConfigFileRefused(Exception):
    """The file cannot be changed by us. One line that says what to do by hand."""


def with_values(text: str, table: tuple[str, ...], values: Mapping[str, Setting]) -> str:
    """The file with these values in the table; a value of None is taken out. Raises ConfigFileRefused."""
    wanted = _expected(_parsed(text), table, values)
    lines = text.splitlines()
    header = next((number for number, line in enumerate(lines) if _is_header(line, table)), None)
    if header is None:
        changed = _appended(lines, table, values)
    else:
        end = next((n for n in range(header + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
        body = _changed(lines[header + 1 : end], values)
        changed = [*lines[: header + 1], *body, *lines[end:]]
    new = "\n".join(changed) + "\n"
    if _without_empty(_loaded(new)) != _without_empty(wanted):
        shown = "; ".join(f"{key} = {_literal(value)}" for key, value in values.items() if value is not None)
        raise ConfigFileRefused(
            f"the settings file is written in a way that cannot be changed safely: put into [{'.'.join(table)}] {shown}"
        )
    return new


def values_of(text: str, table: tuple[str, ...], keys: tuple[str, ...]) -> dict[str, Setting]:
    """What the file says of these keys of the table now. Raises ConfigFileRefused."""
    found: object = _parsed(text)
    for name in table:
        found = _object(found).get(name)
    section = _object(found)
    return {key: value for key in keys if isinstance(value := section.get(key), str | bool)}


def names_in(text: str, table: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of a table of the file. Raises ConfigFileRefused."""
    found: object = _parsed(text)
    for name in table:
        found = _object(found).get(name)
    return tuple(_object(found))


def _appended(lines: list[str], table: tuple[str, ...], values: Mapping[str, Setting]) -> list[str]:
    written = _changed([], values)
    if not written:
        return lines
    gap = [""] if lines and lines[-1].strip() else []
    return [*lines, *gap, f"[{'.'.join(table)}]", *written]


def _changed(body: list[str], values: Mapping[str, Setting]) -> list[str]:
    kept = [line for line in body if not any(_assigns(line, key) for key in values)]
    added = [f"{key} = {_literal(value)}" for key, value in values.items() if value is not None]
    return [*added, *kept]


def _assigns(line: str, key: str) -> bool:
    return re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line) is not None


def _is_header(line: str, table: tuple[str, ...]) -> bool:
    names = r"\s*\.\s*".join(rf"""["']?{re.escape(name)}["']?""" for name in table)
    return re.match(rf"\s*\[\s*{names}\s*\]\s*(#.*)?$", line) is not None


def _literal(value: Setting) -> str:
    """A JSON string without escapes beyond ASCII is a TOML basic string."""
    return ("true" if value else "false") if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def _parsed(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFileRefused(f"the settings file is not valid TOML, correct it first: {error}") from error


def _loaded(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {"": "not readable any more"}


def _expected(content: dict[str, object], table: tuple[str, ...], values: Mapping[str, Setting]) -> dict[str, object]:
    if not table:
        rest = {key: value for key, value in content.items() if key not in values}
        return rest | {key: value for key, value in values.items() if value is not None}
    name, *inner = table
    return content | {name: _expected(_object(content.get(name)), tuple(inner), values)}


def _without_empty(content: dict[str, object]) -> dict[str, object]:
    """Tables that say nothing mean nothing."""
    cleaned: dict[str, object] = {}
    for key, value in content.items():
        inner = _without_empty(_object(value)) if isinstance(value, dict) else value  # pyright: ignore[reportUnknownArgumentType] -- TOML content
        if inner != {}:
            cleaned[key] = inner
    return cleaned


def _object(value: object) -> dict[str, object]:
    return {str(key): inner for key, inner in value.items()} if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- TOML content

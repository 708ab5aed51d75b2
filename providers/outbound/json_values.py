"""Reading values out of a provider's JSON answer, which may have any shape. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeGuard

from pydantic_core import from_json

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_DOT = re.compile(r"(?<!\\)\.")


def parse_object(body: bytes, *, shares_texts: bool = False) -> Mapping[str, object] | None:
    """The body as a JSON object; None when it is anything else.

    `shares_texts`: equal short texts take memory once, here and in later calls; only for what holds no credential.
    """
    content = _parse(body, shares_texts=shares_texts)
    return content if is_object(content) else None


def parse_content(body: bytes) -> Mapping[str, object] | None:
    """The body as a JSON object, an array as the `items` of one; None when it is anything else."""
    content = _parse(body)
    if is_array(content):
        return {"items": content}
    return content if is_object(content) else None


def _parse(body: bytes, *, shares_texts: bool = False) -> object:
    """The value; None when there is none. Pydantic's parser takes a tenth of the time of the standard library's.

    What it refuses may still be JSON for the library: another encoding than UTF-8, a mark before it, half of a
    surrogate pair, more than 200 levels. By default it keeps no text, because an answer may hold a credential.
    """
    try:
        return from_json(body, cache_strings="all" if shares_texts else "none")
    except ValueError:
        pass
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    """Whether a parsed JSON value is an object; its names are always text."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[Sequence[object]]:
    """Whether a parsed JSON value is an array."""
    return isinstance(value, list)


@lru_cache(maxsize=1024)
def steps(path: str) -> tuple[str, ...]:
    """The names of a path like `error.errors.0.reason`; a dot in a name is escaped: Dropbox's `error.\\.tag`."""
    return tuple(step.replace("\\.", ".") for step in _DOT.split(path))


def at(value: object, path: str) -> object:
    """The value at a path (see `steps`); None when there is none."""
    for step in steps(path):
        if is_object(value):
            value = value.get(step)
        elif is_array(value) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def text_at(value: object, path: str) -> str | None:
    """The text at a path; a whole number counts as its digits."""
    found = at(value, path)
    if isinstance(found, bool):
        return None
    if isinstance(found, int):
        return str(found)
    return found if isinstance(found, str) and found else None


def integer_at(value: object, path: str) -> int | None:
    """The whole number at a path, also when written as text or with a zero fraction."""
    found = at(value, path)
    if isinstance(found, bool):
        return None
    if isinstance(found, int):
        return found
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if isinstance(found, str) and found.isascii() and found.isdecimal() and len(found) < 16:
        return int(found)
    return None


def objects_at(value: object, path: str) -> tuple[Mapping[str, object], ...]:
    """The objects of the array at a path; empty when there is no array."""
    found = at(value, path)
    return tuple(item for item in found if is_object(item)) if is_array(found) else ()


def text_list(value: object, path: str) -> tuple[str, ...]:
    """The texts of the array at a path; empty when there is no array."""
    found = at(value, path)
    return tuple(one for one in found if isinstance(one, str)) if is_array(found) else ()


def texts_at(value: object, path: str) -> Iterator[str]:
    """The texts at a path, for each element if it leads through arrays or to one; whole numbers count as digits."""
    found = [value]
    for step in steps(path):
        found = [inner for one in found for inner in _inside(one, step)]
    for one in found:
        for text in one if is_array(one) else (one,):
            if (isinstance(text, str) and text) or (isinstance(text, int) and not isinstance(text, bool)):
                yield str(text)


def _inside(value: object, step: str) -> Iterator[object]:
    if is_object(value):
        yield value.get(step)
    elif is_array(value) and step.isdecimal():
        yield from value[int(step) :][:1]
    elif is_array(value):
        yield from (one.get(step) for one in value if is_object(one))


def fill(template: str, value: object) -> str | None:
    """A text with its `{paths}` replaced by the values there; None when one is missing.

    `{a|b}` is the first that exists.
    """
    filled: list[str] = []
    for index, part in enumerate(_PLACEHOLDER.split(template)):
        ways = part.split("|")
        text = part if index % 2 == 0 else next((found for way in ways if (found := text_at(value, way))), None)
        if text is None:
            return None
        filled.append(text)
    return "".join(filled)


def put(body: dict[str, object], path: str, value: object) -> None:
    """Set the value at a dotted path, creating what is missing. A number is a place in a list."""
    names = steps(path)
    place: object = body
    for step, following in zip(names, (*names[1:], None), strict=True):
        made: object = value if following is None else ([] if following.isdecimal() else {})
        place = _descend(place, step, made, is_last=following is None)


def _descend(place: object, step: str, made: object, *, is_last: bool) -> object:
    """The value one step below an object or list that was created here; `made` if there is none yet."""
    if isinstance(place, list):
        places: list[object] = place  # pyright: ignore[reportUnknownVariableType] -- made here
        number = int(step)
        places.extend([None] * (number + 1 - len(places)))
        if is_last or places[number] is None:
            places[number] = made
        return places[number]
    if not isinstance(place, dict):
        raise TypeError(f"{step} is below a value")
    members: dict[str, object] = place  # pyright: ignore[reportUnknownVariableType] -- made here
    if is_last:
        members[step] = made
    return members.setdefault(step, made)

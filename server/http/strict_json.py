"""Strict parsing of external JSON: anything that two parsers could read differently is refused. Pure."""

from __future__ import annotations

import json
import re
from typing import Final

MAX_JSON_DEPTH: Final = 30

# An unterminated string extends to the end of the text: searching again from each quote would take quadratic time.
_JSON_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a member is repeated")
    return out


def _no_constant(name: str) -> object:
    raise ValueError(name)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_no_constant)


def _check_depth(raw: bytes) -> None:
    depth = 0
    for byte in _JSON_STRING.sub(b"", raw).translate(None, _NO_BRACKETS):
        if byte in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise ValueError("too deep")
        else:
            depth -= 1


def has_more_parts(raw: bytes, *, nested: int, values: int) -> bool:
    """Whether JSON has too many objects and arrays, or values: each costs its reader more than its bytes.

    Characters in strings don't count, unless there are so many that the text is refused without looking.
    """
    brackets, commas = raw.count(b"{") + raw.count(b"["), raw.count(b",")
    if brackets <= nested and commas <= values:
        return False
    if brackets > 4 * nested or commas > 4 * values:
        return True
    bare = _JSON_STRING.sub(b"", raw)
    return bare.count(b"{") + bare.count(b"[") > nested or bare.count(b",") > values


def parse_json(raw: bytes) -> object:
    """Strict JSON: UTF-8, no repeated members, no NaN, at most 30 levels. Raises ValueError."""
    if raw.count(b"[") + raw.count(b"{") > MAX_JSON_DEPTH:  # with fewer brackets, it can't be that deep
        _check_depth(raw)
    text = raw.decode("utf-8", "strict")
    if text.startswith("\ufeff"):
        raise ValueError("a byte order mark")
    return decode(text)


def decode(text: str) -> object:
    """JSON of any depth, without repeated members and NaN. Raises ValueError and RecursionError."""
    decoded: object = _DECODER.decode(text)
    return decoded


def json_object(raw: bytes) -> dict[str, object]:
    """As `parse_json`, for an object. Raises ValueError."""
    parsed = parse_json(raw)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")  # noqa: TRY004 -- of the input, not of the caller
    if b"\\u" in raw:  # only this can write an unpaired surrogate, which can't be stored: ValueError
        json.dumps(parsed, ensure_ascii=False).encode()
    return {str(key): value for key, value in parsed.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- json.loads

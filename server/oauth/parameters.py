"""Reads request parameters and JSON strictly: no repeats, no invalid text, bounded depth. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes, urlencode

from server.oauth.rules import OAuthError

MAX_PARAMETERS: Final = 60


MAX_JSON_DEPTH: Final = 30


@dataclass(frozen=True, slots=True)
class Parameters:
    """Request parameters. A parameter without a value counts as absent (RFC 6749 §3.1)."""

    values: Mapping[str, str] = field(repr=False)
    repeated: frozenset[str] = frozenset()

    def get(self, name: str) -> str | None:
        return self.values.get(name) or None

    def require(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise OAuthError("invalid_request", f"{name} is missing")
        return value

    def refuse_repeated(self) -> None:
        """RFC 6749 §3.1, §3.2: parameters MUST NOT be included more than once."""
        if self.repeated:
            code = "invalid_target" if self.repeated == frozenset({"resource"}) else "invalid_request"
            raise OAuthError(code, "a parameter was sent more than once")


def parse_parameters(raw: str) -> Parameters:
    """`application/x-www-form-urlencoded` text. Raises OAuthError for anything but clean UTF-8 without NUL."""
    parts = raw.split("&")
    if len(parts) > MAX_PARAMETERS:
        raise _unreadable()
    values: dict[str, str] = {}
    repeated: set[str] = set()
    for part in parts:
        if not part:
            continue
        name, _, value = part.partition("=")
        name, value = _decode(name), _decode(value)
        if name in values:
            repeated.add(name)
        else:
            values[name] = value
    return Parameters(values, frozenset(repeated))


def _unreadable() -> OAuthError:
    return OAuthError("invalid_request", "the parameters cannot be read")


def _decode(text: str) -> str:
    """One name or value; most have nothing to decode."""
    if "+" in text:
        text = text.replace("+", " ")
    if "%" in text:
        try:
            text = unquote_to_bytes(text).decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise _unreadable() from error
    if "\0" in text:
        raise _unreadable()
    return text


def with_parameters(uri: str, parameters: Mapping[str, str]) -> str:
    """`uri` with parameters appended to its query; everything is percent-encoded, so nothing can be injected."""
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(parameters)}"


_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


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
    for byte in _JSON_STRING.sub(b"", raw):
        if byte in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise ValueError("too deep")
        elif byte in b"]}":
            depth -= 1


def parse_json(raw: bytes) -> object:
    """Strict JSON: UTF-8, no repeated members, no NaN, at most 30 levels. Raises ValueError."""
    if raw.count(b"[") + raw.count(b"{") > MAX_JSON_DEPTH:  # otherwise it cannot be that deep
        _check_depth(raw)
    text = raw.decode("utf-8", "strict")
    if text.startswith("\ufeff"):
        raise ValueError("a byte order mark")
    parsed: object = _DECODER.decode(text)
    return parsed


def json_object(raw: bytes) -> dict[str, object]:
    """Like `parse_json`, for an object. Raises ValueError."""
    parsed = parse_json(raw)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")  # noqa: TRY004 -- of the input, not of the caller
    if b"\\u" in raw:  # an unpaired surrogate can be written only as an escape, and be stored nowhere: ValueError
        json.dumps(parsed, ensure_ascii=False).encode()
    return {str(key): value for key, value in parsed.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- json.loads

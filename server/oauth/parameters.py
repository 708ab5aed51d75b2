"""Reads request parameters strictly: no repeats, no invalid text. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from server.oauth.rules import OAuthError

MAX_PARAMETERS: Final = 60


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
    return OAuthError("invalid_request", "the parameters can't be read")


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

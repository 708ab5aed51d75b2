"""Request rules: which scopes allow a call to a provider's API. Pure; what no rule allows is refused.

Used before anything is sent, by `providers.api` and by whoever lets clients call a provider's API through the vault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

from providers.provider import Provider, Rule


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it would go out: `path` percent-encoded and below the API's base URL, parameters of query and body."""

    api: str
    method: str
    path: str
    parameters: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)


def covering_scopes(provider: Provider, call: Call) -> tuple[frozenset[str], ...]:
    """The sets of scopes any of which allows the call; empty when no rule is for it."""
    return tuple(rule.scopes for rule in _matching(provider, call))


def allowed(provider: Provider, call: Call, scopes: frozenset[str], *, granted: frozenset[str] | None = None) -> bool:
    """Whether `scopes` allow the call, made with a token whose own authority is `granted` (None: the same)."""
    held = expand(provider, scopes)
    return any(
        not rule.scopes.isdisjoint(held)
        and (not rule.inseparable or granted is None or rule.inseparable.isdisjoint(expand(provider, granted) - held))
        for rule in _matching(provider, call)
    )


def expand(provider: Provider, scopes: frozenset[str]) -> frozenset[str]:
    """The scopes and everything that they include."""
    covers = provider.covers
    return scopes.union(*[covers[scope] for scope in scopes if scope in covers])


def _matching(provider: Provider, call: Call) -> Iterator[Rule]:
    if not _is_plain(call.path):
        return
    for rule in provider.rules:
        if (
            rule.api == call.api
            and rule.method == call.method
            and rule.path_pattern.fullmatch(call.path) is not None
            and all(
                pattern.fullmatch(_as_text(call.parameters.get(name))) is not None
                for name, pattern in rule.where_patterns
            )
        ):
            yield rule


@lru_cache(maxsize=1024)
def _is_plain(path: str) -> bool:
    """No dot segment, empty segment or control character in any encoding: servers must see the path that was judged."""
    if "\\" in path or "?" in path or "#" in path:
        return False
    return all(_is_plain_segment(segment) for segment in path.split("/")[1:])


def _is_plain_segment(segment: str) -> bool:
    seen = unquote(segment)
    parts = re.split(r"[/\\]", seen)
    return seen.isprintable() and all(part.strip(".") != "" for part in parts)


def _as_text(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case _:
            return "\x00"  # lists and objects match no pattern

"""A request as the faces read it: parsed once, by `wire`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class SimulatedCall:
    """A parsed request. `arguments` is the body, form or JSON; `fault` is the one about to hit its answer."""

    method: str
    path: str
    path_params: Mapping[str, str]
    query: Mapping[str, str]
    arguments: Mapping[str, JsonValue]
    content_type: str
    bearer: str | None = field(repr=False)
    basic: tuple[str, str] | None = field(repr=False)
    is_json: bool
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    fault: str | None = None

    def text(self, name: str) -> str | None:
        """A body argument that is a non-empty string."""
        value = self.arguments.get(name)
        return value if isinstance(value, str) and value else None

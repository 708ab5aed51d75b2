"""One step of applying a declaration: what it changes, and the function that does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Verb = Literal["create", "update", "remove"]


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One value that changes; never a secret."""

    name: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """One object to create, change, or remove. `run` does it and returns a link or a secret, which is shown once."""

    verb: Verb
    kind: Literal["person", "group", "agent", "api", "provider", "mcp_server", "imported_api"]
    name: str
    differences: Sequence[FieldDifference]
    run: Callable[[], Awaitable[str | None]] = field(repr=False)


def differences_between(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[FieldDifference, ...]:
    """The values that change."""
    return tuple(
        FieldDifference(name, before.get(name), value) for name, value in after.items() if before.get(name) != value
    )

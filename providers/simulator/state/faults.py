"""Scripted misbehavior: which answer goes wrong next, how, and whether the request takes effect before it does.

`before` means that the request changes nothing here; `after` that it took effect and only its answer is lost or
corrupted. This module only matches and waits; `wire.py` performs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

FaultKind = Literal[
    "status",  # a status code and nothing usable in the body
    "rate_limited",  # 429 with Retry-After in the provider's shape
    "html",  # a proxy's page instead of JSON
    "empty",  # 200 and no body
    "ok_false",  # HTTP 200 with an error
    "invalid_grant",  # a false refusal: the token is valid
    "redirect",  # 307 to somewhere else
    "huge",  # a body far above any sane limit
    "cut",  # half of the true answer
    "alter",  # the true answer with members changed or removed
    "drop",  # the connection closes without an answer
    "hang",  # no answer until the caller gives up
    "slow",  # the true answer, `seconds` late
    "hold",  # the true answer when the control endpoint releases it
]
_ALIASES: dict[str, tuple[str, str]] = {
    "drop_before": ("drop", "before"),
    "drop_after": ("drop", "after"),
    "timeout": ("hang", "before"),
    "timeout_after": ("hang", "after"),
    "429": ("rate_limited", "before"),
}
_AFTER_BY_NATURE = frozenset({"cut", "alter"})
WAITING = frozenset({"hang", "slow", "hold"})


class Fault(BaseModel):
    """One rule of misbehavior. `endpoint` is a dotted name (`slack.token.refresh`), a prefix, or empty for all."""

    model_config = ConfigDict(extra="forbid")

    endpoint: str = ""
    kind: FaultKind
    when: Literal["before", "after"] = "before"
    times: int | None = Field(default=1, ge=1)  # None: until cleared
    families: frozenset[str] | None = None  # apply to these grants only, by their labels in the books
    skip: int = Field(default=0, ge=0)  # let this many requests pass first
    status: int | None = Field(default=None, ge=200, le=599)  # None: 502 for html, 500 for status, 429 for rate_limited
    body: str | None = None
    error: str | None = None
    retry_after: int | None = 1
    location: str | None = None
    seconds: float = Field(default=1.0, ge=0, le=600)
    persists: bool = False  # a slow request takes effect even if its caller gave up
    size: int = Field(default=8 * 1024 * 1024, ge=1, le=256 * 1024 * 1024)  # bytes of a huge body
    change: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])  # dotted paths into the answer
    remove: list[str] = Field(default_factory=list[str])

    @model_validator(mode="before")
    @classmethod
    def _expand_alias(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        fields: dict[str, object] = {str(key): value for key, value in data.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] input of unknown shape
        kind = str(fields.get("kind"))
        if kind in _ALIASES:
            fields["kind"], fields["when"] = _ALIASES[kind]
        elif kind in _AFTER_BY_NATURE:
            fields["when"] = "after"
        return fields

    def matches(self, endpoint: str) -> bool:
        """Whether this rule applies to that endpoint."""
        return self.endpoint == "" or endpoint == self.endpoint or endpoint.startswith(f"{self.endpoint}.")


class Faults:
    """The queue of scripted faults and the requests that are being held."""

    def __init__(self) -> None:
        self.queue: list[Fault] = []
        self.held: list[str] = []
        self.closing = asyncio.Event()  # set when the simulator stops, to end all waiting
        self._released = asyncio.Event()

    def add(self, fault: Fault) -> None:
        """Queue a fault behind the existing ones."""
        self.queue.append(fault)

    def clear(self) -> None:
        """Drop what is queued and release everything held."""
        self.queue.clear()
        self.release()

    def take(self, endpoint: str, whose: Callable[[], str | None]) -> Fault | None:
        """The first matching fault for this request, counted as used. `whose` finds its family."""
        for fault in self.queue:
            if not fault.matches(endpoint) or (fault.families is not None and whose() not in fault.families):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                return None
            if fault.times is not None:
                fault.times -= 1
                if fault.times == 0:
                    self.queue.remove(fault)
            return fault
        return None

    def release(self) -> None:
        """Answer every request that is held now."""
        self._released.set()
        self._released = asyncio.Event()

    async def hold(self, endpoint: str) -> None:
        """Wait until released."""
        released = self._released
        self.held.append(endpoint)
        try:
            await released.wait()
        finally:
            self.held.remove(endpoint)

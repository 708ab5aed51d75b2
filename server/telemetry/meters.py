"""Counters and timers, with label values that outsiders can't multiply.

Every label comes from a closed set: the providers and tools of this vault, and codes of our own. No label names a
person, an agent or an account.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from server.errors import failure_label
from server.telemetry.recorder import UNRECORDED, Recorder
from server.telemetry.tally import MOST_SERIES, OTHER, Labels, Tally, Times
from vault.refusals import VaultError
from vault.spans import Attribute
from vault.storage.event_chain import ChainEntry
from vault.upkeep.census import REFRESHES

_STORAGE: Final = "storage"
_READS: Final = frozenset({"read", "look_up"})
_QUICK: Final = 0.001  # seconds: a read that took less has no span of its own
_MOST_BOUND: Final = 1000
_LABELS: Final[Mapping[str, Sequence[str]]] = {  # by span; its other attributes are only in traces
    "exchange": ("provider", "error"),
    "refresh": ("provider", "error"),
    "execute_tool": ("tool", "transport", "error"),
    "proxy": ("provider", "error"),
    "upstream": ("provider", "operation", "status", "error"),
    "storage": ("operation", "error"),
}
TIMES: Final[Mapping[str, tuple[str, str]]] = {
    "exchange": ("token_vault.exchange.duration", "From the request to the token or its refusal"),
    "refresh": ("token_vault.refresh.duration", "A claim, the request to the provider, and the commit of its answer"),
    "execute_tool": ("token_vault.tool.duration", "A tool call, from its arguments to its answer"),
    "proxy": ("token_vault.proxy.duration", "A call through the API proxy, from its handle to the end of its answer"),
    "upstream": ("token_vault.upstream.duration", "A request to a provider, until its whole answer has arrived"),
    "storage": ("token_vault.storage.duration", "A statement or a transaction"),
}
COUNTS: Final[Mapping[str, str]] = {
    "token_vault.tool.calls": "Tool calls by tool, outcome, code, and narrowing",
    "token_vault.proxy.calls": "Calls through the API proxy by provider, outcome, and code",
    "token_vault.exchanges": "Tokens released, by provider and narrowing",
    "token_vault.refusals": "Refused exchanges by provider and code",
    "token_vault.refreshes": "Refreshes by provider and outcome: ok, unanswered, needs_reauth",
    "token_vault.events": "Committed events of the activity by kind and outcome",
}
_EVENTS: Final = "token_vault.events"
_COUNTED: Final[Mapping[str, tuple[str, Sequence[str]]]] = {  # by kind of event: the counter, and its labels
    "tool.called": ("token_vault.tool.calls", ("tool", "outcome", "code", "narrowing")),
    "proxy.called": ("token_vault.proxy.calls", ("provider", "outcome", "code")),
    "token.exchanged": ("token_vault.exchanges", ("provider", "narrowing")),
    "exchange.refused": ("token_vault.refusals", ("provider", "code")),
    **dict.fromkeys(REFRESHES, ("token_vault.refreshes", ("provider", "outcome"))),
}


class Meters:
    """Counts events that were committed, and times spans. `is_provider` and `is_tool` say which names may be labels.

    Without a `recorder`, spans are timed only. `span` is the listener of `vault.spans`.
    """

    def __init__(
        self,
        meter: Meter,
        recorder: Recorder | None,
        tally: Tally,
        *,
        is_provider: Callable[[str], bool],
        is_tool: Callable[[str], bool],
    ) -> None:
        self.recorder = recorder
        self.span = partial(RunningSpan, self)
        self._tally = tally
        self._bound: dict[object, Times] = {}  # labels by the attributes of spans, created once
        self._named: dict[object, Labels] = {}  # by the attributes of events
        self._is_known = {"provider": is_provider, "tool": is_tool}
        for name, text in COUNTS.items():
            counted = tally.counts[name] = Counter()
            meter.create_observable_counter(name, [partial(_observe, counted)], description=text)
        self._events = tally.counts[_EVENTS]

    def count(self, entries: Sequence[ChainEntry]) -> None:
        """Count events, once they are committed."""
        for entry in entries:
            kind, outcome, said = entry.kind, entry.outcome, entry.said
            self._events[("kind", kind), ("outcome", outcome)] += 1
            if (counted := _COUNTED.get(kind)) is None:
                continue
            name, labels = counted
            key = (kind, outcome, *map(said.get, labels))
            found = self._named.get(key)
            if found is None:
                told = {**said, "outcome": REFRESHES.get(kind, outcome)}
                found = self._name(key, labels, told, self._tally.counts[name])
            repeats = said.get("repeats", 1)  # repeated refusals are counted in one event
            self._tally.counts[name][found] += repeats if isinstance(repeats, int) else 1

    def _name(
        self, key: object, labels: Sequence[str], said: Mapping[str, object], counted: Mapping[Labels, int]
    ) -> Labels:
        values = {label: said.get(label) for label in labels}
        code = values.get("code")
        if said["outcome"] == "failed" and "tool" in labels and isinstance(code, str):  # may be a provider's
            values["code"] = failure_label(code)
        found = tuple(self._label(label, value if isinstance(value, str) else "") for label, value in values.items())
        if found not in counted and len(counted) >= MOST_SERIES:
            found = tuple((label, OTHER) for label in labels)
        if values.get("code") == code and all(value != OTHER for _, value in found) and len(self._named) < _MOST_BOUND:
            self._named[key] = found
        return found

    def end_storage(self, operation: str, began: float, error: BaseException | None = None) -> None:
        """Keep the time of what began then on the clock of `time.perf_counter`, and its span in a recorded trace."""
        seconds = time.perf_counter() - began
        code = None if error is None else code_of(error)
        times = self._bound.get((_STORAGE, operation, code))
        if times is None:
            times = self._bind(_STORAGE, _storage_attributes(operation, code))
        times.add(seconds)
        if self.recorder is not None and (seconds >= _QUICK or operation not in _READS):
            self.recorder.add(_STORAGE, seconds, _storage_attributes(operation, code))

    def end(self, name: str, seconds: float, attributes: Mapping[str, Attribute]) -> None:
        """Keep the time."""
        times = self._bound.get((name, *map(attributes.get, _LABELS[name])))
        if times is None:
            times = self._bind(name, attributes)
        times.add(seconds)

    def _bind(self, name: str, attributes: Mapping[str, Attribute]) -> Times:
        labels = [self._label(key, str(attributes[key])) for key in _LABELS[name] if key in attributes]
        found = self._tally.times(name, tuple(labels))
        if all(value != OTHER for _, value in labels) and len(self._bound) < _MOST_BOUND:
            self._bound[(name, *map(attributes.get, _LABELS[name]))] = found
        return found

    def _label(self, key: str, value: str) -> tuple[str, str]:
        is_known = self._is_known.get(key)
        return key, value if is_known is None or not value or is_known(value) else OTHER


def _observe(counted: Mapping[Labels, int], options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(number, dict(labels)) for labels, number in list(counted.items())]


def _storage_attributes(operation: str, code: str | None) -> dict[str, Attribute]:
    return {"operation": operation} if code is None else {"operation": operation, "error": code}


def code_of(error: BaseException) -> str:
    """A refusal by its code, anything else by its class: never its text."""
    return error.code if isinstance(error, VaultError) else type(error).__name__


class RunningSpan:
    """Timed work in progress, with a span if its trace is recorded. A `vault.spans.Span`."""

    __slots__ = ("_began", "_meters", "_name", "_parent", "_recorded", "attributes")

    def __init__(
        self, meters: Meters, name: str, attributes: dict[str, Attribute], parent: Mapping[str, str] | None = None
    ) -> None:
        self._meters = meters
        self._name = name
        self._parent = parent
        self.attributes = attributes

    def __enter__(self) -> RunningSpan:
        recorder, parent = self._meters.recorder, self._parent
        if recorder is None or (parent is None and UNRECORDED.get()):
            self._recorded = None
        else:
            self._recorded = recorder.begin(self._name, self.attributes, parent)
        self._began = time.perf_counter()
        return self

    def note(self, **attributes: Attribute) -> None:
        self.attributes |= attributes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._began
        if error is not None:
            self.attributes["error"] = code_of(error)
        self._meters.end(self._name, seconds, self.attributes)
        if self._recorded is not None:
            self._recorded.end(self.attributes)

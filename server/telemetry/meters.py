"""Counters and timers, with label values that outsiders can't multiply.

Every label comes from a closed set: the providers and tools of this vault, and codes of our own. No label names a
person, an agent or an account.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from types import TracebackType
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from server.errors import failure_label
from server.telemetry.recorder import UNRECORDED, Recorder
from server.telemetry.tally import MOST_SERIES, OTHER, Count, Labels, Tally, Times
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
}  # an error is last
_SUCCESS: Final[Mapping[str, Callable[[Mapping[str, Attribute]], object]]] = {
    name: itemgetter(*labels[:-1]) for name, labels in _LABELS.items()
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
_COUNTED: Final[Mapping[str, tuple[str, Sequence[str]]]] = {  # by kind of event: its own counter, and its labels
    "tool.called": ("token_vault.tool.calls", ("tool", "outcome", "code", "narrowing")),
    "proxy.called": ("token_vault.proxy.calls", ("provider", "outcome", "code")),
    "token.exchanged": ("token_vault.exchanges", ("provider", "narrowing")),
    "exchange.refused": ("token_vault.refusals", ("provider", "code")),
    **dict.fromkeys(REFRESHES, ("token_vault.refreshes", ("provider", "outcome"))),
}
_SAID: Final = {kind: [one for one in labels if one != "outcome"] for kind, (_, labels) in _COUNTED.items()}


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
        self._bound: dict[str, dict[object, Times]] = {name: {} for name in TIMES}  # by the attributes of spans
        self._counted: dict[object, tuple[Count, Count]] = {}  # by the attributes of events
        self._is_known = {"provider": is_provider, "tool": is_tool}
        for name, text in COUNTS.items():
            counted = tally.counts[name] = {}
            meter.create_observable_counter(name, [partial(_observe, counted)], description=text)

    def count(self, entries: Sequence[ChainEntry]) -> None:
        """Count events, once they are committed."""
        for entry in entries:
            said = entry.said
            key = (entry.kind, entry.outcome, *map(said.get, _SAID.get(entry.kind, ())))
            of_all, of_its_kind = self._counted.get(key) or self._bind_counts(key, entry)
            of_all.times += 1
            repeats = said.get("repeats", 1)  # repeated refusals are counted in one event
            of_its_kind.times += repeats if isinstance(repeats, int) else 1

    def _bind_counts(self, key: object, entry: ChainEntry) -> tuple[Count, Count]:
        """What counts such an event among all, and in its kind's own counter if it has one."""
        counts, outcome = self._tally.counts, entry.outcome
        of_all = counts[_EVENTS].setdefault((("kind", entry.kind), ("outcome", outcome)), Count())
        is_ours, own = True, Count()
        if (counted := _COUNTED.get(entry.kind)) is not None:
            name, labels = counted
            told = {**entry.said, "outcome": REFRESHES.get(entry.kind, outcome)}
            values = {label: told.get(label) for label in labels}
            code = values.get("code")
            if outcome == "failed" and "tool" in labels and isinstance(code, str):  # may be a provider's
                values["code"] = failure_label(code)
            found = tuple(self._label(label, one if isinstance(one, str) else "") for label, one in values.items())
            if found not in counts[name] and len(counts[name]) >= MOST_SERIES:
                found = tuple((label, OTHER) for label in labels)
            is_ours = values.get("code") == code and all(value != OTHER for _, value in found)
            own = counts[name].setdefault(found, own)
        if is_ours and len(self._counted) < _MOST_BOUND:
            self._counted[key] = of_all, own
        return of_all, own

    def end_storage(self, operation: str, began: float, error: BaseException | None = None) -> None:
        """Keep the time of what began then on the clock of `time.perf_counter`, and its span in a recorded trace."""
        seconds = time.perf_counter() - began
        times = self._bound[_STORAGE].get(operation) if error is None else None
        if times is None:
            self.end(_STORAGE, seconds, _storage_attributes(operation, error))
        else:
            times.add(seconds)
        if self.recorder is not None and (seconds >= _QUICK or operation not in _READS):
            self.recorder.add(_STORAGE, seconds, _storage_attributes(operation, error))

    def is_recorded(self) -> bool:
        """Whether work that begins now may be in a recorded trace; otherwise it is only timed."""
        return self.recorder is not None and not UNRECORDED.get()

    def end_upstream(self, peer: str, status: int, began: float) -> None:
        """Keep the time of a request that was answered, without a span; each tool call has one."""
        seconds, key = time.perf_counter() - began, (peer, status)
        times = self._bound["upstream"].get(key)
        if times is None:
            provider, operation = names_of(peer)
            said: dict[str, Attribute] = {"provider": provider, "operation": operation, "status": class_of(status)}
            times = self._bind(key, "upstream", said)
        times.add(seconds)

    def end(self, name: str, seconds: float, attributes: Mapping[str, Attribute]) -> None:
        """Keep the time."""
        try:
            said = None if "error" in attributes else _SUCCESS[name](attributes)
        except KeyError:
            said = None
        if said is None:  # rare, and three times as slow
            said = tuple(map(attributes.get, _LABELS[name]))
        times = self._bound[name].get(said)
        if times is None:
            times = self._bind(said, name, attributes)
        times.add(seconds)

    def _bind(self, said: object, name: str, attributes: Mapping[str, Attribute]) -> Times:
        labels = [self._label(key, str(attributes[key])) for key in _LABELS[name] if key in attributes]
        found, bound = self._tally.times(name, tuple(labels)), self._bound[name]
        if all(value != OTHER for _, value in labels) and len(bound) < _MOST_BOUND:
            bound[said] = found
        return found

    def _label(self, key: str, value: str) -> tuple[str, str]:
        is_known = self._is_known.get(key)
        return key, value if is_known is None or not value or is_known(value) else OTHER


def _observe(counted: Mapping[Labels, Count], options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(one.times, dict(labels)) for labels, one in list(counted.items())]


def _storage_attributes(operation: str, error: BaseException | None) -> dict[str, Attribute]:
    return {"operation": operation} if error is None else {"operation": operation, "error": code_of(error)}


def code_of(error: BaseException) -> str:
    """A refusal by its code, anything else by its class: never its text."""
    return error.code if isinstance(error, VaultError) else type(error).__name__


@lru_cache(maxsize=1000)
def names_of(peer: str) -> tuple[str, str]:
    """The provider and the operation of a request."""
    provider, _, operation = peer.partition(".")
    return provider, operation or "document"


@lru_cache(maxsize=1000)
def class_of(status: int) -> str:
    """`2xx`: the exact status is in the span."""
    return f"{status // 100}xx"


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

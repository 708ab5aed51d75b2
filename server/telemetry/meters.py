"""What is counted and timed, with values that an outsider can't multiply.

Every label comes from a closed set: the providers and tools of this vault, and codes of our own. No label names a
person, an agent or an account.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from random import random
from types import TracebackType
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.propagate import extract
from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode, Tracer, get_current_span
from pydantic_core import from_json

from server.telemetry.tally import Labels, Tally, Times
from vault.refusals import VaultError
from vault.spans import REQUEST_ID, Attribute
from vault.storage.event_chain import ChainEntry
from vault.upkeep.census import REFRESHES

_STORAGE: Final = "storage"
_READS: Final = frozenset({"read", "look_up"})
_QUICK: Final = 0.001  # seconds: a read that took less has no span of its own
OTHER: Final = "other"  # in place of a value that is none of ours
_MOST_BOUND: Final = 1000
_CONVENTIONS: Final = {  # OpenTelemetry's names
    "error": "error.type",
    "http_status": "http.response.status_code",
    "method": "http.request.method",
    "tool": "gen_ai.tool.name",
}
_LABELS: Final = frozenset({"provider", "tool", "transport", "operation", "status", "error"})
TIMES: Final[Mapping[str, tuple[str, str]]] = {
    "exchange": ("token_vault.exchange.duration", "From the request to the token or its refusal"),
    "refresh": ("token_vault.refresh.duration", "A claim, the request to the provider, and the commit of its answer"),
    "execute_tool": ("token_vault.tool.duration", "A tool call, from its arguments to its answer"),
    "upstream": ("token_vault.upstream.duration", "A request to a provider, until its whole answer is here"),
    "storage": ("token_vault.storage.duration", "A statement or a transaction"),
}
COUNTS: Final[Mapping[str, str]] = {
    "token_vault.tool.calls": "Tool calls by tool, outcome, code, and narrowing",
    "token_vault.proxy.calls": "Calls through the API proxy by provider and outcome",
    "token_vault.exchanges": "Tokens handed out, by provider and narrowing",
    "token_vault.refusals": "Refused exchanges by provider and code",
    "token_vault.refreshes": "Refreshes by provider and outcome: ok, unanswered, needs_reauth",
    "token_vault.events": "Committed events of the activity by kind and outcome",
}


_UNRECORDED: Final = ContextVar("unrecorded", default=False)


class Meters:
    """Counts events that were committed, and times spans. `is_provider` and `is_tool` say which names may be labels.

    Without a `tracer`, spans are timed only. `share`: of the traces that begin here and are recorded; None leaves the
    choice to the tracer, which costs each call more.
    """

    def __init__(
        self,
        meter: Meter,
        tracer: Tracer | None,
        tally: Tally,
        *,
        share: float | None = None,
        is_provider: Callable[[str], bool],
        is_tool: Callable[[str], bool],
    ) -> None:
        self._tracer = tracer
        self._share = share
        self._tally = tally
        self._bound: dict[object, Times] = {}  # by what spans say: their labels are made once
        self._is_known = {"provider": is_provider, "tool": is_tool}
        for name, text in COUNTS.items():
            counted = tally.counts[name] = Counter()
            meter.create_observable_counter(name, [partial(_observe, counted)], description=text)
        self._calls = tally.counts["token_vault.tool.calls"]
        self._proxied = tally.counts["token_vault.proxy.calls"]
        self._exchanges = tally.counts["token_vault.exchanges"]
        self._refusals = tally.counts["token_vault.refusals"]
        self._refreshes = tally.counts["token_vault.refreshes"]
        self._events = tally.counts["token_vault.events"]

    def count(self, entries: Sequence[ChainEntry]) -> None:
        """Count events, once they are committed."""
        for entry in entries:
            kind, outcome = entry.kind, ("outcome", entry.outcome)
            self._events[("kind", kind), outcome] += 1
            match kind:
                case "tool.called":
                    said = _Details(entry)
                    labels = (self._label("tool", said["tool"]), outcome, said.pair("code"), said.pair("narrowing"))
                    self._calls[labels] += said.times
                case "proxy.called":
                    said = _Details(entry)
                    self._proxied[self._label("provider", said["provider"]), outcome] += said.times
                case "token.exchanged":
                    said = _Details(entry)
                    self._exchanges[self._label("provider", said["provider"]), said.pair("narrowing")] += 1
                case "exchange.refused":
                    said = _Details(entry)
                    self._refusals[self._label("provider", said["provider"]), said.pair("code")] += said.times
                case _ if kind in REFRESHES:
                    said = _Details(entry)
                    self._refreshes[self._label("provider", said["provider"]), ("outcome", REFRESHES[kind])] += 1
                case _:
                    pass

    def span(self, name: str, attributes: dict[str, Attribute], parent: Mapping[str, str] | None = None) -> RunningSpan:
        """The listener of `vault.spans`: a span of the trace, and its time in the histogram of that name."""
        return RunningSpan(self, name, attributes, parent)

    def begin(
        self, name: str, attributes: Mapping[str, Attribute], parent: Mapping[str, str] | None
    ) -> AbstractContextManager[Span] | None:
        """The span of the trace; None where none is to be made.

        What stands under work that is not recorded has no span of its own.
        """
        if self._tracer is None:
            return None
        if not parent:
            if _UNRECORDED.get():
                return None
            above = get_current_span().get_span_context()
            if above.is_valid:
                if not above.trace_flags.sampled:
                    return None
            elif self._share is not None and random() >= self._share:  # noqa: S311 -- no secret
                return _UnrecordedSpan()
        title = " ".join(str(part) for part in (name, attributes.get("tool") or attributes.get("provider")) if part)
        context = extract(parent) if parent else None
        return self._tracer.start_as_current_span(title, context, record_exception=False, set_status_on_exception=False)

    def storage(self, operation: str) -> StorageTime:
        """Enter it around what storage does."""
        return StorageTime(self, operation)

    def end_storage(self, operation: str, seconds: float, error: BaseException | None) -> None:
        """Keep the time, and the span within a recorded trace: made now, since nothing stands under it."""
        labels: Labels = (("operation", operation),)
        if error is not None:
            labels += (("error", code_of(error)),)
        self._tally.times(_STORAGE, labels).add(seconds)
        if self._tracer is None or _UNRECORDED.get() or (seconds < _QUICK and operation in _READS):
            return
        above = get_current_span().get_span_context()
        if above.is_valid and above.trace_flags.sampled:  # it begins no trace
            span = self._tracer.start_span(_STORAGE, start_time=time.time_ns() - int(seconds * 1e9))
            _describe(span, dict(labels))
            span.end()

    def end(self, name: str, seconds: float, attributes: Mapping[str, Attribute]) -> None:
        """Keep the time."""
        said = (name, *[one for one in attributes.items() if one[0] in _LABELS])
        times = self._bound.get(said)
        if times is None:
            times = self._bind(said, name, attributes)
        times.add(seconds)

    def _bind(self, said: object, name: str, attributes: Mapping[str, Attribute]) -> Times:
        labels = [self._label(key, str(value)) for key, value in attributes.items() if key in _LABELS]
        found = self._tally.times(name, tuple(labels))
        if all(value != OTHER for _, value in labels) and len(self._bound) < _MOST_BOUND:
            self._bound[said] = found
        return found

    def _label(self, key: str, value: str) -> tuple[str, str]:
        is_known = self._is_known.get(key)
        return key, value if is_known is None or not value or is_known(value) else OTHER


def _observe(counted: Mapping[Labels, int], options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(number, dict(labels)) for labels, number in list(counted.items())]


def code_of(error: BaseException) -> str:
    """A refusal by its code, anything else by its class: never its text."""
    return error.code if isinstance(error, VaultError) else type(error).__name__


class _UnrecordedSpan(AbstractContextManager[Span]):
    """Work at the root of a trace that is not recorded."""

    def __enter__(self) -> Span:
        self._reset = _UNRECORDED.set(True)
        return INVALID_SPAN

    def __exit__(self, *raised: object) -> None:
        _UNRECORDED.reset(self._reset)


class StorageTime:
    """An operation of storage under way, of which each call has several: timed without the parts of a span."""

    __slots__ = ("_began", "_meters", "_operation")

    def __init__(self, meters: Meters, operation: str) -> None:
        self._meters = meters
        self._operation = operation

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._meters.end_storage(self._operation, time.perf_counter() - self._began, error)


class RunningSpan:
    """Work under way, timed, and as a span of OpenTelemetry where there is one. A `vault.spans.Span`."""

    __slots__ = ("_began", "_meters", "_name", "_parent", "_shown", "attributes")

    def __init__(
        self, meters: Meters, name: str, attributes: dict[str, Attribute], parent: Mapping[str, str] | None
    ) -> None:
        self._meters = meters
        self._name = name
        self._parent = parent
        self.attributes = attributes

    def __enter__(self) -> RunningSpan:
        self._began = time.perf_counter()
        entered = self._meters.begin(self._name, self.attributes, self._parent)
        self._shown = None if entered is None else (entered, entered.__enter__())
        return self

    def note(self, **attributes: Attribute) -> None:
        self.attributes |= attributes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.attributes["error"] = code_of(error)
        self._meters.end(self._name, time.perf_counter() - self._began, self.attributes)
        if self._shown is not None:
            entered, current = self._shown
            if current is not INVALID_SPAN:
                _describe(current, self.attributes)
            entered.__exit__(None, None, None)


def _describe(current: Span, attributes: Mapping[str, Attribute]) -> None:
    """What is known of the work once it is done."""
    found = {_CONVENTIONS.get(key) or f"token_vault.{key}": value for key, value in attributes.items()}
    if identity := REQUEST_ID.get():
        found["token_vault.request_id"] = identity
    current.set_attributes(found)
    if attributes.get("error"):
        current.set_status(Status(StatusCode.ERROR))


class _Details:
    """The details of an event as labels: what is not there is empty."""

    def __init__(self, entry: ChainEntry) -> None:
        self._read: dict[str, object] = from_json(entry.details)

    def __getitem__(self, name: str) -> str:
        value = self._read.get(name, "")
        return value if isinstance(value, str) else ""

    def pair(self, name: str) -> tuple[str, str]:
        """The label of that name."""
        return name, self[name]

    @property
    def times(self) -> int:
        """How many refusals the event stands for: repeated ones are counted in one."""
        repeats = self._read.get("repeats", 1)
        return repeats if isinstance(repeats, int) else 1

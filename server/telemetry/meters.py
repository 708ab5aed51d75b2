"""The instruments: what is counted and timed, with values that an outsider can't multiply.

Every label comes from a closed set: the providers and tools of this vault, and codes of our own. No label names a
person, an agent or an account.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.metrics import Meter
from opentelemetry.propagate import extract
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from vault.refusals import VaultError
from vault.spans import REQUEST_ID, Attribute
from vault.storage.event_chain import ChainEntry
from vault.upkeep.census import REFRESHES

OTHER: Final = "other"  # in place of a value that is none of ours
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)
_CONVENTIONS: Final = {  # OpenTelemetry's names
    "error": "error.type",
    "http_status": "http.response.status_code",
    "method": "http.request.method",
    "tool": "gen_ai.tool.name",
}
_LABELS: Final = frozenset({"provider", "tool", "transport", "operation", "status", "error"})
_HISTOGRAMS: Final = {
    "exchange": ("token_vault.exchange.duration", "From the request to the token or its refusal"),
    "refresh": ("token_vault.refresh.duration", "A claim, the request to the provider, and the commit of its answer"),
    "execute_tool": ("token_vault.tool.duration", "A tool call, from its arguments to its answer"),
    "upstream": ("token_vault.upstream.duration", "A request to a provider, until its whole answer is here"),
    "storage": ("token_vault.storage.duration", "A statement or a transaction"),
}


class Meters:
    """Counts events that were committed, and times spans. `is_provider` and `is_tool` say which names may be labels."""

    def __init__(
        self, meter: Meter, tracer: Tracer, *, is_provider: Callable[[str], bool], is_tool: Callable[[str], bool]
    ) -> None:
        self._tracer = tracer
        self._is_known = {"provider": is_provider, "tool": is_tool}
        self._calls = meter.create_counter("token_vault.tool.calls", description="Tool calls by outcome and code")
        self._proxied = meter.create_counter("token_vault.proxy.calls", description="Calls to providers' APIs by proxy")
        self._exchanges = meter.create_counter(
            "token_vault.exchanges", description="Tokens handed out, by the way in which they were narrowed"
        )
        self._refusals = meter.create_counter("token_vault.refusals", description="Refused exchanges by code")
        self._refreshes = meter.create_counter("token_vault.refreshes", description="Refreshes by provider and outcome")
        self._events = meter.create_counter("token_vault.events", description="Events of the activity by kind")
        self._times = {
            name: meter.create_histogram(
                full, unit="s", description=text, explicit_bucket_boundaries_advisory=list(_SECONDS)
            )
            for name, (full, text) in _HISTOGRAMS.items()
        }

    def count(self, entries: Sequence[ChainEntry]) -> None:
        """Count events, once they are committed."""
        for entry in entries:
            self._events.add(1, {"kind": entry.kind, "outcome": entry.outcome})
            match entry.kind:
                case "tool.called":
                    said = _Details(entry)
                    labels = {"tool": self._label("tool", said["tool"]), "outcome": entry.outcome}
                    self._calls.add(said.times, labels | {"code": said["code"], "narrowing": said["narrowing"]})
                case "proxy.called":
                    said = _Details(entry)
                    provider = self._label("provider", said["provider"])
                    self._proxied.add(said.times, {"provider": provider, "outcome": entry.outcome})
                case "token.exchanged":
                    said = _Details(entry)
                    provider = self._label("provider", said["provider"])
                    self._exchanges.add(1, {"provider": provider, "narrowing": said["narrowing"]})
                case "exchange.refused":
                    said = _Details(entry)
                    provider = self._label("provider", said["provider"])
                    self._refusals.add(said.times, {"provider": provider, "code": said["code"]})
                case kind if kind in REFRESHES:
                    said = _Details(entry)
                    provider = self._label("provider", said["provider"])
                    self._refreshes.add(1, {"provider": provider, "outcome": REFRESHES[kind]})
                case _:
                    pass

    @contextmanager
    def span(
        self, name: str, attributes: dict[str, Attribute], parent: Mapping[str, str] | None = None
    ) -> Generator[RunningSpan]:
        """The listener of `vault.spans`: a span of the trace, and its time in the histogram of that name."""
        began = time.perf_counter()
        title = " ".join(str(part) for part in (name, attributes.get("tool") or attributes.get("provider")) if part)
        context = extract(parent) if parent else None
        with self._tracer.start_as_current_span(
            title, context, record_exception=False, set_status_on_exception=False
        ) as current:
            running = RunningSpan(current)
            running.note(**attributes)
            if identity := REQUEST_ID.get():
                current.set_attribute("token_vault.request_id", identity)
            try:
                yield running
            except BaseException as error:
                running.note(error=code_of(error))
                raise
            finally:
                self._observe(name, time.perf_counter() - began, running.attributes)

    def _observe(self, name: str, seconds: float, attributes: Mapping[str, Attribute]) -> None:
        labels = {key: self._label(key, str(value)) for key, value in attributes.items() if key in _LABELS}
        self._times[name].record(seconds, labels)

    def _label(self, key: str, value: str) -> str:
        is_known = self._is_known.get(key)
        return value if is_known is None or not value or is_known(value) else OTHER


def code_of(error: BaseException) -> str:
    """A refusal by its code, anything else by its class: never its text."""
    return error.code if isinstance(error, VaultError) else type(error).__name__


class RunningSpan:
    """Work under way, as a span of OpenTelemetry. A `vault.spans.Span`."""

    def __init__(self, current: Span) -> None:
        self._current = current
        self.attributes: dict[str, Attribute] = {}

    def note(self, **attributes: Attribute) -> None:
        self.attributes |= attributes
        for key, value in attributes.items():
            self._current.set_attribute(_CONVENTIONS.get(key, f"token_vault.{key}"), value)
        if attributes.get("error"):
            self._current.set_status(Status(StatusCode.ERROR))


class _Details:
    """The details of an event as labels: what is not there is empty."""

    def __init__(self, entry: ChainEntry) -> None:
        self._read: dict[str, object] = json.loads(entry.details)

    def __getitem__(self, name: str) -> str:
        value = self._read.get(name, "")
        return value if isinstance(value, str) else ""

    @property
    def times(self) -> int:
        """How many refusals the event stands for: repeated ones are counted in one."""
        repeats = self._read.get("repeats", 1)
        return repeats if isinstance(repeats, int) else 1

"""The spans of recorded traces: each is made whole once its work has ended, and given to the SDK's processor.

The SDK builds a span at its start, checks and locks it at each attribute, and copies it at its end, at five times the
cost. Its sampler, its ids, and its context, which the MCP SDK's spans share, stay in use.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from random import random
from typing import Final

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)

from vault.spans import REQUEST_ID, Attribute

_CONVENTIONS: Final = {  # OpenTelemetry's names
    "error": "error.type",
    "http_status": "http.response.status_code",
    "method": "http.request.method",
    "tool": "gen_ai.tool.name",
}
_OK, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
UNRECORDED: Final = ContextVar("unrecorded", default=False)  # whether the work above isn't recorded


class Recorder:
    """Makes the spans of one process. `share`: of the traces that begin here; None leaves each to the SDK's sampler."""

    def __init__(
        self, provider: TracerProvider, processor: SpanProcessor, scope: InstrumentationScope, *, share: float | None
    ) -> None:
        self._ids = provider.id_generator
        self._resource = provider.resource
        self._sampler = provider.sampler
        self._processor = processor
        self._scope = scope
        self._share = share

    def begin(
        self, name: str, attributes: Mapping[str, Attribute], parent: Mapping[str, str] | None
    ) -> RecordedSpan | UnrecordedSpan:
        """What ends with the work. Without a `parent`, the work must not be under `UNRECORDED`."""
        context = get_current() if parent is None else extract(parent)
        above = get_current_span(context).get_span_context() if context else INVALID_SPAN_CONTEXT
        if not above.is_valid:
            if self._share is not None and random() >= self._share:  # noqa: S311 -- no secret
                return UnrecordedSpan()
        elif self._share is not None and not above.trace_flags.sampled:
            return UnrecordedSpan()
        about = attributes.get("tool") or attributes.get("provider")
        title = f"{name} {about}" if about else name
        made = self._make(title, above, context)
        return UnrecordedSpan() if made is None else RecordedSpan(self, title, made, above)

    def _make(self, title: str, above: SpanContext, context: Context | None) -> SpanContext | None:
        """The span's ids; None if the sampler is against it."""
        is_root = not above.is_valid
        trace = self._ids.generate_trace_id() if is_root else above.trace_id
        state: TraceState | None = above.trace_state
        if self._share is None:
            sampled = self._sampler.should_sample(context, trace, title, SpanKind.INTERNAL)
            if not sampled.decision.is_sampled():
                return None
            state = sampled.trace_state
        flags = TraceFlags.RANDOM_TRACE_ID if is_root else above.trace_flags
        sampled_flags = TraceFlags(flags | TraceFlags.SAMPLED)
        return SpanContext(
            trace, self._ids.generate_span_id(), is_remote=False, trace_flags=sampled_flags, trace_state=state
        )

    def add(self, name: str, seconds: float, attributes: Mapping[str, Attribute]) -> None:
        """A span that has just ended, and that nothing stands under; nothing outside of a recorded trace."""
        if UNRECORDED.get():
            return
        above = get_current_span().get_span_context()
        if above.is_valid and above.trace_flags.sampled and (made := self._make(name, above, None)) is not None:
            self.keep(name, made, above, began=time.time_ns() - int(seconds * 1e9), attributes=attributes)

    def keep(
        self, title: str, made: SpanContext, above: SpanContext, *, began: int, attributes: Mapping[str, Attribute]
    ) -> None:
        """Send it with the next ones."""
        found = {_CONVENTIONS.get(key) or f"token_vault.{key}": value for key, value in attributes.items()}
        if identity := REQUEST_ID.get():
            found["token_vault.request_id"] = identity
        self._processor.on_end(
            ReadableSpan(
                title,
                made,
                above if above.is_valid else None,
                self._resource,
                found,
                status=_FAILED if attributes.get("error") else _OK,
                start_time=began,
                end_time=time.time_ns(),
                instrumentation_scope=self._scope,
            )
        )


class RecordedSpan:
    """Work under way, and the one that spans of others stand under."""

    __slots__ = ("_above", "_began", "_made", "_recorder", "_reset", "_title")

    def __init__(self, recorder: Recorder, title: str, made: SpanContext, above: SpanContext) -> None:
        self._recorder = recorder
        self._title = title
        self._made = made
        self._above = above
        self._began = time.time_ns()
        self._reset: Token[Context] = attach(set_span_in_context(NonRecordingSpan(made)))

    def end(self, attributes: Mapping[str, Attribute]) -> None:
        """Keep it with what is known now."""
        detach(self._reset)
        self._recorder.keep(self._title, self._made, self._above, began=self._began, attributes=attributes)


class UnrecordedSpan:
    """Work in progress that isn't recorded, and neither are its children."""

    __slots__ = ("_reset",)

    def __init__(self) -> None:
        self._reset = UNRECORDED.set(True)

    def end(self, attributes: Mapping[str, Attribute]) -> None:
        """End the work; its siblings are recorded again."""
        UNRECORDED.reset(self._reset)

"""Work that a trace shows and a histogram measures: an exchange, a refresh, a tool call, a request to a provider.

Nobody listens by default, and a span then costs two function calls. `server.telemetry` listens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol

Attribute = str | int | bool


class Span(Protocol):
    """Work under way. A refusal that leaves the block is its outcome."""

    def note(self, **attributes: Attribute) -> None:
        """Add what is known only now. Never anything secret, or the name of a person or thing."""
        ...


Listener = Callable[[str, dict[str, Attribute], Mapping[str, str] | None], AbstractContextManager[Span]]


class _Nothing:
    def __enter__(self) -> Span:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def note(self, **attributes: Attribute) -> None:
        pass


_NOTHING: Final = _Nothing()
_listener: Listener | None = None


def span(
    name: str, *, parent: Mapping[str, str] | None = None, **attributes: Attribute
) -> AbstractContextManager[Span]:
    """Enter it around the work. `parent`: W3C trace context of the caller, as `traceparent` and `tracestate`."""
    return _NOTHING if _listener is None else _listener(name, attributes, parent)


def listen(listener: Listener | None) -> None:
    """Call `listener` for each span of this process from now on; None: nobody listens."""
    global _listener
    _listener = listener

"""Spans of work, for traces and histograms, and the ID of the request that the work is done for. Examples are an
exchange, a refresh, a tool call, or a request to a provider. No one listens by default, and a span then costs two
function calls. `server.telemetry` listens. The request's ID goes into log records, events, answers, and spans. Uses of
keys are counted here, too.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

Attribute = str | int | bool
# How often this process used a key, by key and operation. Keys of individual people are counted together, by purpose.
KEY_USES: Final[Counter[tuple[str, str]]] = Counter()
REQUEST_ID: Final = ContextVar("request_id", default="")  # empty outside of a request
CALLER_ADDRESS: Final = ContextVar("caller_address", default="")  # the peer's, as its proxy reports it


class Span(Protocol):
    """Work in progress. A refusal that leaves the block becomes its outcome."""

    def note(self, **attributes: Attribute) -> None:
        """Add attributes that are known only now. Never add anything secret, or the name of a person or thing."""
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


def new_request_id() -> str:
    """16 hexadecimal digits."""
    return secrets.token_bytes(8).hex()


@contextmanager
def request() -> Generator[None]:
    """Give everything that runs in the block a request ID, unless it has one."""
    if REQUEST_ID.get():
        yield
        return
    reset = REQUEST_ID.set(new_request_id())
    try:
        yield
    finally:
        REQUEST_ID.reset(reset)


def span(
    name: str, *, parent: Mapping[str, str] | None = None, **attributes: Attribute
) -> AbstractContextManager[Span]:
    """A span to enter around the work. `parent`: W3C trace context of the caller, as `traceparent` and `tracestate`."""
    return _NOTHING if _listener is None else _listener(name, attributes, parent)


def listen(listener: Listener | None) -> None:
    """Call `listener` for each span of this process from now on; None: no one listens."""
    global _listener
    _listener = listener

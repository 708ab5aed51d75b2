"""Work that a trace shows and a histogram measures, and the id of the request that it is done for.

An exchange, a refresh, a tool call, a request to a provider: no one listens by default, and a span then costs two
function calls. `server.telemetry` listens. The request's id goes into log records, events, answers, and spans. Uses of
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
# How often this process used a key, by key and operation. Keys of single people count together, by their purpose.
KEY_USES: Final[Counter[tuple[str, str]]] = Counter()
REQUEST_ID: Final = ContextVar("request_id", default="")  # empty outside of a request
CALLER_ADDRESS: Final = ContextVar("caller_address", default="")  # of the request's peer, or its proxy's; may be none


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


def new_request_id() -> str:
    """16 hexadecimal digits."""
    return secrets.token_hex(8)


@contextmanager
def request() -> Generator[None]:
    """Give what runs in the block the id of a request, unless it has one."""
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
    """Enter it around the work. `parent`: W3C trace context of the caller, as `traceparent` and `tracestate`."""
    return _NOTHING if _listener is None else _listener(name, attributes, parent)


def listen(listener: Listener | None) -> None:
    """Call `listener` for each span of this process from now on; None: no one listens."""
    global _listener
    _listener = listener

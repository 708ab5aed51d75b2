"""Joins all writes to a connection within one turn of the event loop, so that most answers need only one system call.

The web server writes head and body of an answer one after the other, and each write costs a system call and wakes the
client. `server.http.connections` puts this in front of each connection's transport.
"""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites(asyncio.Transport):
    """A transport on which a turn's first write waits for the second, at most until the turn ends."""

    __slots__ = ("_flushing", "_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None
        self._flushing: asyncio.Handle | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write the data together with the waiting data, or let it wait."""
        if not data:  # asyncio's writelines loops forever on empty data (Python 3.12)
            return
        if self._held is None:
            self._held = bytes(data)
            self._flushing = self._loop.call_soon(self.flush)
            return
        held = self._take()
        if not self._transport.is_closing():
            self._transport.writelines((held, data))

    def flush(self) -> None:
        """Write the waiting data, unless the connection is closing."""
        if self._held is None:
            return
        held = self._take()
        if not self._transport.is_closing():
            self._transport.write(held)

    def _take(self) -> bytes:
        held, self._held = self._held or b"", None
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        return held

    def close(self) -> None:
        """Close once everything is written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close immediately."""
        self._take()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # the base class's types
        """Information about the transport's socket."""
        return self._transport.get_extra_info(name, default)

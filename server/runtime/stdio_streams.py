"""Standard input and output of an MCP server over stdio: the SDK's transport, with an end that does not hang.

The SDK reads in a thread that nothing can wake, so SIGINT would wait for the client's next line. Here the event loop
waits for input. A client that closes our standard output during a write has left, like one that closes input.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from mcp.server.stdio import stdio_server

if TYPE_CHECKING:
    from mcp.shared._stream_protocols import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage

_PIECE = 65536  # bytes
_LONGEST = 8 * 2**20  # bytes of a line; HTTP takes less
_TOO_LONG = b"(a line that is too long)"  # in its place: no JSON, so it is refused like anything else that is none


@asynccontextmanager
async def standard_streams() -> AsyncGenerator[
    tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]
]:
    """The SDK's reading and writing end over file descriptors 0 and 1, until the block ends.

    A block that ends because the client closed standard output ends without an error.
    """
    with _interruptible_input() as lines:
        try:
            async with stdio_server(lines) as streams:  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] -- the SDK only iterates over it
                yield streams
        except* (BrokenPipeError, ConnectionResetError):
            pass


@contextmanager
def _interruptible_input() -> Generator[_Lines | None]:
    """Lines of descriptor 0, which is empty for everybody else meanwhile; None when the loop cannot wait for it."""
    try:
        wire = os.dup(0)
    except OSError:  # closed
        yield None
        return
    try:
        lines = _Lines(wire)
        if not lines.can_wait():
            yield None
            return
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        try:
            yield lines
        finally:
            os.dup2(wire, 0)
    finally:
        os.close(wire)


class _Lines:
    """Lines of text from a descriptor, awaited by the event loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._size = 0  # of the line that is not whole yet
        self._ready: list[bytes] = []  # whole lines, the next one last
        self._is_over = False

    def can_wait(self) -> bool:
        """Whether the event loop can watch it: pipes, sockets and terminals, but no plain files; nothing on Windows."""
        try:
            self._loop.add_reader(self._descriptor, lambda: None)
        except (OSError, NotImplementedError):
            return False
        self._loop.remove_reader(self._descriptor)
        return True

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        while not self._ready and not self._is_over:
            await self._wait()
            self._take(os.read(self._descriptor, _PIECE))  # there is data, so it does not block
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.pop().decode("utf-8", "replace")

    def _take(self, piece: bytes) -> None:
        *whole, rest = piece.split(b"\n")
        if whole:
            self._keep(whole[0])
            whole[0] = b"".join(self._parts)
            self._parts, self._size = [], 0
            self._ready = whole[::-1]
        if rest:
            self._keep(rest)
        if not piece:
            self._is_over = True
            self._ready = [b"".join(self._parts)] if self._parts else []

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > _LONGEST:
            self._parts = [_TOO_LONG]
        else:
            self._parts.append(piece)

    async def _wait(self) -> None:
        readable = self._loop.create_future()

        def wake() -> None:
            if not readable.done():
                readable.set_result(None)

        self._loop.add_reader(self._descriptor, wake)
        try:
            await readable
        finally:
            self._loop.remove_reader(self._descriptor)

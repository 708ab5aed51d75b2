"""Standard input and output of an MCP server over stdio: the SDK's transport, but with a shutdown that doesn't hang.

The SDK reads in a thread that can't be interrupted, so SIGINT would wait for the client's next line. Here the event
loop waits for input. A client that closes our standard output during a write counts as gone, like one that closes
input.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from mcp.server.stdio import stdio_server

if TYPE_CHECKING:
    from mcp.shared._stream_protocols import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage

_PIECE = 65536  # bytes
_LONGEST = 8 * 2**20  # bytes of a line; HTTP takes less
_TOO_LONG = b"(a line that is too long)"  # in its place: not JSON, so it is refused like anything else that isn't


@asynccontextmanager
async def standard_streams() -> AsyncGenerator[
    tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]
]:
    """The SDK's reading and writing end over file descriptors 0 and 1, until the block ends.

    A block that ends because the client closed standard output ends without an error.
    """
    with _interruptible_input() as lines:
        try:
            async with stdio_server(lines) as streams:  # pyright: ignore[reportArgumentType] -- the SDK only iterates over it
                yield streams
        except* (BrokenPipeError, ConnectionResetError):
            pass


@asynccontextmanager
async def standard_lines() -> AsyncGenerator[tuple[Lines, LineWriter] | None]:
    """Lines of descriptor 0, and a writer to descriptor 1, which are everyone else's null device and standard error.

    None when the loop cannot wait for the input. The block ends as in `standard_streams`.
    """
    with ExitStack() as ours:
        lines = ours.enter_context(_interruptible_input())
        descriptor = None if lines is None else ours.enter_context(_own_output())
        if lines is None or descriptor is None:
            ours.close()  # the SDK uses both descriptors as they were
            yield None
            return
        writer = LineWriter(descriptor)
        try:
            yield lines, writer
            await writer.finish()
        except* (BrokenPipeError, ConnectionResetError):
            pass


@contextmanager
def _own_output() -> Generator[int | None]:
    """A descriptor of our own for standard output: other output goes to standard error."""
    try:
        wire = os.dup(1)
    except OSError:  # closed
        yield None
        return
    try:
        os.dup2(2, 1)
        yield wire
    finally:
        os.dup2(wire, 1)
        os.close(wire)


class LineWriter:
    """Writes whole lines to a pipe that may be full. A small line goes out at once, others in a thread, in order."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._waiting: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, line: bytes) -> None:
        """One line, without its end. Raises BrokenPipeError or ConnectionResetError when no one reads anymore."""
        rest = line + b"\n"
        if self._writing is None:
            # A writable pipe or socket accepts this much without blocking.
            while rest and self._poll.poll(0):
                rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
            if not rest:
                return
        self._waiting.append(rest)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting())
        await asyncio.shield(self._writing)

    async def finish(self) -> None:
        """Wait until everything is written."""
        if self._writing is not None:
            await self._writing

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                whole = b"".join(self._waiting)
                self._waiting.clear()
                await asyncio.to_thread(self._write_all, whole)
        finally:
            self._writing = None

    def _write_all(self, whole: bytes) -> None:
        while whole:
            whole = whole[os.write(self._descriptor, whole) :]


@contextmanager
def _interruptible_input() -> Generator[Lines | None]:
    """Lines of descriptor 0, which looks empty to other readers; None if the loop cannot wait for it."""
    try:
        wire = os.dup(0)
    except OSError:  # closed
        yield None
        return
    try:
        lines = Lines(wire)
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


class Lines:
    """Lines of text from a descriptor, awaited by the event loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._size = 0  # of the incomplete last line
        self._ready: list[bytes] = []  # complete lines, the next one last
        self._is_over = False

    def can_wait(self) -> bool:
        """Whether the event loop can watch it: pipes, sockets and terminals, but no plain files; nothing on Windows."""
        try:
            self._loop.add_reader(self._descriptor, lambda: None)
        except (OSError, NotImplementedError):
            return False
        self._loop.remove_reader(self._descriptor)
        return True

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> str:
        line = await self.next()
        if line is None:
            raise StopAsyncIteration
        return line.decode("utf-8", "replace")

    async def next(self) -> bytes | None:
        """The next line; None after the last one."""
        while not self._ready and not self._is_over:
            await self._wait()
            self._take(os.read(self._descriptor, _PIECE))  # there is data, so it does not block
        return self._ready.pop() if self._ready else None

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

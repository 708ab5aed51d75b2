"""The SDK's stdio transport over lines and a writer of ours, for a program that answers some of the lines itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mcp.server.stdio import stdio_server

if TYPE_CHECKING:
    from mcp.shared._stream_protocols import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage


class SdkLines:
    """The lines that the SDK gets, in order; it only iterates over them."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[str, Callable[[], None]] | None] = asyncio.Queue(16)

    async def put(self, line: bytes, prepare: Callable[[], None]) -> None:
        """One more; `prepare` sets the context variables with which it is handled."""
        await self._waiting.put((line.decode("utf-8", "replace"), prepare))

    async def end(self) -> None:
        """There are no more."""
        await self._waiting.put(None)

    def __aiter__(self) -> SdkLines:
        return self

    async def __anext__(self) -> str:
        found = await self._waiting.get()
        if found is None:
            raise StopAsyncIteration
        line, prepare = found
        prepare()  # in the SDK's reading task, whose context goes with each message
        return line


class SdkOutput:
    """What the SDK writes its lines to."""

    def __init__(self, write: Callable[[str], Awaitable[None]]) -> None:
        self._write = write

    async def write(self, text: str) -> None:
        """A line with its end."""
        await self._write(text.removesuffix("\n"))

    async def flush(self) -> None:
        """Nothing is kept back."""


@asynccontextmanager
async def sdk_streams(
    lines: SdkLines, output: SdkOutput
) -> AsyncGenerator[tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]]:
    """The SDK's reading and writing end."""
    async with stdio_server(lines, output) as streams:  # pyright: ignore[reportArgumentType] -- it iterates, writes and flushes
        yield streams

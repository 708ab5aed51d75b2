"""MCP over a program's standard streams, as a transport of the official client: a line for each message (MCP, stdio).

Lines are bounded, so that no program can fill the vault's memory; what isn't a message is skipped, as programs print.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]
LONGEST: Final = 4 * 1024 * 1024  # bytes of a line


@asynccontextmanager
async def speak(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_noise: Callable[[str], None]
) -> AsyncGenerator[Streams]:
    """Messages both ways until the block or the program ends; `reader` has `LONGEST` as its limit."""
    arrived, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, sent = anyio.create_memory_object_stream[SessionMessage](0)

    async def read() -> None:
        async with arrived:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                while line := await _line_of(reader, on_noise):
                    if (message := _message_of(line)) is None:
                        on_noise(line.decode(errors="replace"))
                    else:
                        await arrived.send(message)

    async def write() -> None:
        with suppress(anyio.ClosedResourceError, OSError):
            async for message in sent:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                writer.write(text.encode() + b"\n")
                await writer.drain()

    async with asyncio.TaskGroup() as group, incoming, outgoing, sent:
        tasks = group.create_task(read()), group.create_task(write())
        try:
            yield incoming, outgoing
        finally:
            for task in tasks:
                task.cancel()


async def _line_of(reader: asyncio.StreamReader, on_noise: Callable[[str], None]) -> bytes:
    """The next line; empty at the end, and after a line that is too long."""
    try:
        return await reader.readline()
    except ValueError:
        on_noise(f"wrote a line of more than {LONGEST} bytes, so its output is no longer read")
        return b""


def _message_of(line: bytes) -> SessionMessage | None:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return None

"""MCP over a program's standard streams, as a transport of the official client: a line for each message (MCP, stdio).

Limits keep a program's output cheap for the vault: messages are bounded, long ones are read only while the vault waits
for an answer, the program's requests are answered here one by one, and a program that keeps writing anything else is
ended. Lines that aren't messages are skipped, since programs print.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import anyio
import pydantic_core
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)

Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]
LONGEST: Final = 1024 * 1024  # bytes of a line
_SHORT: Final = 65536  # bytes of a line that isn't an answer
_MOST_PARTS: Final = 10_000  # objects, lists, and values in an answer, except in free-form members
_ANY_FORM: Final = frozenset(
    {"structuredContent", "_meta", "inputSchema", "outputSchema"}
)  # free-form: not checked here
_UNASKED: Final = 2000.0  # lines at once that aren't answers
_UNASKED_A_SECOND: Final = 200.0
_UNIT: Final = 4096  # bytes that count as one more line
_BATCH: Final = 32  # lines before other tasks get a turn


class Conversation:
    """The exchange of messages with one program.

    `reader` must have the limit `LONGEST`. `mask` removes secrets from each line. `on_excess` gets the reason to end
    the program.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        mask: Callable[[bytes], bytes],
        on_noise: Callable[[str], None],
        on_excess: Callable[[str], None],
    ) -> None:
        self.has_ended = False  # the program sends nothing more
        self._reader = reader
        self._writer = writer
        self._mask = mask
        self._on_noise = on_noise
        self._on_excess = on_excess
        self._writing = asyncio.Lock()
        self._asked = set[str]()  # unanswered requests from the vault
        self._left = _UNASKED
        self._counted_at = time.monotonic()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Streams]:
        """Messages both ways until the block or the program ends."""
        arrived, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, sent = anyio.create_memory_object_stream[SessionMessage](0)
        async with asyncio.TaskGroup() as group, incoming, outgoing, sent, arrived:
            tasks = group.create_task(self._read(arrived)), group.create_task(self._write(sent, arrived))
            try:
                yield incoming, outgoing
            finally:
                for task in tasks:
                    task.cancel()

    async def _read(self, arrived: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        count = 0
        try:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                while line := await self._line():
                    if (message := await self._take(line)) is not None:
                        await arrived.send(message)
                    count += 1
                    if count % _BATCH == 0:
                        await asyncio.sleep(0)
        except _Excess as excess:
            self._on_excess(str(excess))
        finally:
            self.has_ended = True
            arrived.close()

    async def _line(self) -> bytes:
        """The next line; empty at the end."""
        try:
            return self._mask(await self._reader.readline())
        except ValueError as error:
            raise _Excess(f"it wrote a line of more than {LONGEST} bytes") from error

    async def _take(self, line: bytes) -> SessionMessage | None:
        """The message that the client gets for this line; None if it gets none."""
        if len(line) > _SHORT and not self._asked:
            self._count(line)
            return None
        try:
            found: Any = pydantic_core.from_json(line)
            message = jsonrpc_message_adapter.validate_python(found, by_name=False)
        except ValueError:
            self._count(line)
            self._on_noise(line.decode(errors="replace"))
            return None
        if isinstance(message, JSONRPCResponse | JSONRPCError) and str(message.id) in self._asked:
            self._asked.discard(str(message.id))
            if isinstance(message, JSONRPCResponse) and _has_too_many_parts(message.result):
                raise _Excess(f"it answered with more than {_MOST_PARTS} parts")
            return SessionMessage(message)
        self._count(line)
        if isinstance(message, JSONRPCRequest):
            await self._answer(message)
            return None
        is_told = isinstance(message, JSONRPCNotification) and self._asked and len(line) <= _SHORT
        return SessionMessage(message) if is_told else None

    def _count(self, line: bytes) -> None:
        """Count a line that the vault didn't ask for. Raises _Excess."""
        now = time.monotonic()
        refilled = min(_UNASKED, self._left + (now - self._counted_at) * _UNASKED_A_SECOND)
        self._left, self._counted_at = refilled - 1 - len(line) // _UNIT, now
        if self._left < 0:
            raise _Excess("it wrote too much unrequested output")

    async def _answer(self, request: JSONRPCRequest) -> None:
        """Answer the program's request: only `ping` is offered. Nothing is read until the answer is sent."""
        error = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
        came: dict[str, Any] = {"result": {}} if request.method == "ping" else {"error": error}
        await self._send(json.dumps({"jsonrpc": "2.0", "id": request.id, **came}))

    async def _write(
        self,
        sent: MemoryObjectReceiveStream[SessionMessage],
        arrived: MemoryObjectSendStream[SessionMessage | Exception],
    ) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            async for message in sent:
                content = message.message
                try:
                    text = content.model_dump_json(by_alias=True, exclude_unset=True)
                except ValueError:  # half of a surrogate pair, which UTF-8 can't carry
                    if isinstance(content, JSONRPCRequest):
                        error = ErrorData(code=INVALID_PARAMS, message="The arguments aren't valid Unicode text")
                        await arrived.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=content.id, error=error)))
                    continue
                if isinstance(content, JSONRPCRequest):
                    self._asked.add(str(content.id))
                await self._send(text)

    async def _send(self, text: str) -> None:
        async with self._writing:
            self._writer.write(text.encode() + b"\n")
            await self._writer.drain()


class _Excess(Exception):
    """The program exceeded a limit on its output."""


def _has_too_many_parts(result: dict[str, Any]) -> bool:
    """Whether validating this answer would take long: the official client tries several types for each part."""
    waiting: list[Any] = [value for name, value in result.items() if name not in _ANY_FORM]
    count = 0
    while waiting:
        value = waiting.pop()
        count += 1
        if isinstance(value, dict):
            waiting += [one for name, one in cast("dict[str, Any]", value).items() if name not in _ANY_FORM]
        elif isinstance(value, list):
            waiting += cast("list[Any]", value)
        if count + len(waiting) > _MOST_PARTS:
            return True
    return False

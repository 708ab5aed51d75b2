"""Plain calls on a connection that carries messages in both directions: stdio, or a stream of HTTP+SSE.

They are read and answered without the SDK, as in `server.mcp.fast_path`; the SDK handles every other message, and every
answer except a plain result. The first request decides the era of the connection and always goes to the SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import (
    CONNECTION_CLOSED,
    PROTOCOL_VERSION_META_KEY,
    CallToolResult,
    ClientCapabilities,
    InitializeRequestParams,
    JSONRPCNotification,
    JSONRPCRequest,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import to_json

from providers.outbound.json_values import parse_object
from server.mcp import fast_path
from server.mcp.fast_path import PlainCall
from server.mcp.sdk_server import Known, OpenVault

_INITIALIZE: Final = "initialize"


class DuplexCalls:
    """The plain calls of a connection, and the facts from its other messages that are needed to read them."""

    def __init__(
        self,
        vault: Callable[[], Awaitable[OpenVault]],
        *,
        write: Callable[[bytes], Awaitable[None]],
        pass_on: Callable[[bytes, Known], Awaitable[None]],
        stamp: Mapping[str, object],
        is_event: bool,
    ) -> None:
        """`vault` sets the principal; `write` sends one JSON-RPC message; `pass_on` gives one to the SDK."""
        self._vault = vault
        self._write = write
        self._pass_on = pass_on
        self._stamp = stamp
        self._is_event = is_event
        self._is_modern: bool | None = None
        self._opening: JSONRPCRequest | None = None  # an `initialize` without an answer yet
        self._was_opened = False
        self._capabilities: ClientCapabilities | None = None
        self._running: dict[RequestId, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._canceled: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def take(self, body: bytes, group: asyncio.TaskGroup) -> bool:
        """Start the plain call in the message; False leaves the message to the SDK."""
        if self._is_modern or self._capabilities is not None:
            call = fast_path.read_message(body, None if self._is_modern else self._capabilities)
            if call is not None:
                number = coerce_request_id(call.id)
                self._running[number] = task = group.create_task(self._run(call, body))
                self._tasks.add(task)
                task.add_done_callback(partial(self._forget, number))
                return True
        try:
            message = jsonrpc_message_adapter.validate_json(body, by_name=False)
        except ValidationError:
            return False
        if isinstance(message, JSONRPCRequest):
            self._note_request(message)
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._cancel(message)
        return False

    def _note_request(self, request: JSONRPCRequest) -> None:
        if self._is_modern is None:
            meta: object = (request.params or {}).get("_meta")
            has_envelope = isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta
            self._is_modern = has_envelope and request.method != _INITIALIZE
        if request.method == _INITIALIZE:  # repeated: from now on, only the SDK knows what the client can do
            self._opening, self._capabilities = None if self._was_opened else request, None
            self._was_opened = True

    def _cancel(self, notification: JSONRPCNotification) -> None:
        """The SDK also gets the message, since it handles the calls that aren't plain."""
        wanted = cancelled_request_id_from_params(notification.params)
        task = None if wanted is None else self._running.get(coerce_request_id(wanted))
        if task is not None:
            self._canceled.add(task)
            task.cancel()

    @property
    def is_opening(self) -> bool:
        """Whether the answer to `initialize` is still pending."""
        return self._opening is not None

    def watch(self, answer: str) -> None:
        """Inspect a message from the SDK: its answer to `initialize` completes the handshake."""
        opening = self._opening
        if opening is None:
            return
        found = parse_object(answer.encode())
        if found is not None and found.get("id") == opening.id and "method" not in found:
            self._opening = None
            if "result" in found and not self._is_modern:
                params = InitializeRequestParams.model_validate(opening.params, by_name=False)
                self._capabilities = params.capabilities

    async def _run(self, call: PlainCall, body: bytes) -> None:
        try:
            known: Known = None
            try:
                vault = await self._vault()
                known = await vault.call_plain(call, partial(self._tell, call))
            except Exception as failure:  # noqa: BLE001 -- the SDK has the words and the log for it
                known = failure
            await self._answer(call, body, known)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task in self._canceled:  # its client has stopped waiting, so nothing is sent
                return
            if not self._is_closed:
                raise
            error = {"code": CONNECTION_CLOSED, "message": "Connection closed"}
            await self._write(to_json({"jsonrpc": "2.0", "id": call.id, "error": error}))

    async def _answer(self, call: PlainCall, body: bytes, known: Known) -> None:
        if isinstance(known, CallToolResult):
            whole = fast_path.answer(call, known, stamp=self._stamp, is_event=self._is_event)
            if whole is not None:
                await self._write(whole)
                return
        await self._pass_on(body, known)

    async def _tell(self, call: PlainCall, done: int, total: int | None, message: str) -> None:
        if call.progress_token is not None:
            await self._write(fast_path.progress(call, done, total, message))

    def _forget(self, number: RequestId, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._canceled.discard(task)
        if self._running.get(number) is task:  # an id may have been used again
            del self._running[number]

    def close(self) -> None:
        """End the calls of a client that left, and close the stream for its readers."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()

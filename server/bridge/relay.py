"""Forwards MCP messages unchanged between standard input and output and the remote endpoint.

Supports both protocol eras: the headers that the HTTP transport needs are taken from the message. If the vault
restarted and lost a handshake session, the relay opens a new one with the client's own `initialize`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Final, Protocol

from mcp.client.streamable_http import streamable_http_client
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
)
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import (
    INTERNAL_ERROR,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

from server.bridge.address import RemoteVault
from server.bridge.remote import SESSION_LOST, RemoteClient
from server.runtime.stdio_streams import standard_streams

logger = logging.getLogger("token_vault.bridge")
_INITIALIZE: Final = "initialize"
# values that a header can hold; for others it is omitted, and the vault reports it as missing
_HEADER: Final = re.compile(r"[!-~]{1,200}")
_TASKS: Final = ("tasks/get", "tasks/update", "tasks/cancel")  # SEP-2663
_NAMES: Final = {**NAME_BEARING_METHODS, **dict.fromkeys(_TASKS, "taskId")}
_READY: Final = "notifications/initialized"
_GREETING: Final = "token-vault-bridge"  # the ID of our own `initialize`


class ReadEnd(Protocol):
    """The reading end of an SDK transport."""

    def __aiter__(self) -> AsyncIterator[SessionMessage | Exception]: ...


class WriteEnd(Protocol):
    """The writing end of an SDK transport."""

    async def send(self, item: SessionMessage, /) -> None: ...


class Relay:
    """One client on standard input and output, one remote vault, and the state needed to forward between them."""

    def __init__(self, vault: RemoteVault, remote: RemoteClient) -> None:
        self._vault = vault
        self._remote = remote
        self._pending: dict[RequestId, JSONRPCRequest] = {}
        self._opening: JSONRPCRequest | None = None  # the client's `initialize`
        self._version: str | None = None  # the version that it negotiated
        self._is_ready = False  # the client has sent `initialized`

    async def run(self) -> None:
        """Run until the client closes standard input."""
        async with standard_streams() as (inbox, outbox), inbox, outbox:  # closing the stream ends its writer
            again: JSONRPCRequest | None = None
            while True:
                self._remote.session_lost = False
                async with streamable_http_client(self._vault.resource, http_client=self._remote) as (
                    incoming,
                    outgoing,
                ):
                    if again is not None and not await self._resume(again, incoming, outgoing, outbox):
                        self._remote.session_lost = True
                    again = await self._carry(inbox, outbox, incoming, outgoing)
                if again is None:
                    return

    async def _carry(
        self, inbox: ReadEnd, outbox: WriteEnd, incoming: ReadEnd, outgoing: WriteEnd
    ) -> JSONRPCRequest | None:
        """Forward until the client is gone (None) or one of its requests needs a new session (that request)."""
        pumps = (asyncio.create_task(self._up(inbox, outgoing)), asyncio.create_task(self._down(incoming, outbox)))
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            return next(pump.result() for pump in pumps if pump.done())
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _up(self, inbox: ReadEnd, outgoing: WriteEnd) -> JSONRPCRequest | None:
        async for item in inbox:
            if isinstance(item, Exception):
                logger.warning("a line on standard input isn't a message", extra={"cause": type(item).__name__})
                continue
            message = item.message
            if isinstance(message, JSONRPCRequest):
                if message.method == _INITIALIZE:
                    self._opening, self._version, self._is_ready = message, None, False
                elif self._remote.session_lost:
                    return message
                self._pending[message.id] = message
            elif isinstance(message, JSONRPCNotification):
                self._note(message)
            await self._post(message, outgoing)
        return None

    def _note(self, notification: JSONRPCNotification) -> None:
        if notification.method == _READY:
            self._is_ready = True
        elif notification.method == "notifications/cancelled":  # in 2026-07-28, a cancelled request gets no answer
            which: object = (notification.params or {}).get("requestId")
            if isinstance(which, str | int):
                self._pending.pop(which, None)

    async def _post(self, message: JSONRPCMessage, outgoing: WriteEnd) -> None:
        await outgoing.send(SessionMessage(message, metadata=ClientMessageMetadata(headers=self._headers(message))))

    async def _down(self, incoming: ReadEnd, outbox: WriteEnd) -> JSONRPCRequest | None:
        async for item in incoming:
            if isinstance(item, Exception):
                logger.warning("the vault sent something that isn't a message", extra={"cause": type(item).__name__})
                continue
            message = item.message
            if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
                request = self._pending.pop(message.id, None)
                if request is not None and _is_lost(message) and self._opening is not None:
                    return request
                if request is self._opening:
                    self._note_version(message)
            await outbox.send(SessionMessage(message))
        raise RuntimeError("the transport to the remote vault ended")

    def _headers(self, message: JSONRPCMessage) -> dict[str, str] | None:
        """The headers that MCP requires with a message: since 2026-07-28 all routing headers, before that only the
        version."""
        params: dict[str, object] = (message.params or {}) if isinstance(message, JSONRPCRequest) else {}
        version = _member(params.get("_meta"), PROTOCOL_VERSION_META_KEY)
        if version is None or not isinstance(message, JSONRPCRequest) or not _HEADER.fullmatch(message.method):
            return None if self._version is None else {MCP_PROTOCOL_VERSION_HEADER: self._version}
        headers = {MCP_PROTOCOL_VERSION_HEADER: version, MCP_METHOD_HEADER: message.method}
        name = params.get(_NAMES.get(message.method, ""))
        return headers | ({MCP_NAME_HEADER: encode_header_value(name)} if isinstance(name, str) else {})

    def _note_version(self, answer: JSONRPCResponse | JSONRPCError) -> None:
        version = answer.result.get("protocolVersion") if isinstance(answer, JSONRPCResponse) else None
        self._version = version if isinstance(version, str) and _HEADER.fullmatch(version) else None

    async def _resume(self, again: JSONRPCRequest, incoming: ReadEnd, outgoing: WriteEnd, outbox: WriteEnd) -> bool:
        """Open a new session as the client did, and resend the request that met the lost session, which didn't run.

        Other running requests were lost with the old session and get an error that explains this.
        """
        for request in self._pending.values():
            await self._tell(request, "The vault restarted during this call: check whether it was done.", outbox)
        self._pending.clear()
        answer = await self._greet(incoming, outgoing)
        if isinstance(answer, JSONRPCError):
            await self._tell(again, answer.error.message, outbox)
            return False
        self._pending[again.id] = again
        await self._post(again, outgoing)
        return True

    async def _greet(self, incoming: ReadEnd, outgoing: WriteEnd) -> JSONRPCResponse | JSONRPCError:
        if self._opening is None:
            raise RuntimeError("no session to reopen")
        self._version = None
        await self._post(self._opening.model_copy(update={"id": _GREETING}), outgoing)
        async for item in incoming:
            if not isinstance(item, Exception) and isinstance(item.message, JSONRPCResponse | JSONRPCError):
                answer = item.message
                if answer.id == _GREETING:
                    self._note_version(answer)
                    if isinstance(answer, JSONRPCResponse) and self._is_ready:
                        await self._post(JSONRPCNotification(jsonrpc="2.0", method=_READY), outgoing)
                    return answer
        raise RuntimeError("the transport to the remote vault ended")

    async def _tell(self, request: JSONRPCRequest, text: str, outbox: WriteEnd) -> None:
        error = ErrorData(code=INTERNAL_ERROR, message=text)
        await outbox.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=request.id, error=error)))


def _is_lost(message: JSONRPCResponse | JSONRPCError) -> bool:
    return isinstance(message, JSONRPCError) and message.error.data == SESSION_LOST


def _member(mapping: object, name: str) -> str | None:
    value: object = mapping.get(name) if isinstance(mapping, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- JSON of the client
    return value if isinstance(value, str) and _HEADER.fullmatch(value) else None

"""HTTP/1.1 with the program: h11 over one connection, plain or inside TLS, and each request as an ASGI exchange.

Bodies pass piece by piece in both directions. A body that the program compressed, as git does, is unpacked, so that the
rules can check it.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import h11
from starlette.types import Message

from server.proxy.wire import ProxyRefused

PIECE: Final = 65536  # bytes
_HEAD_LIMIT: Final = 65536
IDLE: Final = 600.0  # seconds between two requests on a connection
_GONE: Final[Message] = {"type": "http.disconnect"}


class GzipMember(Protocol):
    """`zlib`'s decompression object, whose class has no public name."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Unpacker:
    """Decompresses a gzip body (RFC 1952 §2.2), which may have several members, one piece at a time."""

    def __init__(self) -> None:
        self._stream = _member()
        self._rest = b""
        self._is_empty = True

    @property
    def has_more(self) -> bool:
        """Whether `take` may return data without another `feed`."""
        return bool(self._rest)

    @property
    def is_whole(self) -> bool:
        """Whether the data fed so far ends at the end of a member."""
        return not self._rest and (self._stream.eof or self._is_empty)

    def feed(self, data: bytes) -> None:
        self._rest += data
        self._is_empty = self._is_empty and not data

    def take(self) -> bytes:
        """The next piece; bounded, since a small body may unpack to a huge one. Raises ProxyRefused."""
        if self._stream.eof and self._rest:
            self._stream = _member()
        try:
            piece = self._stream.decompress(self._rest, PIECE)
        except zlib.error as error:
            raise _damage() from error
        self._rest = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        return piece


def _member() -> GzipMember:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _damage() -> ProxyRefused:
    return ProxyRefused("invalid_body", "The compressed body is damaged, or ends too early.")


class Wire:
    """One connection of the program."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)

    async def next_request(self, patience: float = IDLE) -> h11.Request | None:
        """The next request's head; None when the program has closed. Raises h11.RemoteProtocolError, TimeoutError."""
        async with asyncio.timeout(patience):
            event = await self.next_event()
        if isinstance(event, h11.Request):
            return event
        return None

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        """The next part of what the program sends."""
        while True:
            event = self._h11.next_event()
            if not isinstance(event, type) or event is h11.PAUSED:
                return event
            if self._h11.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            self._h11.receive_data(await self._reader.read(PIECE))

    async def send(self, event: h11.Event) -> None:
        written = self._h11.send(event)
        if written:
            self._writer.write(written)
            await self._writer.drain()

    async def refuse(self, status: int, text: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Answer in plain text, and close the connection after it."""
        body = f"{text}\n".encode()
        fields = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"token-vault-refusal", b"host_refused"),
            (b"connection", b"close"),
            *headers,
        ]
        await self.send(h11.Response(status_code=status, headers=fields))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    async def accept_tunnel(self) -> None:
        """Accept a CONNECT; from now on the connection carries the tunnel's data."""
        while not isinstance(await self.next_event(), h11.EndOfMessage):
            pass
        await self.send(h11.Response(status_code=200, headers=[]))
        self._h11.next_event()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Start TLS as the server in the tunnel, and read requests from it."""
        await self._writer.start_tls(context)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy everything in both directions until both sides have closed."""
        early, _ = self._h11.trailing_data
        writer.write(early)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(self._reader, writer))
                group.create_task(_copy(reader, self._writer))
        except* OSError:
            pass
        finally:
            writer.close()

    async def pump_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_chunked: bool
    ) -> None:
        """Pass on the body of a request whose head was sent, then the unchanged answer."""
        try:
            while isinstance(event := await self.next_event(), h11.Data):
                data = bytes(event.data)
                writer.write(b"%x\r\n%s\r\n" % (len(data), data) if is_chunked else data)
                await writer.drain()
            if is_chunked:
                writer.write(b"0\r\n\r\n")
            await _copy(reader, self._writer)
        finally:
            writer.close()

    def exchange(self, request: h11.Request) -> Exchange:
        """The exchange for the rest of this request and for its answer."""
        encoding = next((value for name, value in request.headers if name == b"content-encoding"), b"")
        is_gzip = encoding.strip().lower() in {b"gzip", b"x-gzip"}
        return Exchange(self, unpacker=Unpacker() if is_gzip else None)

    async def wait_for_end(self) -> None:
        """Wait until the program closes; requests that it sends early wait for their turn."""
        while data := await self._reader.read(PIECE):
            self._h11.receive_data(data)
        self._h11.receive_data(b"")

    async def finish(self, exchange: Exchange) -> bool:
        """End this exchange. Returns whether the connection can carry another one."""
        if not exchange.is_complete:
            return False
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            return True
        return False


@dataclass(slots=True)
class Exchange:
    """The ASGI channels of one request."""

    wire: Wire = field(repr=False)
    unpacker: Unpacker | None = None
    is_started: bool = False
    is_complete: bool = False
    _is_read: bool = False

    @property
    def is_packed(self) -> bool:
        """Whether the body arrives compressed, so that `receive` returns more than the request's Content-Length."""
        return self.unpacker is not None

    async def receive(self) -> Message:
        """The next piece of the body; after its end, `http.disconnect` once the program closes.

        Raises ProxyRefused if a compressed body is damaged.
        """
        if self._is_read:
            with suppress(OSError):
                await self.wire.wait_for_end()
            return _GONE
        if self.unpacker is not None and self.unpacker.has_more:
            return _piece(self.unpacker.take(), more=True)
        try:
            event = await self.wire.next_event()
        except (h11.RemoteProtocolError, OSError):
            return _GONE
        match event:
            case h11.Data():
                return _piece(self._unpack(bytes(event.data)), more=True)
            case h11.EndOfMessage():
                self._is_read = True
                if self.unpacker is not None and not self.unpacker.is_whole:
                    raise _damage()
                return _piece(b"", more=False)
            case _:
                return _GONE

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.is_started = True
            await self.wire.send(h11.Response(status_code=message["status"], headers=list(message["headers"])))
            return
        if body := message.get("body", b""):
            await self.wire.send(h11.Data(data=body))
        if not message.get("more_body", False):
            await self.wire.send(h11.EndOfMessage())
            self.is_complete = True

    def _unpack(self, data: bytes) -> bytes:
        if self.unpacker is None:
            return data
        self.unpacker.feed(data)
        return self.unpacker.take()


def _piece(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(PIECE):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        with suppress(OSError):
            writer.write_eof()

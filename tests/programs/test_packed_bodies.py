"""Compressed bodies from the program: decompressed completely, or refused."""

from __future__ import annotations

import asyncio
import gzip
import socket

import h11
import pytest

from server.programs.wire import PIECE, Exchange, Wire
from server.proxy.wire import ProxyRefused

BODY = bytes(range(256)) * 1000  # several chunks
PACKED = gzip.compress(BODY, mtime=0)


async def unpack(content: bytes, *, encoding: str = "gzip", step: int = 4096) -> bytes:
    """What the exchange makes of a body that arrives in chunks of this size."""
    head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: {encoding}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [content[start : start + step] for start in range(0, len(content), step)]
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    with theirs:
        theirs.sendall(head.encode() + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks) + b"0\r\n\r\n")
        wire = Wire(reader, writer)
        request = await wire.next_request()
        assert isinstance(request, h11.Request)
        try:
            return await whole(wire.exchange(request))
        finally:
            writer.close()


async def whole(exchange: Exchange) -> bytes:
    parts = list[bytes]()
    while True:
        message = await exchange.receive()
        assert message["type"] == "http.request"
        parts.append(message["body"])
        assert len(parts[-1]) <= PIECE
        if not message["more_body"]:
            return b"".join(parts)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PACKED, BODY),
        (PACKED + gzip.compress(b"and more", mtime=0), BODY + b"and more"),
        (gzip.compress(b"", mtime=0), b""),
        (b"", b""),
        (PACKED[:-1], None),
        (PACKED[: len(PACKED) // 2], None),
        (PACKED + PACKED[:20], None),
        (PACKED + b"something else", None),
        (b"no gzip at all", None),
        (PACKED[:-6] + bytes(6), None),
    ],
)
@pytest.mark.parametrize("step", [1 << 20, 7])
async def test_a_compressed_body_is_unpacked_whole_or_refused(
    content: bytes, expected: bytes | None, step: int
) -> None:
    if expected is not None:
        assert await unpack(content, step=step) == expected
        return
    with pytest.raises(ProxyRefused) as refused:
        await unpack(content, step=step)
    assert refused.value.code == "invalid_body"


async def test_another_encoding_passes_as_it_is() -> None:
    assert await unpack(PACKED, encoding="br") == PACKED

"""Bodies of proxied calls around `proxy.body_limit`: they arrive whole, or are refused in the provider's format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from tests.support.doubles.proxied_api import Upstream
from tests.support.inspection import read_events
from tests.support.rooms.proxy_room import ProxyHandle, ProxyRoom


@pytest.fixture
async def handle(room: ProxyRoom) -> ProxyHandle:
    return await room.ready()


async def test_a_body_streams_and_arrives_whole(upstream: Upstream, handle: ProxyHandle) -> None:
    async def answer_with_size(scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        announced = dict(scope["headers"]).get(b"content-length", b"none")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d of %s" % (size, announced)})

    async def pieces(number: int) -> AsyncGenerator[bytes]:
        for _ in range(number):
            yield b"x" * 10_000

    upstream.answer = answer_with_size
    headers = {"content-type": "application/octet-stream"}
    assert (await handle.call(content=pieces(20), headers=headers)).text == "200000 of none"
    assert (await handle.call(content=b"x" * 200_000, headers=headers)).text == "200000 of 200000"
    assert (await handle.call(content=pieces(30), headers=headers)).text == "300000 of none"
    for content in (pieces(40), b"x" * 400_000, b"x" * 300_001):
        refused = await handle.call(content=content, headers=headers)
        assert (refused.status_code, refused.headers["connection"]) == (413, "close")
        told = refused.json()  # as Slack has it
        assert (told["ok"], told["error"], told["code"]) == (False, "body_too_large", "body_too_large")
        assert "The body exceeds 300000 bytes" in told["title"]
        assert "`proxy.body_limit`" in told["title"]
    event = (await read_events(handle.vault.deployment))[-1]
    assert (event.kind, event.outcome, event.details["code"]) == ("proxy.called", "refused", "body_too_large")


async def test_a_body_over_the_limit_is_not_asked_for(handle: ProxyHandle) -> None:
    where = urlsplit(handle.base())
    for size, status in ((400_000, "413"), (2, "100")):
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(
            f"POST {where.path}/chat.postMessage HTTP/1.1\r\nHost: {where.netloc}\r\nExpect: 100-continue\r\n"
            f"Authorization: Bearer {handle.value}\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        async with asyncio.timeout(30):
            assert (await reader.readline()).split()[1].decode() == status
        writer.close()


async def test_a_body_over_the_limit_is_refused_only_to_whoever_may_call(handle: ProxyHandle) -> None:
    for value, status in (("thph_unknown", 401), (handle.value, 413)):
        headers = {"authorization": f"Bearer {value}", "content-type": "application/octet-stream"}
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            answer = await http.post(handle.base() + "/chat.postMessage", content=b"x" * 400_000, headers=headers)
        assert answer.status_code == status

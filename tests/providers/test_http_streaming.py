"""Answers and bodies that are streamed, under the same rules for address, size and deadline."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncGenerator

import pytest

from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.messages import AddressRefused, NoAnswer, NotReached, OutboundRequest, TooLarge
from tests.support.doubles.scripted_server import Arrival, Reply, scripted_server

LOOPBACK = AddressPolicy(allow_loopback=True)


async def pieces(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


async def test_an_answer_is_handed_out_while_the_rest_is_on_the_way() -> None:
    async with (
        Outbound(LOOPBACK) as http,
        scripted_server(lambda _: Reply(body=b"first", claimed_length=10, stall=True)) as server,
        http.open(OutboundRequest("GET", server.url, timeout=1)) as answer,
    ):
        assert answer.status == 200
        chunks = answer.chunks()
        assert await anext(chunks) == b"first"
        with pytest.raises(NoAnswer, match="no answer in time"):
            await anext(chunks)


async def test_a_body_of_unknown_length_is_sent_in_pieces_and_arrives_whole() -> None:
    async with Outbound(LOOPBACK) as http, scripted_server(lambda _: Reply(body=b"ok")) as server:
        request = OutboundRequest("PUT", server.url, headers={"Content-Length": "6"}, body=pieces(b"abc", b"def"))
        async with http.open(request) as answer:
            assert await answer.read() == b"ok"
        assert [arrival.body for arrival in server.arrivals] == [b"abcdef"]


@pytest.mark.parametrize("size", [1000, 1001])
async def test_a_streamed_answer_ends_at_the_limit(size: int) -> None:
    raw = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * size  # without a length, only counting finds it
    async with Outbound(LOOPBACK) as http, scripted_server(lambda _: Reply(raw=raw)) as server:
        request = OutboundRequest("GET", server.url, max_bytes=1000)
        if size == 1000:
            async with http.open(request) as answer:
                assert b"".join([chunk async for chunk in answer.chunks()]) == b"x" * 1000
            return
        with pytest.raises(TooLarge):
            async with http.open(request) as answer:
                async for _ in answer.chunks():
                    pass


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 3_000_000])
async def test_a_compressed_answer_is_read_whole_up_to_a_size_and_otherwise_left_to_be_streamed(size: int) -> None:
    content = bytes(size)
    packed = Reply(body=gzip.compress(content), headers={"Content-Encoding": "gzip"})
    async with Outbound(LOOPBACK) as http, scripted_server(lambda _: packed) as server:
        async with http.open(OutboundRequest("GET", server.url, max_bytes=3_000_000)) as answer:
            assert await answer.read_at_most(1000) == (content if size <= 1000 else None)
            assert b"".join([chunk async for chunk in answer.chunks()]) == content
        if size > 1:
            with pytest.raises(TooLarge):
                async with http.open(OutboundRequest("GET", server.url, max_bytes=size - 1)) as answer:
                    await answer.read_at_most(1000)
                    async for _ in answer.chunks():
                        pass


async def test_of_an_answer_that_unpacks_to_a_thousand_times_its_size_little_is_in_memory() -> None:
    packed = Reply(body=gzip.compress(bytes(60_000_000)), headers={"Content-Encoding": "gzip"})
    async with Outbound(LOOPBACK) as http, scripted_server(lambda _: packed) as server:
        async with http.open(OutboundRequest("GET", server.url, max_bytes=100_000_000)) as answer:
            tracemalloc.start()
            try:
                assert await answer.read_at_most(65_536) is None
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < 4_000_000
        with pytest.raises(TooLarge):
            await http.send(OutboundRequest("GET", server.url))


@pytest.mark.parametrize("size", [1000, 1001])
async def test_an_answer_that_announces_too_much_is_refused_before_its_body(size: int) -> None:
    async with Outbound(LOOPBACK) as http, scripted_server(lambda _: Reply(body=b"x" * size)) as server:
        request = OutboundRequest("GET", server.url, max_bytes=1000)
        if size == 1000:
            async with http.open(request) as answer:
                assert len(await answer.read()) == 1000
            return
        with pytest.raises(TooLarge):
            async with http.open(request):
                pytest.fail("it was handed out")


async def test_a_streamed_request_goes_to_no_address_that_others_may_not_reach() -> None:
    async with scripted_server(lambda _: Reply(body=b"ok")) as server:
        async with Outbound() as strict:
            with pytest.raises(AddressRefused):
                async with strict.open(OutboundRequest("GET", server.url)):
                    pytest.fail("it was sent")
        assert server.connections == 0
        async with Outbound(LOOPBACK) as http, http.open(OutboundRequest("GET", server.url)) as answer:
            assert await answer.read() == b"ok"


async def test_an_answer_left_unread_gives_its_place_back_and_is_not_mixed_up_with_the_next() -> None:
    def answer_of(arrival: Arrival) -> Reply:
        return Reply(body=arrival.path.encode() * 1000)

    async with Outbound(LOOPBACK, calls_per_peer=1) as http, scripted_server(answer_of) as server:
        async with http.open(OutboundRequest("GET", server.url + "/a", peer="one")):
            pass
        async with asyncio.timeout(30), http.open(OutboundRequest("GET", server.url + "/b", peer="one")) as answer:
            assert await answer.read() == b"/b" * 1000


async def test_a_peer_may_give_an_account_a_share_of_its_own() -> None:
    def request(peer: str, share: int) -> OutboundRequest:
        return OutboundRequest("GET", server.url, peer=peer, account="one", share=share)

    async with (
        Outbound(LOOPBACK, connect_timeout=0.5) as http,
        scripted_server(lambda _: Reply(body=b"ok")) as server,
        http.open(request("narrow", 1)),
        http.open(request("wide", 2)),
    ):
        with pytest.raises(NotReached, match="too many calls"):
            async with http.open(request("narrow", 1)):
                pytest.fail("it was sent")
        async with http.open(request("wide", 2)):
            pass

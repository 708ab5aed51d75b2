"""Tunnels to hosts that a program names: through the operator's proxy, to checked addresses."""

from __future__ import annotations

import asyncio

import pytest

from providers.outbound.addresses import AddressPolicy
from providers.outbound.messages import AddressRefused, NotReached
from providers.outbound.tunnels import open_tunnel
from tests.providers.test_reach import running_proxy
from tests.support.doubles.scripted_server import json_reply, scripted_server

PUBLIC = "93.184.215.14"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_tunnel_goes_through_the_operators_proxy() -> None:
    async with scripted_server(lambda _: json_reply({})) as server, running_proxy(server.port) as proxy:
        address = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        reader, writer = await open_tunnel(PUBLIC, 443, policy=AddressPolicy(), proxy=address)
        writer.write(REQUEST)
        assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 200")
        writer.close()
        (head,) = proxy.heads
        assert head.startswith(f"CONNECT {PUBLIC}:443 ")
        assert "Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in head
        with pytest.raises(AddressRefused):
            await open_tunnel("10.0.0.1", 443, policy=AddressPolicy(), proxy=address)
        assert len(proxy.heads) == 1


async def test_a_proxy_that_refuses_opens_nothing() -> None:
    async with running_proxy(1) as proxy:
        proxy.status = 403
        with pytest.raises(NotReached, match="outbound proxy refused"):
            await open_tunnel(PUBLIC, 443, policy=AddressPolicy(), proxy=f"http://127.0.0.1:{proxy.port}")


async def test_this_machine_is_reached_past_the_proxy() -> None:
    async with scripted_server(lambda _: json_reply({})) as server, running_proxy(server.port) as proxy:
        policy, address = AddressPolicy(allow_loopback=True), f"http://127.0.0.1:{proxy.port}"
        reader, writer = await open_tunnel("127.0.0.1", server.port, policy=policy, proxy=address)
        writer.write(REQUEST)
        assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 200")
        writer.close()
        assert proxy.heads == []

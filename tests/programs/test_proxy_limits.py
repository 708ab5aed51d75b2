"""What one program can use up at its proxy: connections, names, and time without its password."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from providers.outbound.addresses import AddressPolicy
from server.programs import front as front_module
from server.programs.certificates import RunAuthority
from server.programs.front import Front, OtherHosts, ProgramCall
from server.programs.wire import Exchange
from server.proxy.program_hosts import ApiAddress, HostMap

PATIENCE = 60.0
ADDRESSES = (ApiAddress("one", "api", "https", "{name}.example.com", 443, ""),)


class Place:
    """A proxy, and how a program connects to it."""

    def __init__(self, folder: Path, *, most: int | None, names: int | None = None) -> None:
        self.is_open = True
        self.told: list[tuple[str, int, bool]] = []
        hosts = HostMap(ADDRESSES)
        self.authority = RunAuthority(hosts.domains, folder=folder, most=names)
        others = OtherHosts(
            are_allowed=False,
            policy=AddressPolicy(),
            told=lambda host, port, is_reached: self.told.append((host, port, is_reached)),
            are_ours=_all,
            is_open=lambda: self.is_open,
            why_not="no tool call is running",
        )
        self.front = Front(hosts, self.authority, _answer, others, most=most)
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.front.port)
        self.writers.append(writer)
        return reader

    async def ask(self, host: str, *, with_password: bool = True) -> bytes:
        """The first line of the answer to a CONNECT."""
        reader = await self.connect()
        url = urlsplit(self.front.url)
        given = b64encode(f"{url.username}:{url.password if with_password else 'x'}".encode()).decode()
        head = f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {given}\r\n\r\n"
        self.writers[-1].write(head.encode())
        async with asyncio.timeout(PATIENCE):
            return await reader.readline()


async def _all(addresses: object) -> bool:
    return True


async def _answer(call: ProgramCall, exchange: Exchange) -> None:
    raise AssertionError("no request is sent here")


@asynccontextmanager
async def proxy(folder: Path, *, most: int | None = None, names: int | None = None) -> AsyncGenerator[Place]:
    place = Place(folder, most=most, names=names)
    async with place.front.listen():
        yield place
        for writer in place.writers:
            writer.close()


async def ends(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(PATIENCE):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


@pytest.mark.parametrize("most", [3, None])
async def test_connections_are_bounded(tmp_path: Path, most: int | None) -> None:
    async with proxy(tmp_path, most=most) as place:
        opened = [await place.connect() for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            while len(place.front._running) < 3:
                await asyncio.sleep(0.01)
        if most is None:
            assert await place.ask("a.example.com") == b"HTTP/1.1 200 \r\n"
            return
        assert await ends(await place.connect())
        place.writers[0].close()
        assert await ends(opened[0])
        async with asyncio.timeout(PATIENCE):
            while len(place.front._running) > 2:
                await asyncio.sleep(0.01)
        assert await place.ask("a.example.com") == b"HTTP/1.1 200 \r\n"


async def test_a_connection_without_the_password_ends_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "_PASSWORD", 0.2)
    async with proxy(tmp_path) as place:
        assert await ends(await place.connect())
        assert (await place.ask("a.example.com", with_password=False)).startswith(b"HTTP/1.1 407")


async def test_the_password_is_masked_in_what_the_program_writes(tmp_path: Path) -> None:
    front = Place(tmp_path, most=None).front
    url = urlsplit(front.url)
    given = b64encode(f"{url.username}:{url.password}".encode())
    written = b"%s, Proxy-Authorization: Basic %s, another" % (front.url.encode(), given)
    assert front.mask_password(written) == b"http://run:***@127.0.0.1:0, Proxy-Authorization: Basic ***, another"


async def test_no_tunnel_is_opened_between_calls(tmp_path: Path) -> None:
    async with proxy(tmp_path) as place:
        place.is_open = False
        assert (await place.ask("a.example.com")).startswith(b"HTTP/1.1 403")
        assert place.told == [("a.example.com", 443, False)]
        assert not place.authority._contexts, "no certificate is made"
        place.is_open = True
        assert (await place.ask("a.example.com")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("named", ["a.example.com", "A.EXAMPLE.COM", "b.example.com"])
async def test_tls_is_for_the_host_of_the_tunnel(tmp_path: Path, named: str) -> None:
    async with proxy(tmp_path) as place:
        trust = ssl.create_default_context(cadata=place.authority.pem)
        trust.check_hostname = False  # only the proxy's own check matters here
        assert (await place.ask("a.example.com")).startswith(b"HTTP/1.1 200")
        writer = place.writers[-1]
        if named.lower() == "a.example.com":
            await writer.start_tls(trust, server_hostname=named)
            return
        with pytest.raises(OSError):  # an alert, or the end of the connection before the alert arrives
            await writer.start_tls(trust, server_hostname=named)


async def test_a_handshake_that_never_ends_holds_nothing_up(tmp_path: Path) -> None:
    async with proxy(tmp_path) as place:
        assert (await place.ask("a.example.com")).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(PATIENCE):
            await place.front.end_connections()
        assert not place.front._running


async def test_a_program_gets_certificates_for_so_many_hosts(tmp_path: Path) -> None:
    async with proxy(tmp_path, names=1) as place:
        place.authority.context("a.example.com")
        assert (await place.ask("b.example.com")).startswith(b"HTTP/1.1 403")
        assert (await place.ask("a.example.com")).startswith(b"HTTP/1.1 200")

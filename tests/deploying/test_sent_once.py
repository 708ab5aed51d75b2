"""A call to a provider whose vault breaks off is received once behind each proxy of `deploy/proxy`: it may have been
carried out."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx2
import pytest
import yaml

from server.http.guards import PROXY
from tests.deploying.test_proxies import need_program
from tests.generating.documentation import ROOT
from tests.support.network import proxies
from tests.support.network.proxies import HOST, Ports
from tests.support.network.tls import make_authority
from tests.support.processes import free_port

_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Vaults:
    """Two vaults that break off requests with `break` in their path after reading them, and count those."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.last = 0  # the one that received something last
        self.servers: list[asyncio.Server] = []

    async def serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if (length := _LENGTH.search(head)) is not None:
                    await reader.readexactly(int(length[1]))
                self.last = number
                line = head.split(b"\r\n", 1)[0].decode()
                if "break" in line:
                    self.received.append(line)
                    break
                writer.write(_OK)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def behind(name: str, folder: Path, vaults: Vaults) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of the proxy before these vaults."""
    async with AsyncExitStack() as stack:
        for number in range(2):
            server = await asyncio.start_server(partial(vaults.serve, number), "127.0.0.1", 0)
            stack.callback(server.close)
            vaults.servers.append(server)
        first, second = [one.sockets[0].getsockname()[1] for one in vaults.servers]
        ports = Ports(free_port(), free_port(), (first, second))
        authority = make_authority(folder, HOST)
        await stack.enter_async_context(proxies.proxy(name, folder, authority, ports))
        trust = ssl.create_default_context(cafile=str(authority.authority))
        http = await stack.enter_async_context(
            httpx2.AsyncClient(
                base_url=f"https://127.0.0.1:{ports.tls}",
                headers={"host": HOST},
                transport=httpx2.AsyncHTTPTransport(verify=trust),
                timeout=30,
            )
        )
        yield http


@pytest.fixture(params=sorted(proxies.MAKERS))
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    need_program(found)
    return found


async def send(http: httpx2.AsyncClient, method: str, path: str) -> int:
    """The status; 0 if the connection was closed instead."""
    body = b"{}" if method in {"PUT", "POST", "PATCH"} else None
    try:
        return (await http.request(method, path, content=body, extensions={"sni_hostname": HOST})).status_code
    except httpx2.RemoteProtocolError:
        return 0


async def until_served(http: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while await send(http, "GET", "/proxy/c/main/ready") != 200:
            await asyncio.sleep(0.1)


async def test_a_call_that_its_vault_breaks_off_is_received_once(name: str, tmp_path: Path) -> None:
    vaults = Vaults()
    async with behind(name, tmp_path, vaults) as http:
        for prefix in PROXY:
            for method in ("GET", "DELETE", "PUT", "POST", "PATCH"):
                await until_served(http)  # its connection is used again
                vaults.received.clear()
                assert await send(http, method, f"{prefix}c/main/break") != 200
                assert vaults.received == [f"{method} {prefix}c/main/break HTTP/1.1"]


async def test_a_request_that_its_vault_does_not_accept_goes_to_the_other(name: str, tmp_path: Path) -> None:
    """The twin. nginx can't tell such a request from others, so it doesn't do this with calls to providers."""
    vaults = Vaults()
    async with behind(name, tmp_path, vaults) as http:
        await until_served(http)
        vaults.servers[vaults.last].close()
        assert await send(http, "GET", "/next" if name == "nginx" else "/proxy/c/main/next") == 200


def test_the_ingress_of_the_chart_repeats_no_request() -> None:
    """ingress-nginx repeats a request at another pod by default, as nginx does above."""
    values = yaml.safe_load((ROOT / "deploy/helm/token-vault/values.yaml").read_text(encoding="utf-8"))
    assert values["ingress"]["annotations"]["nginx.ingress.kubernetes.io/proxy-next-upstream"] == "off"

"""Two vaults behind each proxy of `deploy/proxy`: agents, pages, streams, addresses, and a vault that stops.

nginx and HAProxy always run; Caddy and Traefik run if they are installed.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from starlette.types import ASGIApp, Receive, Scope, Send

from server.app import build_app, open_deployment
from server.settings import load_settings
from tests.conftest import unavailable
from tests.support.harness import RunningVault, free_socket, serve_app
from tests.support.network import proxies
from tests.support.network.front import REDIRECT, Front, sign_in_agent
from tests.support.network.proxies import HOST, Ports
from tests.support.network.tls import make_authority
from tests.support.processes import free_port

REQUIRED = {"nginx": "nginx-light", "haproxy": "haproxy"}
PER_ADDRESS = 4  # registrations an hour
CHECKS = 2  # failed checks after which a proxy takes out a stopping vault; one starts every second
FORGED = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}


@dataclass
class Estate(Front):
    """The two vaults, the requests of each, and how to stop the first."""

    name: str
    ports: Ports
    seen: tuple[Counter[str], Counter[str]]
    slowness: dict[str, float] = field(default_factory=dict[str, float])  # path -> seconds before it is answered
    stop_first: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve_first(self, listening: socket.socket) -> None:
        async with serve_app(self.count_requests(build_app(self.vault.deployment), self.seen[0]), listening):
            await self.stop_first.wait()
        self.stopped.set()

    def count_requests(self, app: ASGIApp, seen: Counter[str]) -> ASGIApp:
        async def count(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                seen[scope["path"]] += 1
                await asyncio.sleep(self.slowness.get(scope["path"], 0.0))
            await app(scope, receive, send)

        return count

    async def until_checked(self, times: int) -> None:
        """Wait until the proxy has checked both vaults this many more times."""
        before = [one["/readyz"] for one in self.seen]
        async with asyncio.timeout(60):
            while any(one["/readyz"] - old <= times for one, old in zip(self.seen, before, strict=True)):
                await asyncio.sleep(0.05)

    async def until_ready(self) -> None:
        """Wait until the proxy has read its configuration and reaches a vault."""
        async with asyncio.timeout(30), self.http() as http:
            while True:
                with suppress(httpx2.ConnectError):
                    if (await http.get("/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.1)

    async def end(self, running: asyncio.Task[None]) -> None:
        self.stop_first.set()
        await running

    @property
    def asks(self) -> bool:
        """Whether the proxy checks the vaults' health."""
        return self.name != "nginx"


def need_program(name: str) -> None:
    """Skip what needs a proxy that isn't installed; nginx and HAProxy must be, where the suite must be complete."""
    if proxies.program(name) is None:
        if name in REQUIRED:
            unavailable(f"proxy tests need: apt-get install {REQUIRED[name]}")
        pytest.skip(f"proxy tests of {name} need: its program on the PATH")


@pytest.fixture(scope="module", params=sorted(proxies.MAKERS))
async def estate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Estate]:
    name: str = request.param
    need_program(name)
    folder: Path = tmp_path_factory.mktemp(name)
    listening = (free_socket(), free_socket())
    ports = Ports(free_port(), free_port(), (listening[0].getsockname()[1], listening[1].getsockname()[1]))
    settings = load_settings(
        overrides={
            "server": {"public_url": f"https://{HOST}:{ports.tls}", "trusted_proxies": ["127.0.0.1"]},
            "registration": {"mode": "open", "per_address_hourly": PER_ADDRESS},
        }
    )
    authority = make_authority(folder, HOST)
    seen = (Counter[str](), Counter[str]())
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(open_deployment(settings, data=folder / "data")) for _ in range(2)
        ]
        made = Estate(RunningVault(settings.public_url, first), authority, name, ports, seen)

        running = asyncio.create_task(made.serve_first(listening[0]))
        stack.push_async_callback(made.end, running)
        await stack.enter_async_context(serve_app(made.count_requests(build_app(second), seen[1]), listening[1]))
        await made.vault.add_user("alice", is_admin=True)
        await stack.enter_async_context(proxies.proxy(name, folder, authority, ports))
        await made.until_ready()
        yield made


@pytest.fixture(scope="module")
async def tokens(estate: Estate) -> dict[str, str]:
    """Sign in an agent and its person through the proxy."""
    async with estate.person() as person:
        found = await sign_in_agent(estate, person)
        page = await person.open("/connections")
        assert page.status_code == 200
        assert "__Host-token_vault" in {cookie.name for cookie in person.http.cookies.jar}
        return found


async def test_an_agent_calls_over_streamable_http(estate: Estate, tokens: dict[str, str]) -> None:
    async with (
        estate.http(authorization=f"Bearer {tokens['access_token']}") as http,
        Client(streamable_http_client(f"{estate.url}/mcp", http_client=http)) as client,
    ):
        assert "slack_post" in {tool.name for tool in (await client.list_tools()).tools}


async def test_a_session_stays_with_the_vault_that_opened_it(estate: Estate, tokens: dict[str, str]) -> None:
    before = [one["/mcp"] for one in estate.seen]
    async with (
        estate.http(authorization=f"Bearer {tokens['access_token']}") as http,
        Client(streamable_http_client(f"{estate.url}/mcp", http_client=http), mode="legacy") as client,
    ):
        for _ in range(5):
            assert (await client.list_tools()).tools
    asked = [one["/mcp"] - earlier for one, earlier in zip(estate.seen, before, strict=True)]
    assert min(asked) == 0
    assert max(asked) >= 6


async def test_events_of_a_stream_arrive_as_they_are_sent(estate: Estate, tokens: dict[str, str]) -> None:
    def factory(
        headers: dict[str, str] | None = None, timeout: object = None, auth: object = None
    ) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=estate.way(headers), timeout=30)

    way = sse_client(
        f"{estate.url}/sse",
        headers={"authorization": f"Bearer {tokens['access_token']}"},
        httpx_client_factory=factory,
    )
    begun = time.monotonic()
    async with Client(way) as client:  # its first answer comes on a stream that never ends
        assert (await client.list_tools()).tools
    assert time.monotonic() - begun < 25


async def test_a_body_of_two_megabytes_reaches_the_vault(estate: Estate) -> None:
    async with estate.http() as http:
        answer = await http.post("/mcp", content=b" " * 2_000_000, headers={"content-type": "application/json"})
        assert answer.status_code == 401
        assert "resource_metadata=" in answer.headers["www-authenticate"]


async def test_clients_count_as_their_own_address_whatever_they_say(estate: Estate) -> None:
    async def register(address: str, headers: dict[str, str]) -> int:
        way = estate.way(headers, address=address)
        async with httpx2.AsyncClient(base_url=estate.url, transport=way, timeout=30) as http:
            body = {"client_name": "A", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"}
            return (await http.post("/register", json=body)).status_code

    forged = [FORGED | {"X-Forwarded-For": f"203.0.113.{n}"} for n in range(PER_ADDRESS + 1)]
    answers = [await register("127.0.0.5", one) for one in forged]
    assert answers == [201] * PER_ADDRESS + [429]
    assert await register("127.0.0.6", {}) == 201  # so the limit doesn't count the proxy's own address


async def test_browsers_that_speak_http_2_reach_the_vault_by_its_name(estate: Estate) -> None:
    curl = shutil.which("curl")
    if curl is None:
        unavailable("tests of HTTP/2 need: apt-get install curl")
    process = await asyncio.create_subprocess_exec(
        str(curl), "-s", "--http2", "--noproxy", "*", "--cacert", str(estate.authority.authority), "--max-time", "20",
        "--resolve", f"{HOST}:{estate.ports.tls}:127.0.0.1", "-w", " %{http_version} %{http_code}",
        f"{estate.url}/healthz", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert said.decode().endswith(" 2 200"), said


async def test_plain_http_leads_to_https(estate: Estate) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.get(f"http://127.0.0.1:{estate.ports.plain}/connections", headers={"host": HOST})
    assert answer.status_code in {301, 308}
    assert answer.headers["location"].startswith(f"https://{HOST}")


async def test_a_vault_that_is_slow_to_answer_its_checks_is_not_taken_out(estate: Estate) -> None:
    estate.slowness["/readyz"] = 1.5
    try:
        if estate.asks:
            await estate.until_checked(CHECKS + 1)
        async with estate.http() as http:
            assert (await http.get("/healthz")).status_code == 200
    finally:
        estate.slowness.clear()


# An earlier test's event stream may still be open behind a proxy when the first vault is stopped without waiting.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_no_call_fails_while_a_vault_stops(estate: Estate, tokens: dict[str, str]) -> None:
    """The last test here: it stops the first vault."""
    statuses: Counter[int] = Counter()
    done = asyncio.Event()

    async def call(address: str) -> None:
        way = estate.way({"authorization": f"Bearer {tokens['access_token']}"}, address=address)
        async with httpx2.AsyncClient(base_url=estate.url, transport=way, timeout=30) as http:
            while not done.is_set():
                statuses[(await http.get("/.well-known/oauth-authorization-server")).status_code] += 1
                await asyncio.sleep(0.05)

    def metadata_requests() -> list[int]:
        return [one["/.well-known/oauth-authorization-server"] for one in estate.seen]

    calling = [asyncio.create_task(call(f"127.0.0.{n}")) for n in range(2, 10)]
    async with asyncio.timeout(60):
        while not all(statuses[200] > 10 and count for count in metadata_requests()):  # both vaults get requests
            await asyncio.sleep(0.05)
    estate.vault.deployment.drain.begin()
    if estate.asks:
        await estate.until_checked(CHECKS)
        seen_by_first = metadata_requests()[0]
        await asyncio.sleep(0.5)
        assert metadata_requests()[0] == seen_by_first  # the proxy took it out before it closed
    estate.stop_first.set()
    async with asyncio.timeout(60):
        await estate.stopped.wait()
    at_the_end = statuses[200]
    async with asyncio.timeout(60):
        while statuses[200] < at_the_end + 20:
            await asyncio.sleep(0.05)
    done.set()
    await asyncio.gather(*calling)
    assert set(statuses) == {200}

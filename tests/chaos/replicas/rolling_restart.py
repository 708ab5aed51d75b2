"""Two servers on one PostgreSQL behind a round-robin proxy are restarted one after the other under load: no call fails.

The proxy asks `/readyz` ten times a second, opens a connection per request, and never sends a request twice.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from server.app import open_deployment
from server.oauth import tokens
from server.settings import load_settings
from tests.chaos.figures import Figure, Scale, quantile
from tests.chaos.world import (
    ROOT,
    Provider,
    World,
    environment,
    fresh_store,
    open_world,
    postgres_server,
    strict_provider,
)
from tests.conftest import Store
from tests.support.inspection import get_grant
from tests.support.processes import end, free_port
from vault.storage.database import Database

MODERN = "2026-07-28"
POLL = 0.1  # seconds between two checks of a server's readiness
PATIENCE = 40.0  # seconds for one call


async def http(port: int, request: bytes) -> bytes:
    """Send one request on its own connection; return everything that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


@dataclass
class Proxy:
    """A round-robin proxy over the servers that report being ready."""

    ports: list[int]
    ready: set[int] = field(default_factory=set)
    port: int = 0

    def __post_init__(self) -> None:
        self._turns = itertools.count()

    async def watch(self) -> None:
        asking = b"GET /readyz HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n" % self.port
        while True:
            for port in self.ports:
                try:
                    async with asyncio.timeout(2):
                        answer = await http(port, asking)
                except (OSError, TimeoutError):
                    answer = b""
                (self.ready.add if answer.startswith(b"HTTP/1.1 200") else self.ready.discard)(port)
            await asyncio.sleep(POLL)

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            request = head + await reader.readexactly(length)
            writer.write(await self._answer(request))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: bytes) -> bytes:
        ready = sorted(self.ready) or self.ports
        first = next(self._turns)
        for number in range(len(ready)):
            try:
                return await http(ready[(first + number) % len(ready)], request)
            except ConnectionRefusedError:
                continue
        return b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def proxy_before(ports: list[int]) -> AsyncGenerator[Proxy]:
    """The proxy on a free port."""
    proxy = Proxy(ports)
    listening = await asyncio.start_server(proxy.pass_on, "127.0.0.1", 0)
    proxy.port = int(listening.sockets[0].getsockname()[1])
    watching = asyncio.create_task(proxy.watch())
    try:
        yield proxy
    finally:
        watching.cancel()
        listening.close()
        await asyncio.gather(watching, return_exceptions=True)


@dataclass
class Replica:
    """A `serve` process with its own data directory, as on its own machine."""

    data: Path
    port: int
    process: asyncio.subprocess.Process | None = None
    code: Path = ROOT  # the program's folder; that of another release for an upgrade
    variables: dict[str, str] = field(default_factory=dict[str, str])  # of its environment

    async def start(self, proxy: Proxy) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "token_vault" if self.code == ROOT else "server", "serve", "--data", str(self.data),
            stderr=asyncio.subprocess.DEVNULL, cwd=self.code, env=environment() | self.variables,
        )  # fmt: skip
        async with asyncio.timeout(60):
            while self.port not in proxy.ready:
                assert self.process.returncode is None, "serve ended"
                await asyncio.sleep(POLL)

    async def stop(self) -> float:
        """Send SIGTERM; return the seconds until it ended."""
        assert self.process is not None
        started = time.monotonic()
        self.process.terminate()
        async with asyncio.timeout(60):
            assert await self.process.wait() == 0
        return time.monotonic() - started

    async def close(self) -> None:
        if self.process is not None:
            await end(self.process)


def configuration(provider: Provider, url: str, proxy: Proxy, port: int) -> str:
    """The config.toml of a replica."""
    lines = [
        "[server]", f"port = {port}", f'public_url = "http://localhost:{proxy.port}"', "drain_notice = 1",
        "[database]", f"url = {json.dumps(url)}", "[sandbox]", "loopback_upstreams = true",
        "[tools]", "calls_per_minute = 1000000",
    ]  # fmt: skip
    for name, section in provider.providers.items():
        plain = {key: value for key, value in section.items() if not isinstance(value, dict)}
        lines += [f"[providers.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in plain.items())]
        for key, value in section.items():
            if isinstance(value, dict):
                lines += [f"[providers.{name}.{key}]", *(f"{one} = {json.dumps(url)}" for one, url in value.items())]
    return "\n".join(lines) + "\n"


async def agent_token(world: World, proxy: Proxy) -> str:
    """An access token of the seeded agent for the vault behind the proxy."""
    (token,) = await mint_tokens(world.database, world.store, proxy, [world.principal["grant_id"]])
    return token


async def mint_tokens(database: Database, store: Store, proxy: Proxy, grant_ids: Iterable[str]) -> list[str]:
    """Access tokens for the vault behind the proxy, one for each grant."""
    public = f"http://localhost:{proxy.port}"
    async with database.transaction() as transaction:
        await transaction.execute("update grants set resource = :resource", {"resource": f"{public}/mcp"})
    settings = load_settings(
        overrides={
            "server": {"public_url": public},
            "database": {"url": store.url},
            "tokens": {"access_lifetime": 3600},
        }
    )
    made: list[str] = []
    async with open_deployment(settings, data=store.data) as deployment:
        for grant_id in grant_ids:
            grant = await get_grant(deployment.database, grant_id)
            assert grant is not None
            made.append(
                tokens.mint(deployment, grant, scopes=grant.scopes, audience=grant.resource, now=deployment.now())[0]
            )
    return made


def tool_call(proxy: Proxy, token: str, number: int) -> bytes:
    """One `tools/call slack_channels` of the stateless protocol."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "chaos", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    call = {"name": "slack_channels", "arguments": {}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": call}).encode()
    lines = [
        "POST /mcp HTTP/1.1", f"Host: localhost:{proxy.port}", "Connection: close", "Content-Type: application/json",
        "Accept: application/json, text/event-stream", f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: tools/call",
        "Mcp-Name: slack_channels", f"Content-Length: {len(body)}", f"Authorization: Bearer {token}",
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def one(proxy: Proxy, token: str, number: int) -> tuple[str, float]:
    """The outcome of one call, and its seconds."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await http(proxy.port, tool_call(proxy, token, number))
    except (OSError, TimeoutError) as error:
        return type(error).__name__, time.monotonic() - started
    head, _, body = answer.partition(b"\r\n\r\n")
    outcome = head.split(b" ", 2)[1].decode() if b" " in head else "nothing"
    if outcome == "200":
        answer = json.loads(body)
        result = answer.get("result", {})
        said = result.get("content") or answer
        outcome = "ok" if "structuredContent" in result and not result.get("isError") else json.dumps(said)[:300]
    return outcome, time.monotonic() - started


@asynccontextmanager
async def steady_calls(
    proxy: Proxy, *agents: str, rate: float
) -> AsyncGenerator[list[asyncio.Task[tuple[str, float]]]]:
    """Call at a steady rate with these tokens in turn, whether or not the earlier calls have returned."""
    calls: list[asyncio.Task[tuple[str, float]]] = []
    over = asyncio.Event()

    async def load() -> None:
        loop = asyncio.get_running_loop()
        first = loop.time()
        while not over.is_set():
            calls.append(asyncio.create_task(one(proxy, agents[len(calls) % len(agents)], len(calls) + 1)))
            await asyncio.sleep(max(0.0, first + len(calls) / rate - loop.time()))

    loading = asyncio.create_task(load())
    try:
        yield calls
    finally:
        over.set()
        await loading


async def tally(calls: list[asyncio.Task[tuple[str, float]]]) -> tuple[int, int, float]:
    """The number of calls, of failed calls, and the 99th percentile in milliseconds."""
    outcomes = await asyncio.gather(*calls)
    counted = Counter(outcome for outcome, _ in outcomes)
    failed = sum(count for outcome, count in counted.items() if outcome != "ok")
    if failed:
        print(counted, file=sys.stderr)
    return len(outcomes), failed, quantile([seconds for _, seconds in outcomes], 0.99) * 1000


@asynccontextmanager
async def replicas_of(
    provider: Provider, url: str, proxy: Proxy, *, key: Path, ports: list[int]
) -> AsyncGenerator[list[Replica]]:
    """Prepare replicas to start, each with its own data directory."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tvroll"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        replicas = [Replica(folder / str(port), port) for port in ports]
        for replica in replicas:
            replica.data.mkdir(mode=0o700)
            shutil.copy2(key, replica.data / "master.key")
            (replica.data / "config.toml").write_text(configuration(provider, url, proxy, replica.port))
            stack.push_async_callback(replica.close)
        yield replicas


async def restart_in_turn(world: World, *, restarts: int, rate: float) -> Figure:
    """Restart the replicas in turn; each time the token expires too, so that refreshes happen while one drains."""
    ports, stopping = [free_port(), free_port()], list[float]()
    async with proxy_before(ports) as proxy:
        token, key = await agent_token(world, proxy), world.store.data / "master.key"
        async with replicas_of(world.provider, world.store.url, proxy, key=key, ports=ports) as replicas:
            await asyncio.gather(*(replica.start(proxy) for replica in replicas))
            async with steady_calls(proxy, token, rate=rate) as calls:
                for number in range(restarts):
                    await world.expire()
                    replica = replicas[number % len(replicas)]
                    stopping.append(await replica.stop())
                    await replica.start(proxy)
            count, failed, slow = await tally(calls)
    twice = await world.spent_twice()
    return Figure(
        f"{restarts} rolling restarts of 2 servers on PostgreSQL at {rate:.0f} calls/s",
        f"{failed} of {count} calls fail, p99 {slow:.0f} ms, slowest stop {max(stopping):.1f} s; "
        f"{twice} spent tokens presented",
        "0 fail, 0 spent",
        failed == 0 and twice == 0,
    )


async def figures(scale: Scale) -> list[Figure]:
    """Restarts behind the proxy."""
    restarts, rate = (20, 25.0) if scale is Scale.FULL else (2, 10.0)
    async with (
        strict_provider() as provider,
        postgres_server() as server,
        fresh_store(server) as store,
        open_world(store, provider) as world,
    ):
        return [await restart_in_turn(world, restarts=restarts, rate=rate)]
